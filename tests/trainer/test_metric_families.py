"""Training metrics -> Prometheus families: every metric of the code has one, and only one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import plumbline_trainer
from plumbline_api.status import MetricValue
from plumbline_trainer.reporting.families import (
    RUN_FAMILIES,
    TRAINING_FAMILIES,
    UNNAMED,
    placed,
    training_samples,
)

PACKAGE = Path(plumbline_trainer.__file__).parent
LOOP = {"loss", "gradient_norm", "learning_rate", "padding_share"}
HELD_OUT = {"win_accuracy", "label_accuracy"}
SHAPING_PARTS = "shaping/"
"""Shaping steps name their parts without the prefix that `shaping.application` puts before them."""


def _is_metric(node: ast.expr) -> bool:
    function = node.func if isinstance(node, ast.Call) else None
    return (isinstance(function, ast.Name) and function.id == "Metric") or (
        isinstance(function, ast.Attribute) and function.attr == "mean_of"
    )


def _name(node: ast.expr | None, constants: dict[str, str]) -> str | None:
    """The metric's name; a part that is only known when it runs becomes `x`."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "x" for part in node.values)
    if isinstance(node, ast.Name):
        return constants.get(node.id)
    return None


def _names_of(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    constants = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            yield from (name for key, value in pairs if _is_metric(value) and (name := _name(key, constants)))
        elif isinstance(node, ast.DictComp) and _is_metric(node.value) and (name := _name(node.key, constants)):
            yield name
        elif isinstance(node, ast.Assign) and _is_metric(node.value):
            places = (target.slice for target in node.targets if isinstance(target, ast.Subscript))
            yield from (name for place in places if (name := _name(place, constants)))


def metrics_of_the_code() -> set[str]:
    found = set(LOOP | HELD_OUT)
    for path in sorted(PACKAGE.rglob("*.py")):
        prefix = SHAPING_PARTS + "step/" if path.parent.name == "shaping" and path.stem != "application" else ""
        found |= {prefix + name for name in _names_of(path)}
    return found


def test_the_search_finds_what_the_code_measures() -> None:
    found = metrics_of_the_code()
    assert {"rewards/margin", "reward_errors/x", "clip_share/dual", "policy_entropy", "off_policy/weight"} <= found
    assert {"curriculum/x/x", "shaping/step/passed", "advantages/zero_groups", "kl"} <= found
    assert len(found) > 90


@pytest.mark.parametrize("metric", sorted(metrics_of_the_code()))
def test_every_metric_of_the_code_has_a_family(metric: str) -> None:
    family, _ = placed(metric)
    assert family is not UNNAMED, f"{metric} needs a row in reporting/families.py"


@pytest.mark.parametrize("metric", sorted(metrics_of_the_code()))
def test_rows_of_the_table_do_not_depend_on_their_order_but_for_catch_alls(metric: str) -> None:
    matching = [family for family in TRAINING_FAMILIES if family.match(metric) is not None]
    exact = [family for family in matching if metric in family.patterns]
    assert len(exact) <= 1
    assert matching[0] is (exact[0] if exact else matching[0])


def test_labels_come_from_the_parts_of_a_name() -> None:
    assert placed("rewards/chosen") == (placed("rewards/rejected")[0], ("chosen",))
    assert [placed(name)[1] for name in ("rewards/accuracy", "rewards/accuracy_desirable")] == [("",), ("desirable",)]
    assert placed("reward/mean")[0].name == "reward_mean"
    assert placed("reward/length") == (placed("reward/format")[0], ("length",))
    assert placed("curriculum/value/hard") == (placed("curriculum/kept")[0], ("value/hard",))
    assert placed("brand_new/figure") == (UNNAMED, ("brand_new/figure",))


def test_training_held_out_and_first_values_are_one_family() -> None:
    metrics = [
        MetricValue(name="evaluation/accuracy", value=0.75, first=0.25),
        MetricValue(name="accuracy", value=0.5, first=None),
    ]
    ((family, samples),) = training_samples(metrics).items()
    assert family.shown_name == "plumbline_trainer_accuracy_ratio"
    assert samples == [(("evaluation",), 0.75), (("first_evaluation",), 0.25), (("training",), 0.5)]


def test_no_name_is_there_twice() -> None:
    names = [family.shown_name for family in (*RUN_FAMILIES, *(row.family for row in TRAINING_FAMILIES), UNNAMED)]
    assert len(set(names)) == len(names)
