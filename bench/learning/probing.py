"""Samples of every held-out prompt from a trained model: what pass@k is computed from."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from plumbline_trainer.configuration import config_of_manifest
from plumbline_trainer.modeling.loading import load_policy, select_device
from plumbline_trainer.rollout.engine import Engine
from plumbline_trainer.rollout.limits import limits_of
from plumbline_trainer.tasks.data_sets import load_data_sets, open_renderer
from plumbline_trainer.tasks.rlvr import stop_tokens
from plumbline_trainer.tasks.rlvr_data import load_prompts, open_pool, open_scorer, spec_of
from plumbline_trainer.tasks.rlvr_metrics import correct
from plumbline_trainer.tasks.sampling import Sampler, Wanted

PURPOSE = "probe of held-out prompts"
"""Names the random numbers, which no other samples use."""


def probe_held_out(document: dict[str, Any], samples: int) -> dict[str, Any]:
    """How many of `samples` completions are right for each held-out prompt, with the model at the job's output.

    Sampling, limits and verifiers are the job's own. `right_of_prompts[c]` counts the prompts of which c samples are
    right.
    """
    trained = {**document["spec"], "model": {**document["spec"]["model"]}}
    trained["model"]["source"] = {"path": {"path": str(Path(document["spec"]["output"]["path"]).resolve())}}
    config = config_of_manifest({**document, "spec": trained}, "probe")
    spec = spec_of(config)
    renderer = open_renderer(config)
    _, held_out = load_data_sets(config, partial(load_prompts, spec=spec, renderer=renderer))
    assert held_out is not None
    device = select_device()
    model = load_policy(config.paths.model, dtype=spec.model.dtype, device=device, activation_checkpointing=False)
    limits = limits_of(
        spec.rollout.sampling,
        renderer.tokenizer,
        stop_tokens(model, renderer, held_out),
        max_tokens=spec.training.max_completion_tokens,
        max_batch_size=spec.rollout.max_batch_size,
    )
    engine = Engine(model, renderer.tokenizer, limits)
    wanted = [Wanted(row, row, 0, samples, held_out.prompt_ids[row]) for row in range(len(held_out.rows))]
    with open_pool(config) as pool:
        sampler = Sampler(
            spec, engine, open_scorer(config, pool, device), renderer.tokenizer, held_out.rows, lambda: None
        )
        candidates = sampler.sample(wanted, PURPOSE, 0)
        right = correct(spec, sampler.score(candidates)).view(len(wanted), samples).sum(dim=1)
    return {"samples": samples, "right_of_prompts": right.bincount(minlength=samples + 1).tolist()}
