"""The data block of PreferenceJob: one source or several, what is left out, what is made of the rows."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from plumbline_api.base import ApiModel
from plumbline_api.methods.pairing_choice import PairingChoice
from plumbline_api.rules import Rule, field, has
from plumbline_api.sources import Dataset, FileData

LIMIT_PLACE = "{limit}"
"""Where the number of words stands in the text of a length instruction."""


class MixedDataset(Dataset):
    """One data set of several, with its share of an epoch."""

    name: str = Field(
        min_length=1,
        max_length=40,
        pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$",
        description="Name of the source; stands before file and line in messages.",
    )
    weight: float = Field(
        gt=0,
        le=1e6,
        description="Share of the rows of an epoch, relative to the other sources' weights. An epoch has as many rows as all sources together; a source whose share is larger than its file is repeated, of one whose share is smaller each epoch uses another part.",
    )


class Filters(ApiModel):
    """Rows that are left out, and counted in status.data by reason."""

    drop_equal_texts: bool = Field(
        False, description="Drop pairs whose completions are equal; false refuses the job, naming the rows."
    )
    drop_duplicates: bool = Field(
        False, description="Drop rows whose prompt and completions are those of an earlier row of the same source."
    )
    min_prompt_tokens: int | None = Field(
        None, ge=1, le=1_048_576, description="Drop rows whose rendered prompt is shorter."
    )
    min_completion_tokens: int | None = Field(
        None,
        ge=1,
        le=1_048_576,
        description="Drop rows with a shorter completion; the token that ends a completion counts.",
    )
    max_length_ratio: float | None = Field(
        None,
        ge=1,
        le=1e6,
        description="Drop rows whose longest completion has more than so many times the tokens of the shortest.",
    )


class LengthInstruction(ApiModel):
    """Asks for a length in some prompts, and lets the completion win that keeps to it (LIFT: Yuan et al. 2024, arXiv:2406.17744)."""

    rules: ClassVar = (
        Rule(
            field("text").matches(r"\{limit\}"),
            "text must contain {limit}, where the number of words is put",
            path="text",
        ),
    )

    share: float = Field(0.5, gt=0, le=1, description="Share of the training rows that get an instruction.")
    deciding_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of the instructions whose limit lies between the two lengths, so that only the shorter completion keeps it and wins; the others leave room for both, and the label stays.",
    )
    text: str = Field(
        "Answer the following instruction using " + LIMIT_PLACE + " words or less.",
        min_length=7,
        max_length=1024,
        description="The instruction; it is put before the prompt, or before the last message of the user, with an empty line between.",
    )


class PreferenceJobData(FileData):
    """The rows that the job learns from and is measured on."""

    rules: ClassVar = (
        Rule(
            has("train").differs(has("mixture")),
            "exactly one of train and mixture must be set",
            path="train",
        ),
    )

    mixture: list[MixedDataset] | None = Field(
        None,
        min_length=2,
        max_length=16,
        description="Several data sets to learn from, each with a weight, in place of train.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    pairing: PairingChoice | None = Field(
        None, description="Make pairs of rows with several completions: exactly one method. Default: rows are pairs."
    )
    filters: Filters = Field(
        default_factory=Filters, description="Rows that are left out, and counted in status.data by reason."
    )
    length_instruction: LengthInstruction | None = Field(
        None,
        description="Asks for a length in some prompts of the training rows, and lets the completion win that keeps to it.",
    )
