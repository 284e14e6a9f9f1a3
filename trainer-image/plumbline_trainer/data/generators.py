"""Prompts that are made and not read: from the parameters of a generator to rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from plumbline_api.methods.prompt_generator import PromptGenerator
from plumbline_api.sources import DatasetColumns
from plumbline_trainer.data.files import FileRow
from plumbline_trainer.registry import Registry

Generate = Callable[[Any, DatasetColumns, int | None], list[FileRow]]
"""(parameters, names of the columns, most rows) -> rows, whose places name the generator and the row's number."""

GENERATORS: Registry[Generate] = Registry(PromptGenerator)
