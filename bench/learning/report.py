"""The tables of docs/learning.md and the curves in docs/img, from stored results alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.learning.figures import Line, Panel, draw
from bench.learning.measures import Spread, area, mean_of_curve, pass_at, wrong_tails
from bench.learning.methods import METHODS
from bench.learning.records import Record, Results
from bench.learning.sweep import FAMILIES, MAIN_TASKS, NAMED
from bench.learning.tasks import TASKS
from bench.machine import ROOT, Machine
from bench.tables import markdown

DOCUMENT = ROOT / "docs" / "learning.md"
IMAGES = ROOT / "docs" / "img"
PASS_K = (1, 4, 8)
MISSING = "not run"


def write_report(results: Results, document: Path = DOCUMENT, images: Path = IMAGES) -> None:
    """Replaces the tables of the document and draws the pictures. Raises `ValueError` for a table without a place."""
    text = document.read_text(encoding="utf-8")
    for name, table in tables(results).items():
        text = replace_block(text, name, table)
    document.write_text(text, encoding="utf-8")
    for name, panels in pictures(results).items():
        draw(panels, images / f"learning-{name}.svg")


def tables(results: Results) -> dict[str, str]:
    """Every table, by the name of its place in the document."""
    return {name: make(results) for name, make in _TABLES.items()}


def replace_block(text: str, name: str, table: str) -> str:
    """Puts a table between `<!-- begin NAME -->` and `<!-- end NAME -->`. Raises `ValueError` without them."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"the document has no place for the table {name}")
    return pattern.sub(lambda _: f"{begin}\n{table}\n{end}", text)


def pictures(results: Results) -> dict[str, list[Panel]]:
    """Panels of every picture that has something to show, by the end of its file's name."""
    found = {task: _task_panels(results, task) for task in MAIN_TASKS} | {"claims": _claim_panels(results)}
    return {name: panels for name, panels in found.items() if panels}


def _pass_rates(results: Results) -> str:
    header = ["held-out pass rate", *(TASKS[task].title for task in MAIN_TASKS)]
    before = ["before", *(_cell(_of_task(results, task), lambda one: one.before) for task in MAIN_TASKS)]
    rows = [
        [f"`{method}`", *(_cell(results.of(task, method), lambda one: one.after) for task in MAIN_TASKS)]
        for method in (*NAMED, *FAMILIES)
    ]
    return markdown(header, [before, *rows])


def _areas(results: Results) -> str:
    header = ["mean over the run", *(TASKS[task].title for task in MAIN_TASKS)]
    rows = [
        [f"`{method}`", *(_cell(results.of(task, method), area) for task in MAIN_TASKS)]
        for method in (*NAMED, *FAMILIES)
    ]
    return markdown(header, rows)


def _more_on_arithmetic(results: Results) -> str:
    shown = [name for name in ("grpo", "opo", "gspo", "copo", "grpo-noisy") if results.of("arithmetic", name)]
    header = ["on sums", "held-out pass rate after", "mean over the run", "what it is"]
    return markdown(
        header,
        [
            [
                f"`{name}`",
                _cell(results.of("arithmetic", name), lambda one: one.after),
                _cell(results.of("arithmetic", name), area),
                METHODS[name].note,
            ]
            for name in shown
        ],
    )


def _silent(results: Results) -> str:
    header = ["two groups a rollout", "steps without signal", "of these with a gradient", "its mean norm", "pass rate"]
    rows = []
    for name in ("grpo-two-groups", "copo-two-groups"):
        runs = results.of("arithmetic", name)
        if runs:
            steps, moved = sum(one.silent.steps for one in runs), sum(one.silent.moved for one in runs)
            norm = Spread.of(one.silent.mean_gradient for one in runs).number(3)
            rows.append([f"`{name}`", str(steps), str(moved), norm, _cell(runs, lambda one: one.after)])
    return markdown(header, rows)


def _lengths(results: Results) -> str:
    header = ["dots behind wrong answers", "first tenth", "highest", "last tenth", "held-out pass rate after"]
    rows = []
    for name in ("grpo", "drGrpo", "linearLength"):
        runs = results.of("tails", name)
        if runs:
            tails = [wrong_tails(one) for one in runs]
            parts = (
                [mean_of_curve(curve[:2]) for curve in tails],
                [max(dots for dots in curve if dots is not None) for curve in tails],
                [mean_of_curve(curve[-2:]) for curve in tails],
            )
            cells = [Spread.of(part).number(1) for part in parts]
            rows.append([f"`{name}`", *cells, _cell(runs, lambda one: one.after)])
    return markdown(header, rows)


def _noise(results: Results) -> str:
    header = ["sums", "held-out pass rate after", "mean over the run", "what it is"]
    rows = []
    for name in ("clean-sgd", "noisy-sgd", "backwardCorrection", "grpo", "grpo-noisy"):
        runs = results.of("arithmetic", name)
        if runs:
            rows.append([f"`{name}`", _cell(runs, lambda one: one.after), _cell(runs, area), METHODS[name].note])
    return markdown(header, rows)


def _dynamic(results: Results) -> str:
    header = [
        "sums",
        "groups without signal",
        "in the last quarter",
        "tokens sampled",
        "pass rate",
        "mean over the run",
    ]
    rows = []
    for name in ("grpo", "dapo-static", "dapo"):
        runs = results.of("arithmetic", name)
        if runs:
            whole = Spread.of(mean_of_curve(one.curves["advantages/zero_groups"]) for one in runs).percent()
            last = Spread.of(mean_of_curve(one.curves["advantages/zero_groups"][15:]) for one in runs).percent()
            tokens = f"{Spread.of(one.tokens for one in runs).mean / 1000:.0f} k"
            rows.append([f"`{name}`", whole, last, tokens, _cell(runs, lambda one: one.after), _cell(runs, area)])
    return markdown(header, rows)


def _pass_at_k(results: Results) -> str:
    header = ["samples at temperature 1", *(f"pass@{k}" for k in PASS_K), "greedy"]
    rows = []
    for task in MAIN_TASKS:
        for name in ("grpo", "passAtK"):
            runs = [one for one in results.of(task, name) if one.probe is not None]
            if runs:
                cells = [Spread.of(pass_at(one.probe or {}, k) for one in runs).percent() for k in PASS_K]
                rows.append([f"{TASKS[task].title}, `{name}`", *cells, _cell(runs, lambda one: one.after)])
    return markdown(header, rows)


def _environment(results: Results) -> str:
    machine = Machine(**results.machine)
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    commits = sorted({one.commit for one in results})
    seconds = sum(one.cpu_seconds for one in results)
    return (
        f"{len(results.records)} runs, {seconds / 60:.0f} CPU minutes together. Machine: {machine}. {versions}, "
        f"float32, one thread. Commit{'s' if len(commits) > 1 else ''} {', '.join(commits)}."
    )


_TABLES: dict[str, Callable[[Results], str]] = {
    "environment": _environment,
    "pass-rates": _pass_rates,
    "areas": _areas,
    "more": _more_on_arithmetic,
    "silent": _silent,
    "lengths": _lengths,
    "noise": _noise,
    "dynamic": _dynamic,
    "pass-at-k": _pass_at_k,
}


def _task_panels(results: Results, task: str) -> list[Panel]:
    groups = (("named methods", NAMED), ("one of each family", ("grpo", *FAMILIES)))
    panels = [
        Panel(
            f"{TASKS[task].title}: {title}",
            "held-out pass rate",
            [_held_out(runs, name) for name in names if (runs := results.of(task, name))],
        )
        for title, names in groups
    ]
    return [panel for panel in panels if panel.lines]


def _claim_panels(results: Results) -> list[Panel]:
    tails = [
        _curve(runs, name, [wrong_tails(one) for one in runs])
        for name in ("grpo", "drGrpo", "linearLength")
        if (runs := results.of("tails", name))
    ]
    signal = [
        _curve(runs, name, [one.curves["advantages/zero_groups"] for one in runs])
        for name in ("grpo", "dapo-static", "dapo")
        if (runs := results.of("arithmetic", name))
    ]
    noise = [
        _held_out(runs, name)
        for name in ("clean-sgd", "noisy-sgd", "backwardCorrection")
        if (runs := results.of("arithmetic", name))
    ]
    silent = [
        _held_out(runs, name)
        for name in ("grpo-two-groups", "copo-two-groups")
        if (runs := results.of("arithmetic", name))
    ]
    panels = [
        Panel("tails: dots behind wrong answers", "mean dots", tails, limits=None),
        Panel("sums: groups without signal", "share of groups", signal),
        Panel("sums: unreliable verifier", "held-out pass rate", noise),
        Panel("sums: two groups a rollout", "held-out pass rate", silent),
    ]
    return [panel for panel in panels if panel.lines]


def _held_out(runs: Sequence[Record], label: str) -> Line:
    x = [step * runs[0].completions_per_step for step, _ in runs[0].held_out]
    return Line(label, x, [[rate for _, rate in one.held_out] for one in runs])


def _curve(runs: Sequence[Record], label: str, seeds: Sequence[Sequence[float | None]]) -> Line:
    """Stretches of a run at their ends."""
    completions = runs[0].held_out[-1][0] * runs[0].completions_per_step
    count = len(seeds[0])
    return Line(label, [completions * (index + 1) / count for index in range(count)], seeds)


def _of_task(results: Results, task: str) -> list[Record]:
    return [one for one in results if one.task == task]


def _cell(runs: Sequence[Record], value: Callable[[Record], float]) -> str:
    """Mean and range in percent, with the number of runs where it is not that of all seeds."""
    if not runs:
        return MISSING
    spread = Spread.of(value(one) for one in runs)
    text = f"{100 * spread.mean:.1f} %" if spread.low == spread.high else spread.percent()
    alone = {1: ", one seed", 2: ", two seeds"}
    return text + alone.get(len({one.seed for one in runs}), "")
