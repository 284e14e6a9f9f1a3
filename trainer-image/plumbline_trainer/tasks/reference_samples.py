"""Completions drawn from the reference at the start of a job, for objectives that learn against them."""

from __future__ import annotations

from torch import nn

from plumbline_api.contract import TrainerConfig
from plumbline_api.rlvr_job import Sampling
from plumbline_trainer.data.batches import TokenSequence
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.modeling.reference import open_reference
from plumbline_trainer.rollout.engine import Engine
from plumbline_trainer.rollout.limits import Limits
from plumbline_trainer.rollout.requests import Request
from plumbline_trainer.rollout.sampling import Stream
from plumbline_trainer.tasks.preference_data import PreferenceData, spec_of

AT_ONCE = 64
"""Completions that are generated together."""


def add_reference_samples(
    config: TrainerConfig, policy: nn.Module, tokenizer: object, data: PreferenceData, ranks: Ranks, purpose: str
) -> None:
    """Appends `samples_per_prompt` completions of its prompt to the sequences of every row of `data`.

    They are drawn at temperature 1 from the reference, which is the policy as it is now unless `spec.reference` names
    another model. A completion depends on the model, its prompt and (seed, `purpose`, row, sample) alone, so a run
    that is resumed gets the same ones. Prompts are dealt out over the ranks.
    """
    spec = spec_of(config)
    drawn: int = spec.objective.value.samples_per_prompt
    model = policy if config.paths.reference is None else open_reference(config, policy).model
    ends = {row[0].completion_ids[-1] for row in data.sequences}
    limits = Limits(spec.training.max_completion_tokens, AT_ONCE, frozenset(ends & set(tokenizer.all_special_ids)))  # type: ignore[attr-defined]
    engine = Engine(model, tokenizer, limits)  # type: ignore[arg-type]
    mine = range(ranks.rank, len(data.sequences), ranks.world_size)
    requests = [
        Request(
            data.sequences[row][0].prompt_ids,
            [Stream(spec.training.seed, purpose, 0, row, sample) for sample in range(drawn)],
        )
        for row in mine
    ]
    found = engine.generate(requests, Sampling(), ranks.stop.raise_if_requested)
    shares = ranks.gather(
        {row: [completion.tokens for completion in completions] for row, completions in zip(mine, found, strict=True)}
    )
    for row, completions in ((row, tokens) for share in shares for row, tokens in share.items()):
        prompt = data.sequences[row][0].prompt_ids
        data.sequences[row].extend(TokenSequence(prompt, tokens) for tokens in completions)
