"""Curves as SVG pictures; the same results give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from cycler import cycler

matplotlib.use("svg")

from matplotlib import pyplot

PANEL = (4.2, 2.9)
"""Width and height of a panel in inches."""

_STYLE: Any = {
    "svg.hashsalt": "plumbline",
    "svg.fonttype": "none",
    "path.simplify": True,
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "legend.fontsize": 7,
    "axes.prop_cycle": cycler(
        # Okabe and Ito's colours, which the colour-blind tell apart
        color=["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999"]
    ),
}


@dataclass(frozen=True)
class Line:
    """One method: its seeds' curves at the same places."""

    label: str
    x: Sequence[float]
    seeds: Sequence[Sequence[float | None]]

    def points(self) -> list[tuple[float, float, float, float]]:
        """x, mean, lowest and highest, where every seed has a value."""
        found = []
        for x, values in zip(self.x, zip(*self.seeds, strict=True), strict=True):
            known = [value for value in values if value is not None]
            if len(known) == len(values):
                found.append((x, sum(known) / len(known), min(known), max(known)))
        return found


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    y: str
    lines: list[Line]
    x: str = "completions learnt from"
    limits: tuple[float, float] | None = (0.0, 1.0)
    """Of the y axis; None takes what the lines need."""


def draw(panels: Sequence[Panel], path: Path, columns: int = 2) -> None:
    """Draws the mean of the seeds as a line and their range as a band."""
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context(_STYLE):
        figure, axes = pyplot.subplots(
            rows, columns, figsize=(PANEL[0] * columns, PANEL[1] * rows), squeeze=False, layout="constrained"
        )
        for place, panel in zip(axes.flat, panels, strict=False):
            _draw_panel(place, panel)
        for place in axes.flat[len(panels) :]:
            place.set_axis_off()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
        pyplot.close(figure)
    text = path.read_text(encoding="utf-8")
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")


def _draw_panel(place: Any, panel: Panel) -> None:
    for line in panel.lines:
        points = line.points()
        x, mean, low, high = ([point[part] for point in points] for part in range(4))
        [drawn] = place.plot(x, mean, linewidth=1.2, label=line.label)
        place.fill_between(x, low, high, color=drawn.get_color(), alpha=0.15, linewidth=0)
    place.set_title(panel.title)
    place.set_xlabel(panel.x)
    place.set_ylabel(panel.y)
    place.set_xlim(left=0)
    if panel.limits is not None:
        place.set_ylim(*panel.limits)
    place.legend(loc="best")
