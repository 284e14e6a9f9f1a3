"""The queries of the chart's dashboards as Grafana would send them, and what a Prometheus answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.prometheus import Prometheus, Series

DASHBOARDS = Path(__file__).resolve().parents[1] / "plumbline" / "dashboards"

ONLY_WITH_A_GPU = "plumbline_trainer_gpu_memory"
"""What a run without a GPU cannot show."""


@dataclass(frozen=True)
class PanelQuery:
    """One query of one panel."""

    dashboard: str
    panel: str
    expression: str
    legend: str
    instant: bool

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.panel}: {self.expression}"

    def filled_in(self, variables: Mapping[str, str]) -> str:
        """The expression with the dashboard's variables replaced."""
        text = self.expression
        for name, value in variables.items():
            text = text.replace(f"${name}", value)
        return text


def dashboards() -> dict[str, dict[str, Any]]:
    """The checked-in dashboards by file name without suffix."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}


def panels(dashboard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """All panels but the rows."""
    for panel in dashboard["panels"]:
        yield from panels(panel) if panel["type"] == "row" else [panel]


def queries() -> list[PanelQuery]:
    """Every query of every panel."""
    return [
        PanelQuery(name, panel["title"], target["expr"], target.get("legendFormat", ""), bool(target.get("instant")))
        for name, dashboard in dashboards().items()
        for panel in panels(dashboard)
        for target in panel["targets"]
    ]


@dataclass(frozen=True)
class Answers:
    """A Prometheus that has seen a run, the run's time, and what the variables of each dashboard are."""

    prometheus: Prometheus
    start: float
    end: float
    variables: Mapping[str, Mapping[str, str]]
    rate_interval: str

    @property
    def step(self) -> float:
        """Seconds between two values."""
        return max(1.0, (self.end - self.start) / 200)

    def of(self, query: PanelQuery) -> Series:
        """The series of a query over the run, those without a number left out."""
        expression = query.filled_in({"__rate_interval": self.rate_interval, **self.variables.get(query.dashboard, {})})
        found = self.prometheus.query_range(expression, self.start, self.end, self.step)
        return [series for series in found if any(value != "NaN" for _, value in series["values"])]
