"""Pictures of the dashboards for the documentation: `python scripts/draw_dashboards.py`, beside a running `make demo`.

A Prometheus with the chart's own configuration watches the demo's jobs; when they have ended, every panel's query is
asked for the time that they took and drawn with matplotlib in the place and with the unit that the dashboard says.
"""

from __future__ import annotations

import math
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import dates, ticker
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from charts.dashboards.queries import Answers, PanelQuery, dashboards  # noqa: E402
from cluster.paths import kubeconfig_path  # noqa: E402
from cluster.prometheus import Prometheus  # noqa: E402
from scripts.chart_prometheus import configuration  # noqa: E402

FOLDER = ROOT / "docs" / "img"
JOBS = {"preference-job": "dpo", "rlvr-job": "grpo"}
NAMESPACE = "plumbline-demo"
SCRAPE_SECONDS = 2
DEADLINE_SECONDS = 1800

ROW_HEIGHT = 1
"""Height of a row's title, in the grid's units."""
COLUMN_INCHES, UNIT_INCHES = 0.62, 0.3
MARGIN = 0.35
MOST_LEGENDS = 8
BACKGROUND, PANEL, TEXT, GRID = "#111217", "#181b1f", "#ccccdc", "#2c3235"
COLORS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#c8f2c2", "#ffa6b0", "#ffee52")

Unit = Callable[[float], str]


def _seconds(value: float) -> str:
    for size, letter in ((86400, "d"), (3600, "h"), (60, "min")):
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g} s" if abs(value) >= 1 or value == 0 else f"{1000 * value:.3g} ms"


def _bytes(value: float) -> str:
    for power, name in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if abs(value) >= 1024**power:
            return f"{value / 1024**power:.3g} {name}"
    return f"{value:.3g} B"


UNITS: dict[str, Unit] = {
    "s": _seconds,
    "bytes": _bytes,
    "percentunit": lambda value: f"{100 * value:.3g} %",
    "ops": lambda value: f"{value:.3g}/s",
    "reqps": lambda value: f"{value:.3g}/s",
    "sci": lambda value: f"{value:.2g}",
}


def shown(unit: str, value: float) -> str:
    """A number in one of Grafana's units."""
    return UNITS.get(unit, lambda number: f"{number:.4g}")(value)


def legend(query: PanelQuery, labels: Mapping[str, str]) -> str:
    """The name of a series."""
    return re.sub(r"\{\{(\w+)\}\}", lambda place: labels.get(place[1], ""), query.legend) or "value"


class Board:
    """One dashboard's picture."""

    def __init__(self, name: str, dashboard: Mapping[str, Any], answers: Answers) -> None:
        self._name = name
        self._answers = answers
        self._panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
        self._rows = [panel for panel in dashboard["panels"] if panel["type"] == "row"]
        self._title = dashboard["title"]
        self._height = max(one["gridPos"]["y"] + one["gridPos"]["h"] for one in dashboard["panels"]) + 2

    def draw(self, path: Path) -> None:
        """Write it as PNG."""
        self._figure = plt.figure(
            figsize=(24 * COLUMN_INCHES, self._height * UNIT_INCHES), facecolor=BACKGROUND, dpi=75
        )
        self._figure.text(0.01, 1 - 1.2 / self._height, self._title, color=TEXT, fontsize=14, weight="bold")
        for row in self._rows:
            top = 1 - (row["gridPos"]["y"] + 2 + ROW_HEIGHT * 0.7) / self._height
            self._figure.text(0.01, top, row["title"], color=TEXT, fontsize=11, weight="bold")
        for panel in self._panels:
            self._draw(panel)
        self._figure.savefig(path, facecolor=BACKGROUND)
        plt.close(self._figure)

    def _draw(self, panel: Mapping[str, Any]) -> None:
        place = panel["gridPos"]
        left, width = place["x"] / 24, place["w"] / 24
        top, height = 1 - (place["y"] + 2) / self._height, place["h"] / self._height
        gap = (0.004, MARGIN * 0.3 / self._height)
        self._figure.patches.append(
            plt.Rectangle(
                (left + gap[0], top - height + gap[1]),
                width - 2 * gap[0],
                height - 2 * gap[1],
                transform=self._figure.transFigure,
                facecolor=PANEL,
                edgecolor=GRID,
                zorder=-1,
            )
        )
        self._figure.text(left + 0.008, top - 1.0 / self._height, panel["title"], color=TEXT, fontsize=8.5)
        kind = panel["type"]
        inner = ({"timeseries": 0.035, "bargauge": 0.08}.get(kind, 0.012), 1.4 / self._height)
        axes = self._figure.add_axes(
            (
                left + inner[0],
                top - height + (0.2 if kind in ("stat", "table") else 2.2) / self._height,
                width - inner[0] - 0.012,
                height - inner[1] - (0.4 if kind in ("stat", "table") else 2.4) / self._height,
            )
        )
        axes.set_facecolor(PANEL)
        {"timeseries": self._lines, "stat": self._number, "bargauge": self._bars, "table": self._table}[kind](
            panel, axes
        )

    def _series(self, panel: Mapping[str, Any]) -> list[tuple[str, Mapping[str, str], list[float], list[float]]]:
        """Name, labels, times and values of each series of a panel."""
        found = []
        for target in panel["targets"]:
            query = PanelQuery(self._name, panel["title"], target["expr"], target.get("legendFormat", ""), False)
            for series in self._answers.of(query):
                numbers = [(float(moment), float(value)) for moment, value in series["values"]]
                kept = [(moment, value) for moment, value in numbers if math.isfinite(value)]
                if kept:
                    times, values = zip(*kept, strict=True)
                    found.append((legend(query, series["metric"]), series["metric"], list(times), list(values)))
        return found

    def _lines(self, panel: Mapping[str, Any], axes: Axes) -> None:
        unit = panel["fieldConfig"]["defaults"].get("unit", "short")
        custom = panel["fieldConfig"]["defaults"].get("custom", {})
        stacked = custom.get("stacking", {}).get("mode") == "normal"
        every = self._series(panel)
        found = [one for one in every if not stacked or any(one[3])] or every[:1]
        if stacked and found:
            moments = sorted({moment for _, _, times, _ in found for moment in times})
            heights = [
                [dict(zip(times, values, strict=True)).get(m, 0.0) for m in moments] for _, _, times, values in found
            ]
            at = [datetime.fromtimestamp(moment, UTC) for moment in moments]
            names = [name for name, *_ in found]
            axes.stackplot(at, heights, labels=names, colors=COLORS, alpha=0.75, linewidth=0.5)
        else:
            for index, (name, _, times, values) in enumerate(found):
                at = [datetime.fromtimestamp(moment, UTC) for moment in times]
                axes.plot(at, values, label=name, color=COLORS[index % len(COLORS)], linewidth=1)
        axes.set_xlim(*(datetime.fromtimestamp(moment, UTC) for moment in (self._answers.start, self._answers.end)))
        axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))
        axes.xaxis.set_major_locator(ticker.MaxNLocator(4))
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: shown(unit, value)))
        axes.yaxis.set_major_locator(ticker.MaxNLocator(4))
        axes.tick_params(colors=TEXT, labelsize=6.5, length=0)
        axes.grid(color=GRID, linewidth=0.6)
        for spine in axes.spines.values():
            spine.set_visible(False)
        if found:
            entries = axes.get_legend_handles_labels()
            axes.legend(
                *(part[:MOST_LEGENDS] for part in entries),
                loc="upper left",
                bbox_to_anchor=(-0.02, -0.1),
                ncols=4,
                fontsize=6,
                frameon=False,
                labelcolor=TEXT,
                handlelength=1,
                columnspacing=1,
            )
        else:
            axes.text(0.5, 0.5, "No data", color=TEXT, ha="center", transform=axes.transAxes)

    def _number(self, panel: Mapping[str, Any], axes: Axes) -> None:
        axes.axis("off")
        unit = panel["fieldConfig"]["defaults"].get("unit", "short")
        found = self._series(panel)
        last = max(found, key=lambda one: one[2][-1], default=None)
        by_name = panel["options"].get("textMode") == "name"
        text = "No data" if last is None else last[0] if by_name else shown(unit, last[3][-1])
        axes.text(0.5, 0.45, text, color=COLORS[0], fontsize=17, weight="bold", ha="center", va="center")

    def _bars(self, panel: Mapping[str, Any], axes: Axes) -> None:
        unit = panel["fieldConfig"]["defaults"].get("unit", "short")
        found = [(name, values[-1]) for name, _, _, values in self._series(panel)]
        names, values = [name for name, _ in found], [value for _, value in found]
        axes.barh(names, values, color=COLORS[: len(found)], height=0.6)
        for index, value in enumerate(values):
            axes.text(value, index, f" {shown(unit, value)}", color=TEXT, fontsize=7, va="center")
        axes.margins(x=0.2)
        axes.tick_params(colors=TEXT, labelsize=6.5, length=0)
        axes.xaxis.set_visible(False)
        for spine in axes.spines.values():
            spine.set_visible(False)

    def _table(self, panel: Mapping[str, Any], axes: Axes) -> None:
        axes.axis("off")
        rows: dict[tuple[str, ...], dict[str, str]] = {}
        names = panel["transformations"][1]["options"]["renameByName"]
        hidden = panel["transformations"][1]["options"]["excludeByName"]
        units = {one["matcher"]["options"]: one["properties"][0]["value"] for one in panel["fieldConfig"]["overrides"]}
        for target in panel["targets"]:
            query = PanelQuery(self._name, panel["title"], target["expr"], "", False)
            column = f"Value #{target['refId']}"
            for series in self._answers.of(query):
                if float(series["values"][-1][0]) < self._answers.end - 2 * self._answers.step:
                    continue  # gone by the end
                labels = series["metric"]
                key = tuple(labels[name] for name in ("job_kind", "job_namespace", "job_name"))
                row = rows.setdefault(key, {})
                row |= {name: value for name, value in labels.items() if name not in hidden}
                if column not in hidden:
                    row[names[column]] = shown(units.get(names[column], ""), float(series["values"][-1][1]))
        columns = list(dict.fromkeys(name for row in rows.values() for name in row))
        if not rows:
            return
        table = axes.table(
            [[row.get(name, "") for name in columns] for row in rows.values()],
            colLabels=columns,
            loc="upper left",
            cellLoc="left",
            colLoc="left",
            edges="horizontal",
        )
        table.auto_set_font_size(False)
        table.set_fontsize(8)
        for cell in table.get_celld().values():
            cell.get_text().set_color(TEXT)
            cell.set_edgecolor(GRID)


def draw(answers: Answers, folder: Path) -> None:
    """One picture of each dashboard."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, dashboard in dashboards().items():
        Board(name, dashboard, answers).draw(folder / f"{name}.png")
        print(folder / f"{name}.png", flush=True)


def watch(prometheus: Prometheus) -> Answers:
    """Waits until the demo's jobs have run and ended."""
    finished = f'plumbline_job_phase{{job_namespace="{NAMESPACE}",phase=~"Complete|Failed"}}'
    started = f'plumbline_job_phase{{job_namespace="{NAMESPACE}",phase="Starting"}}'
    deadline = time.monotonic() + DEADLINE_SECONDS
    start = 0.0
    while len(prometheus.query(finished)) < len(JOBS):
        if time.monotonic() > deadline:
            raise SystemExit(f"the demo's jobs did not end within {DEADLINE_SECONDS} s")
        if not start and prometheus.query(started):
            start = time.time()
        time.sleep(SCRAPE_SECONDS)
    if not start:
        raise SystemExit("the demo's jobs had ended before anybody watched: delete them and run the demo again")
    time.sleep(2 * SCRAPE_SECONDS)  # the last word of each series
    variables = {name: {"namespace": NAMESPACE, "name": job} for name, job in JOBS.items()}
    return Answers(prometheus, start, time.time(), variables | {"fleet": {"namespace": NAMESPACE}}, "60s")


def main() -> None:
    """Watch and draw."""
    with tempfile.TemporaryDirectory() as folder, Prometheus(Path(folder)) as prometheus:
        prometheus.start(configuration(kubeconfig_path(), SCRAPE_SECONDS))
        draw(watch(prometheus), FOLDER)


if __name__ == "__main__":
    main()
