"""A method is one class: it registers itself, and everything else follows from it."""

from __future__ import annotations

import pytest
from pydantic import Field

from plumbline_api.base import Choice, Family
from plumbline_api.messages import InvalidSpec, validate
from plumbline_crds.schema import structural_schema


class Shape(Family):
    """A family for these tests."""


class Round(Shape, key="round"):
    """A circle (Euclid, Elements, book III)."""

    radius: float = Field(1.0, gt=0, le=9, description="Distance from the centre.")


class Angular(Shape, key="angular"):
    """A polygon."""

    corners: int = Field(ge=3, le=99, description="Number of corners.")


class ShapeChoice(Choice, family=Shape):
    """Exactly one shape."""


def test_members_appear_in_the_order_of_declaration() -> None:
    assert list(ShapeChoice.model_fields) == ["round", "angular"]
    assert [member.member_key for member in Shape.members()] == ["round", "angular"]


def test_key_and_value_are_the_member_that_is_set() -> None:
    choice = validate(ShapeChoice, {"round": {}})
    assert (choice.key, choice.value) == ("round", Round(radius=1.0))
    assert ShapeChoice.of("angular", corners=4).value == Angular(corners=4)


def test_the_schema_carries_parameters_bounds_and_the_paper() -> None:
    schema = structural_schema(ShapeChoice)
    assert schema["properties"]["round"] == {
        "description": "A circle (Euclid, Elements, book III).",
        "type": "object",
        "properties": {
            "radius": {
                "description": "Distance from the centre.",
                "type": "number",
                "default": 1.0,
                "format": "double",
                "minimum": 0,
                "exclusiveMinimum": True,
                "maximum": 9,
            }
        },
    }
    assert schema["properties"]["angular"]["required"] == ["corners"]


def test_two_members_cannot_claim_one_key() -> None:
    with pytest.raises(TypeError, match="both claim the key 'round'"):

        class Ball(Shape, key="round"):
            """Also round."""


def test_a_member_needs_a_description() -> None:
    with pytest.raises(TypeError, match="needs a docstring"):

        class Flat(Shape, key="flat"):
            pass


def test_a_choice_needs_a_family() -> None:
    with pytest.raises(TypeError, match="must name its family"):

        class Anything(Choice):
            """No family."""


def test_errors_name_the_member() -> None:
    with pytest.raises(InvalidSpec, match=r"^angular\.corners: 2 is below the minimum of 3$"):
        validate(ShapeChoice, {"angular": {"corners": 2}})
