"""Verifiers of structured output."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from plumbline_api.methods.verifiers.family import Verifier
from plumbline_api.rules import Rule, has


class JsonSchema(Verifier, key="jsonSchema"):
    """Format reward: 1 if the completion is a JSON document that the schema accepts (JSON Schema, draft 2020-12 unless the schema names another), else 0 or the share of its fields that are right."""

    needs_answer = False

    rules: ClassVar = (
        Rule(has("schema").differs(has("schemaColumn")), "exactly one of schema and schemaColumn must be set"),
    )

    schema_document: dict[str, Any] | None = Field(
        None,
        alias="schema",
        min_length=1,
        max_length=256,
        description="The schema. References lead to places within it; nothing is fetched.",
    )
    schema_column: str | None = Field(
        None,
        min_length=1,
        max_length=128,
        description="Column with the schema of each row, as an object or as JSON text.",
    )
    reward: Literal["valid", "share"] = Field(
        "valid",
        description="valid: 1 or 0. share: of an object's declared and required fields, and of the document as a whole, the share that the schema accepts; 0 for what is no JSON.",
    )
    allow_fence: bool = Field(
        True, description="Accept a document inside one Markdown code block with nothing around it."
    )
