"""The two building blocks of every API type: `ApiModel` and one-of-by-key choices.

A choice is written as in core Kubernetes (volumes, probes): an object with exactly one key, whose name selects the
member and whose value holds the member's parameters:

    objective: {dpo: {beta: 0.1}}

Members register themselves by subclassing their family, so that adding a method means adding one class:

    class Hinge(PreferenceObjective, key="hinge"):
        '''Sequence likelihood calibration (Zhao et al. 2023, arXiv:2305.10425, eq. 2).'''
        beta: float = Field(0.1, gt=0, le=100, description="...")

A `Choice` of the family then is the one-of model of all its members, and the CRD generator, the API reference and the
trainer's registries all read it from there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationInfo, model_validator
from pydantic.alias_generators import to_camel, to_snake
from pydantic.fields import FieldInfo

from plumbline_api.rules import Rule

IN_CLUSTER = "in_cluster"
"""Key of the validation context: true applies the rules that hold only for objects in a cluster."""


class Refused(ValueError):
    """An object breaks rules that span its fields: pairs of a path relative to the object and a message."""

    def __init__(self, findings: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(message for _, message in findings))
        self.findings = findings


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

    @classmethod
    def fixed_fields(cls) -> tuple[str, ...]:
        """Wire names of the fields that cannot change once the object is created."""
        return ()

    @classmethod
    def fixed_field_message(cls, name: str) -> str:
        """What a user reads who tries to change a fixed field."""
        return f"{name} is fixed once the job is created; delete the job and create it anew to change it"

    @model_validator(mode="after")
    def _list_keys_are_unique(self) -> Self:
        findings: list[tuple[str, str]] = []
        for name, alias, keys in _keyed_lists(type(self)):
            seen: set[tuple[Any, ...]] = set()
            for index, item in enumerate(getattr(self, name) or ()):
                value = tuple(getattr(item, key) for key in keys.values())
                if value in seen:
                    named = " and ".join(f"{key} {part!r}" for key, part in zip(keys, value, strict=True))
                    findings.append((f"{alias}[{index}]", f"{named} is used twice"))
                seen.add(value)
        if findings:
            raise Refused(findings)
        return self

    @model_validator(mode="after")
    def _cross_field_rules_hold(self, info: ValidationInfo) -> Self:
        if not type(self).rules:
            return self
        in_cluster = bool(info.context and info.context.get(IN_CLUSTER))
        document = self.to_document()
        broken = [
            (rule.path, rule.message)
            for rule in type(self).rules
            if (in_cluster or not rule.only_in_cluster) and not rule.holds(document)
        ]
        if broken:
            raise Refused(broken)
        return self

    def to_document(self) -> dict[str, Any]:
        """The wire form: camelCase keys, unset optionals left out, JSON types only."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Family(ApiModel):
    """Base of a family of methods. Direct subclasses are families; their subclasses with a `key` are members."""

    member_key: ClassVar[str] = ""
    _members: ClassVar[dict[str, type[Any]]]

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
    def members(cls) -> Iterator[type[Self]]:
        """The family's members in the order in which they were declared."""
        yield from cls._members.values()


class Choice(ApiModel):
    """A one-of-by-key object: exactly one member of a family is set.

    A subclass names its family, and gets one optional field for each member declared so far:

        class OptimizerChoice(Choice, family=Optimizer):
            '''The update rule: exactly one optimizer.'''

    `only` leaves out the members for which it is false.
    """

    family: ClassVar[type[Family]] = Family

    def __init_subclass__(
        cls, family: type[Family] | None = None, only: Callable[[Any], bool] | None = None, **kwargs: Any
    ) -> None:
        super().__init_subclass__(**kwargs)

    @classmethod
    def __pydantic_init_subclass__(
        cls, family: type[Family] | None = None, only: Callable[[Any], bool] | None = None, **kwargs: Any
    ) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if family is None:
            raise TypeError(f"{cls.__name__} must name its family: class {cls.__name__}(Choice, family=...)")
        cls.family = family
        for member in filter(only, family.members()):
            optional: Any = member | None
            cls.model_fields[member.member_key] = FieldInfo(
                annotation=optional,
                default=None,
                alias=member.member_key,
                description=first_paragraph(member.__doc__),
            )
        cls.model_rebuild(force=True)

    @model_validator(mode="after")
    def _exactly_one_member(self) -> Self:
        present = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(present) != 1:
            known = ", ".join(type(self).model_fields)
            found = "none is set" if not present else "these are set: " + ", ".join(present)
            raise Refused([("", f"exactly one of [{known}] must be set, but {found}")])
        return self

    @classmethod
    def of(cls, key: str, **parameters: Any) -> Self:
        """The choice of one member by its wire name, with its parameters or their defaults."""
        return cls.model_validate({key: parameters})

    @property
    def key(self) -> str:
        """The wire name of the member that is set, e.g. `dpo`."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def value(self) -> Any:
        """The parameters of the member that is set."""
        return getattr(self, self.key)


@functools.cache
def _keyed_lists(model: type[ApiModel]) -> tuple[tuple[str, str, dict[str, str]], ...]:
    """Field and wire name of the lists of a model whose items keys tell apart, and the keys: wire name to field."""
    return tuple(
        (name, declared.alias or name, {key: to_snake(key) for key in keys})
        for name, declared in model.model_fields.items()
        if (keys := list_map_keys(declared.json_schema_extra))
    )


def list_map_keys(schema_extra: Any) -> list[str]:
    """The fields that tell the items of a list apart, from a field's `json_schema_extra`; empty without any."""
    return schema_extra.get("x-kubernetes-list-map-keys", []) if isinstance(schema_extra, dict) else []


def first_paragraph(doc: str | None) -> str:
    return " ".join((doc or "").strip().split("\n\n")[0].split())
