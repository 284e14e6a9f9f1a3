"""What both kinds of job read: the tokenizer and its model's limits, the data sets, a checkpoint's word on rows."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from plumbline_api.contract import TrainerConfig
from plumbline_api.sources import Dataset
from plumbline_trainer.data.rendering import Fitted, Renderer
from plumbline_trainer.failures import DataError
from plumbline_trainer.modeling.loading import check_context, load_configuration, load_tokenizer, resolve_directory

PREFLIGHT_ROWS = 2000
"""Rows of each file that pre-flight renders; all rows are checked for their shape, and rendered at the start."""

Loaded_co = TypeVar("Loaded_co", covariant=True)
Loaded = TypeVar("Loaded")


class Load(Protocol[Loaded_co]):
    """Reads one data set of the spec: its file or URI, its block, its name in `spec.data`, and how many rows count."""

    def __call__(self, location: str, dataset: Dataset, *, field: str, max_rows: int | None) -> Loaded_co: ...


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
    return Renderer(load_tokenizer(directory, config.spec.model.chat_template))


def template_warnings(renderer: Renderer) -> list[str]:
    """What the user should know about a tokenizer without a chat template."""
    return [] if renderer.has_template else ["the tokenizer has no chat template: prompts are used as raw text"]


def load_data_sets(config: TrainerConfig, load: Load[Loaded]) -> tuple[Loaded, Loaded | None]:
    """The training set and, where the job has one, the held-out set, which `evaluation.maxRows` limits."""
    data = config.spec.data
    train = load(config.paths.train, data.train, field="train", max_rows=None)
    if config.paths.evaluation is None or data.evaluation is None:
        return train, None
    limit = config.spec.evaluation.max_rows
    return train, load(config.paths.evaluation, data.evaluation, field="evaluation", max_rows=limit)


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
            "data.train has changed since the checkpoint was saved: "
            f"it has {rows} rows ({digest}), it had {state.get('rows')} ({state.get('data')}); "
            "restore the file or start a new job"
        )
