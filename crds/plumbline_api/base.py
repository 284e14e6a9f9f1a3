"""The two building blocks of every API type: `ApiModel` and one-of-by-key choices.

A choice is written as in core Kubernetes (volumes, probes): an object with exactly one key, whose name selects the
member and whose value holds the member's parameters:

    objective: {dpo: {beta: 0.1}}

Members register themselves by subclassing their family, so that adding a method means adding one class:

    class Hinge(PreferenceObjective, key="hinge"):
        '''Sequence likelihood calibration (Zhao et al. 2023, arXiv:2305.10425, eq. 2).'''
        beta: float = Field(0.1, gt=0, le=100, description="...")

`Family.choice()` then builds the one-of model from all members, and the CRD generator, the API reference and the
trainer's registries all read it from there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator
from pydantic.alias_generators import to_camel

from plumbline_api.rules import Rule


class ApiModel(BaseModel):
    """Base of every API type: camelCase on the wire, unknown fields refused, cross-field `rules` enforced."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        use_attribute_docstrings=False,
        validate_default=True,
        allow_inf_nan=False,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()
    """Cross-field rules of this type. Each is enforced here, as CEL in the CRD, and again in the trainer."""

    @model_validator(mode="after")
    def _cross_field_rules_hold(self) -> Self:
        if type(self).rules:
            document = self.to_document()
            broken = [rule.message for rule in type(self).rules if not rule.holds(document)]
            if broken:
                raise ValueError("; ".join(broken))
        return self

    def to_document(self) -> dict[str, Any]:
        """The wire form: camelCase keys, unset optionals left out, JSON types only."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Choice(ApiModel):
    """A one-of-by-key object: exactly one member is set."""

    @model_validator(mode="after")
    def _exactly_one_member(self) -> Self:
        present = [self._wire_name(name) for name in type(self).model_fields if getattr(self, name) is not None]
        if len(present) != 1:
            known = ", ".join(sorted(self._wire_name(name) for name in type(self).model_fields))
            found = "none is set" if not present else "these are set: " + ", ".join(present)
            raise ValueError(f"exactly one of [{known}] must be set, but {found}")
        return self

    @classmethod
    def _wire_name(cls, field_name: str) -> str:
        return cls.model_fields[field_name].alias or field_name

    @property
    def key(self) -> str:
        """The wire name of the member that is set, e.g. `dpo`."""
        return next(self._wire_name(name) for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def value(self) -> Any:
        """The parameters of the member that is set."""
        return next(value for name in type(self).model_fields if (value := getattr(self, name)) is not None)


class Family(ApiModel):
    """Base of a family of methods. Direct subclasses are families; their subclasses with a `key` are members."""

    member_key: ClassVar[str] = ""
    _members: ClassVar[dict[str, type[Family]]]

    def __init_subclass__(cls, key: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)

    @classmethod
    def __pydantic_init_subclass__(cls, key: str = "", **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if Family in cls.__bases__:
            cls._members = {}
            return
        if not key:
            return
        if not cls.__doc__:
            raise TypeError(f"{cls.__name__} needs a docstring: it becomes the field's description in the CRD")
        if key in cls._members:
            raise TypeError(f"{cls._members[key].__name__} and {cls.__name__} both claim the key {key!r}")
        cls.member_key = key
        cls._members[key] = cls

    @classmethod
    def members(cls) -> Iterator[type[Family]]:
        """The family's members in the order in which they were declared."""
        yield from cls._members.values()

    @classmethod
    def choice(cls, name: str, doc: str) -> type[Choice]:
        """The one-of model over all members declared so far; call it once, after the last member."""
        fields: dict[str, Any] = {
            member.member_key: (
                member | None,
                Field(None, alias=member.member_key, description=_first_paragraph(member.__doc__)),
            )
            for member in cls.members()
        }
        return create_model(name, __base__=Choice, __doc__=doc, __module__=cls.__module__, **fields)


def _first_paragraph(doc: str | None) -> str:
    return " ".join((doc or "").strip().split("\n\n")[0].split())
