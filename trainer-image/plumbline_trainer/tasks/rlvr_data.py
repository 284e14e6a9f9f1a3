"""The inputs of an RLVR job: prompts, read, checked, rendered and fitted to the limits, and the reward code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from plumbline_api.contract import TrainerConfig
from plumbline_api.rlvr_job import RLVRJobSpec
from plumbline_api.sources import PromptSet, RowSet
from plumbline_api.status import DataStatus, RowCount
from plumbline_trainer.data.batches import TokenSequence
from plumbline_trainer.data.files import digest
from plumbline_trainer.data.filters import OVERLONG, TRUNCATED
from plumbline_trainer.data.generators import GENERATORS
from plumbline_trainer.data.rendering import Limits, Renderer, fit
from plumbline_trainer.data.rows import PromptRow, Rows, listed, load_rows, shape_rows
from plumbline_trainer.failures import DataError
from plumbline_trainer.modeling.loading import load_configuration, resolve_directory
from plumbline_trainer.rewards.components import in_processes, open_batch_components
from plumbline_trainer.rewards.pool import VerifierPool
from plumbline_trainer.rewards.rehearsal import rehearse
from plumbline_trainer.rewards.scoring import Scorer
from plumbline_trainer.rollout.cache import RowCache
from plumbline_trainer.tasks.data_sets import (
    PREFLIGHT_ROWS,
    DataSource,
    load_data_sets,
    open_renderer,
    overlong_warnings,
    template_warnings,
)
from plumbline_trainer.tasks.rlvr_columns import check_columns, check_held_out_columns
from plumbline_trainer.tasks.task import InputReport


@dataclass(frozen=True)
class PromptData:
    """Prompts that fit the limits."""

    rows: list[PromptRow]
    prompt_ids: list[list[int]]
    rows_in_file: int
    digest: str
    """Digest of the file's rows, before any was dropped."""

    warnings: list[str]
    """What the user should know, such as the number of dropped rows."""

    status: DataStatus
    """How many rows were read, used, dropped and truncated."""


def load_prompts(
    sources: Sequence[DataSource],
    spec: RLVRJobSpec,
    renderer: Renderer,
    *,
    training: bool,
    max_rows: int | None = None,
    max_rendered: int | None = None,
) -> PromptData:
    """Reads a data set, which is one file, or makes it; renders all rows, or the first `max_rendered`.

    Raises `DataError` naming file and line, also for rows without the answer that a reward component needs, and
    `ConfigError` where a generator cannot make its rows.
    """
    [source] = sources
    found = _rows_of(source, max_rows)
    _require_answers(found, source.dataset, spec)
    rows = found.rows[:max_rendered]
    prompt_ids = renderer.prompt_ids([row.prompt for row in rows], [row.place for row in rows])
    limits = Limits(spec.training.max_prompt_tokens, spec.training.max_completion_tokens, spec.data.overlong)
    fitted = fit(rows, [[TokenSequence(ids, ())] for ids in prompt_ids], limits)
    warnings = overlong_warnings(fitted, len(rows), "prompts", source.field)
    kept = [list(sequence.prompt_ids) for [sequence] in fitted.sequences]
    status = DataStatus(
        rows_read=len(found.rows),
        rows_used=len(kept),
        dropped=[RowCount(reason=OVERLONG, rows=fitted.dropped)] if fitted.dropped else [],
        changed=[RowCount(reason=TRUNCATED, rows=fitted.truncated)] if fitted.truncated else [],
    )
    return PromptData(fitted.rows, kept, len(found.rows), found.digest, warnings, status)


def _rows_of(source: DataSource, max_rows: int | None) -> Rows:
    dataset = source.dataset
    if isinstance(dataset, PromptSet) and dataset.generator is not None:
        import plumbline_trainer.data.reasoning_gym  # noqa: F401  (registers the generator)

        limits = [limit for limit in (dataset.max_rows, max_rows) if limit is not None]
        made = GENERATORS.of(dataset.generator.value)(
            dataset.generator.value, dataset.columns, min(limits, default=None)
        )
        rows, _ = shape_rows(made, dataset.columns, "prompts")
        return Rows(rows, digest(made), len(made))
    return load_rows(source.location, dataset, "prompts", max_rows=max_rows)


def _require_answers(found: Rows, dataset: RowSet, spec: RLVRJobSpec) -> None:
    needing = [reward.name for reward in spec.rewards if reward.verifier.value.needs_answer]
    if not needing:
        return
    column = dataset.columns.answer
    problems = [
        f"{row.place}: {column} is missing; reward {needing[0]} needs it" for row in found.rows if row.answer is None
    ]
    if problems:
        raise DataError(listed(problems, "rows without an answer"))


def check_inputs(config: TrainerConfig) -> InputReport:
    """Refuses what `build` or the first steps would refuse, as far as that can be known without reading weights."""
    spec = spec_of(config)
    with open_pool(config) as pool:
        RowCache(load_configuration(resolve_directory(config.paths.model)))
        renderer = open_renderer(config)
        load = partial(load_prompts, spec=spec, renderer=renderer, max_rendered=PREFLIGHT_ROWS)
        train, evaluation = load_data_sets(config, load)
        warnings = template_warnings(renderer) + train.warnings + (evaluation.warnings if evaluation else [])
        check_columns(spec, train.rows)
        if evaluation is not None:
            check_held_out_columns(spec, evaluation.rows)
        for location in config.paths.reward_models.values():
            from plumbline_trainer.rewards.reward_model import check_reward_model

            check_reward_model(resolve_directory(location))
        warnings += rehearse(spec.rewards, [*train.rows, *(evaluation.rows if evaluation else ())], pool)
    return InputReport(train.rows_in_file, evaluation.rows_in_file if evaluation else 0, warnings)


def open_pool(config: TrainerConfig) -> VerifierPool:
    """Processes that know the job's reward components."""
    rewards = in_processes(spec_of(config).rewards)
    return VerifierPool(rewards, {name: Path(file) for name, file in config.paths.rewards.items()})


def open_scorer(config: TrainerConfig, pool: VerifierPool, device: torch.device) -> Scorer:
    """What scores completions with all components: those of `pool`, judges, and reward models on `device`.

    Raises `ModelError` and `ConfigError` for a component that cannot be opened.
    """
    rewards = spec_of(config).rewards
    return Scorer(rewards, pool, open_batch_components(rewards, config.paths.reward_models, device))


def spec_of(config: TrainerConfig) -> RLVRJobSpec:
    """The spec of an RLVRJob."""
    if config.rlvr is None:
        raise ValueError("the configuration is not one of an RLVRJob")
    return config.rlvr


def uses_reference(spec: RLVRJobSpec) -> bool:
    """Whether a reference is compared with the policy."""
    return spec.kl is not None or spec.objective.value.needs_reference
