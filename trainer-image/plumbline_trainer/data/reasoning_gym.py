"""Problems of the library reasoning-gym as rows of prompts.

The library makes problem i of a task from (seed + i), so neighbouring seeds would share almost all problems. Its seed
is therefore a digest of ours.
"""

from __future__ import annotations

from typing import Any

from plumbline_api.methods.prompt_generator import ReasoningGym
from plumbline_api.sources import DatasetColumns
from plumbline_trainer.data.files import FileRow
from plumbline_trainer.data.generators import GENERATORS
from plumbline_trainer.data.seeds import derive_seed
from plumbline_trainer.failures import ConfigError
from plumbline_trainer.rewards.verifiers.reasoning_gym import COLUMN, open_task

SEEDS = 2**31
"""Seeds that every task takes: some of them use random numbers that are seeded by 32 bits."""

_OWN_PARAMETERS = ("seed", "size")


@GENERATORS.implements(ReasoningGym)
def reasoning_gym_rows(parameters: ReasoningGym, columns: DatasetColumns, max_rows: int | None) -> list[FileRow]:
    """`size` problems of the task, or the first `max_rows` of them. The answer is left out where the task has none.

    Raises `ConfigError` for an image without the library, a task that it does not have, and parameters that the task
    refuses.
    """
    for name in _OWN_PARAMETERS:
        if name in parameters.config:
            raise ConfigError(f"generator.reasoningGym.config.{name} must not be set: reasoningGym.{name} says it")
    seed = derive_seed(parameters.seed, "reasoning-gym", parameters.task) % SEEDS
    origin = {"task": parameters.task, "seed": seed, "size": parameters.size, "config": parameters.config}
    count = min(parameters.size, max_rows or parameters.size)
    try:
        dataset = open_task(origin)
        problems = [dataset[index] for index in range(count)]
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"generator.reasoningGym needs the Python package reasoning-gym, which this image lacks ({error}); "
            "docs/data.md says how to add it"
        ) from error
    except Exception as error:  # tasks refuse parameters by whatever they like, assertions among them
        problem = str(error) or type(error).__name__
        raise ConfigError(f"generator.reasoningGym: the task {parameters.task} cannot be made: {problem}") from error
    return [_row(problem, {**origin, "index": index}, columns) for index, problem in enumerate(problems)]


def _row(problem: dict[str, Any], origin: dict[str, Any], columns: DatasetColumns) -> FileRow:
    values = {columns.prompt: problem["question"], COLUMN: origin}
    if problem["answer"] is not None:
        values[columns.answer] = str(problem["answer"])
    return FileRow(f"reasoning-gym {origin['task']}:{origin['index'] + 1}", values)
