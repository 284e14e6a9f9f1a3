"""Cross-field rules, written once and enforced as CEL (API server) and in Python (operator, trainer).

A rule is a small expression over the fields of the object it is attached to:

    Rule(
        (field("rollout.groupSize") > 1).unless(has("advantage.none")),
        "rollout.groupSize must be at least 2 for a group baseline",
    )

`Rule.cel` renders the expression for `x-kubernetes-validations`; `Rule.holds` evaluates the same expression on the
wire form of the object (a dict after defaulting). Both follow CEL's meaning on the subset used here: numbers,
strings, booleans, lists, `has`, arithmetic, comparison, membership and the boolean connectives. Reading a field
that is absent is an error in CEL; here every such read must be guarded by `has`, and `holds` raises `KeyError`
otherwise, so that a missing guard shows in the first test and not on a server.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Document = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Expression:
    """A node: its CEL text and its value on a document."""

    cel: str
    evaluate: Callable[[Document], Any]

    def __gt__(self, other: Any) -> Expression:
        return _binary(self, ">", other, lambda a, b: a > b)

    def __ge__(self, other: Any) -> Expression:
        return _binary(self, ">=", other, lambda a, b: a >= b)

    def __lt__(self, other: Any) -> Expression:
        return _binary(self, "<", other, lambda a, b: a < b)

    def __le__(self, other: Any) -> Expression:
        return _binary(self, "<=", other, lambda a, b: a <= b)

    def __add__(self, other: Any) -> Expression:
        return _binary(self, "+", other, lambda a, b: a + b)

    def __mul__(self, other: Any) -> Expression:
        return _binary(self, "*", other, lambda a, b: a * b)

    def __mod__(self, other: Any) -> Expression:
        return _binary(self, "%", other, lambda a, b: a % b)

    def __and__(self, other: Expression) -> Expression:
        return Expression(f"({self.cel} && {other.cel})", lambda d: self.evaluate(d) and other.evaluate(d))

    def __or__(self, other: Expression) -> Expression:
        return Expression(f"({self.cel} || {other.cel})", lambda d: self.evaluate(d) or other.evaluate(d))

    def __invert__(self) -> Expression:
        return Expression(f"!{self.cel}", lambda d: not self.evaluate(d))

    def equals(self, other: Any) -> Expression:
        return _binary(self, "==", other, lambda a, b: a == b)

    def differs(self, other: Any) -> Expression:
        return _binary(self, "!=", other, lambda a, b: a != b)

    def is_in(self, values: list[Any]) -> Expression:
        return _binary(self, "in", values, lambda a, b: a in b)

    def length(self) -> Expression:
        """CEL `size()`: characters of a string, items of a list, keys of a map."""
        return Expression(f"size({self.cel})", lambda d: len(self.evaluate(d)))

    def matches(self, pattern: str) -> Expression:
        """CEL `matches()`: the pattern, in the syntax that RE2 and Python share, occurs in the string."""
        return Expression(
            f"{self.cel}.matches({json.dumps(pattern)})", lambda d: re.search(pattern, self.evaluate(d)) is not None
        )

    def starts_with(self, prefix: str) -> Expression:
        return Expression(f"{self.cel}.startsWith({json.dumps(prefix)})", lambda d: self.evaluate(d).startswith(prefix))

    def when(self, condition: Expression) -> Expression:
        """Must hold where `condition` does."""
        return Expression(
            f"(!({condition.cel}) || {self.cel})", lambda d: not condition.evaluate(d) or self.evaluate(d)
        )

    def unless(self, condition: Expression) -> Expression:
        """Must hold where `condition` does not."""
        return Expression(f"({condition.cel} || {self.cel})", lambda d: condition.evaluate(d) or self.evaluate(d))


def _binary(left: Expression, operator: str, right: Any, apply: Callable[[Any, Any], Any]) -> Expression:
    literal = right if isinstance(right, Expression) else _literal(right)
    return Expression(f"({left.cel} {operator} {literal.cel})", lambda d: apply(left.evaluate(d), literal.evaluate(d)))


def _literal(value: Any) -> Expression:
    return Expression(json.dumps(value), lambda _: value)


def field(path: str) -> Expression:
    """The value at a dotted path below the object; the path must be guarded by `has` where it is optional."""

    def read(document: Document) -> Any:
        value: Any = document
        for name in path.split("."):
            value = value[name]
        return value

    return Expression(f"self.{path}", read)


def has(path: str) -> Expression:
    """Whether every step of a dotted path is present. Renders one `has()` a step, as CEL needs."""
    names = path.split(".")
    prefixes = [".".join(names[: depth + 1]) for depth in range(len(names))]

    def present(document: Document) -> bool:
        value: Any = document
        for name in names:
            if not isinstance(value, Mapping) or name not in value:
                return False
            value = value[name]
        return True

    rendered = " && ".join(f"has(self.{prefix})" for prefix in prefixes)
    return Expression(f"({rendered})" if len(names) > 1 else rendered, present)


def any_of(expressions: list[Expression]) -> Expression:
    """At least one holds; false for an empty list."""
    if len(expressions) < 2:
        return expressions[0] if expressions else _literal(False)
    alternatives = " || ".join(expression.cel for expression in expressions)
    return Expression(f"({alternatives})", lambda d: any(expression.evaluate(d) for expression in expressions))


def some(path: str, variable: str, condition: Callable[[Callable[[str], Expression]], Expression]) -> Expression:
    """At least one item of the list at `path` meets a condition on the item's own fields (CEL `exists`).

    `condition` gets a function that reads a field of the item: `some("rewards", "r", lambda item: item("weight") > 0.0)`.
    """
    items = field(path)

    def item_field(name: str) -> Expression:
        return Expression(f"{variable}.{name}", lambda item: item[name])

    inner = condition(item_field)
    return Expression(
        f"{items.cel}.exists({variable}, {_without_outer_parentheses(inner.cel)})",
        lambda document: any(inner.evaluate(item) for item in items.evaluate(document)),
    )


def some_has(path: str, variable: str, name: str) -> Expression:
    """At least one item of the list at `path` has the field `name` (CEL `exists`).

    `name` may be a dotted path of which only the last step is optional.
    """
    items = field(path)
    return Expression(
        f"{items.cel}.exists({variable}, has({variable}.{name}))",
        lambda document: any(_holds(item, name) for item in items.evaluate(document)),
    )


def every_has(path: str, variable: str, name: str) -> Expression:
    """As `some_has`, of every item (CEL `all`); true for an empty list."""
    items = field(path)
    return Expression(
        f"{items.cel}.all({variable}, has({variable}.{name}))",
        lambda document: all(_holds(item, name) for item in items.evaluate(document)),
    )


def _holds(item: Document, name: str) -> bool:
    *parents, last = name.split(".")
    for parent in parents:
        item = item[parent]
    return last in item


@dataclass(frozen=True)
class Rule:
    """A cross-field rule: the expression that must hold and what the user reads when it does not."""

    expression: Expression
    message: str
    path: str = ""
    """Field that the message is about, relative to the object (CEL `fieldPath`); empty for the object itself."""
    only_in_cluster: bool = False
    """Whether the rule is about objects in a cluster, so that the trainer running by itself does not apply it."""

    @property
    def cel(self) -> str:
        return _without_outer_parentheses(self.expression.cel)

    def holds(self, document: Document) -> bool:
        return bool(self.expression.evaluate(document))


def _without_outer_parentheses(text: str) -> str:
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth = 0
    for index, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0 and index < len(text) - 1:
            return text
    return text[1:-1]
