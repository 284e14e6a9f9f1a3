"""What both kinds of job read: the tokenizer and its model's limits, the data sets, a checkpoint's word on rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from transformers import PreTrainedTokenizerBase as Tokenizer

from plumbline_api.contract import TrainerConfig
from plumbline_api.methods.shaping.progress import Progress
from plumbline_api.sources import Dataset, PromptSet
from plumbline_trainer.data.rendering import Fitted, Renderer
from plumbline_trainer.failures import ConfigError, DataError
from plumbline_trainer.modeling.loading import check_context, load_configuration, load_tokenizer, resolve_directory

PREFLIGHT_ROWS = 2000
"""Rows of each file that pre-flight renders; all rows are checked for their shape, and rendered at the start."""

Loaded_co = TypeVar("Loaded_co", covariant=True)
Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class DataSource:
    """One file of a data set, or one set of prompts that a generator makes."""

    location: str
    """Path or URI; empty where a generator makes the rows."""

    dataset: Dataset | PromptSet
    field: str
    """Where it stands in `spec.data`."""

    name: str = ""
    """Its name among several."""

    weight: float = 1.0
    """Its share of an epoch, relative to the others."""


class Load(Protocol[Loaded_co]):
    """Reads a data set: its files, whether it is the training set, and how many rows count."""

    def __call__(self, sources: Sequence[DataSource], *, training: bool, max_rows: int | None) -> Loaded_co: ...


def open_renderer(config: TrainerConfig) -> Renderer:
    """The job's tokenizer and chat template; reads no weights.

    Raises `ConfigError` where the job's sequences are longer than the model, or its reference, has positions for,
    and `ModelError` where configuration or tokenizer cannot be loaded.
    """
    directory = resolve_directory(config.paths.model)
    training = config.spec.training
    for location in filter(None, (config.paths.model, config.paths.reference)):
        configuration = load_configuration(resolve_directory(location))
        check_context(configuration, location, training.max_prompt_tokens, training.max_completion_tokens)
    tokenizer = load_tokenizer(directory, config.spec.model.chat_template)
    if forced := _forced_tokens(config, tokenizer):
        limits = training.max_prompt_tokens, training.max_completion_tokens
        check_context(load_configuration(directory), config.paths.model, *limits, forced)
    return Renderer(tokenizer)


def _forced_tokens(config: TrainerConfig, tokenizer: Tokenizer) -> int:
    """Most tokens that an answer forced behind a completion has, with what forces it; 0 where none is."""
    steps = [] if config.rlvr is None else [choice.value for choice in config.rlvr.shaping]
    most = config.spec.training.max_completion_tokens
    return max(
        (
            len(tokenizer.encode(step.forced_answer, add_special_tokens=False)) + min(step.max_probe_tokens, most)
            for step in steps
            if isinstance(step, Progress)
        ),
        default=0,
    )


def template_warnings(renderer: Renderer) -> list[str]:
    """What the user should know about a tokenizer without a chat template."""
    return [] if renderer.has_template else ["the tokenizer has no chat template: prompts are used as raw text"]


def load_data_sets(config: TrainerConfig, load: Load[Loaded]) -> tuple[Loaded, Loaded | None]:
    """The training set and, where the job has one, the held-out set, which `evaluation.maxRows` limits."""
    data, paths = config.spec.data, config.paths
    train = load(training_sources(config), training=True, max_rows=None)
    if data.evaluation is None or (paths.evaluation is None and not is_generated(data.evaluation)):
        return train, None
    held_out = DataSource(paths.evaluation or "", data.evaluation, "evaluation")
    return train, load([held_out], training=False, max_rows=config.spec.evaluation.max_rows)


def is_generated(dataset: Dataset | PromptSet) -> bool:
    """Whether its rows are made and not read."""
    return isinstance(dataset, PromptSet) and dataset.generator is not None


def training_sources(config: TrainerConfig) -> list[DataSource]:
    """The files of the training rows. Raises `ConfigError` where the configuration has no path for one of them."""
    data, paths = config.spec.data, config.paths
    if data.train is not None:
        if paths.train is None and not is_generated(data.train):
            raise ConfigError("paths.train must be set: it is the file of data.train")
        return [DataSource(paths.train or "", data.train, "train")]
    mixture = (config.preference.data.mixture if config.preference else None) or []
    for part in mixture:
        if part.name not in paths.mixture:
            raise ConfigError(f"paths.mixture.{part.name} must be set: it is the file of that source of data.mixture")
    return [
        DataSource(paths.mixture[part.name], part, f"mixture.{part.name}", part.name, part.weight) for part in mixture
    ]


def overlong_warnings(fitted: Fitted, rows: int, what: str, field: str) -> list[str]:
    """How many of `rows` rows (or prompts: `what`) of `data.<field>` the length limits changed."""
    counts = {"dropped": fitted.dropped, "truncated": fitted.truncated}
    return [
        f"data.{field}: {count} of {rows} {what} are too long and were {fate}"
        for fate, count in counts.items()
        if count
    ]


def rows_state(digest: str, rows: int) -> dict[str, Any]:
    """What a checkpoint keeps of the training rows: steps are positions in these rows and in no others."""
    return {"data": digest, "rows": rows}


def refuse_other_rows(state: dict[str, Any], digest: str, rows: int) -> None:
    """Raises `DataError` where a checkpoint was trained on other rows than the present ones."""
    if (state.get("data"), state.get("rows")) != (digest, rows):
        raise DataError(
            "the training data has changed since the checkpoint was saved: "
            f"it has {rows} rows ({digest}), it had {state.get('rows')} ({state.get('data')}); "
            "restore the files or start a new job"
        )
