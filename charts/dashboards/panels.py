"""Panels and dashboards in the one style of all of ours, on top of Grafana's own builders.

Queries may use the dashboard's variables (`$namespace`, `$name`) and `$__rate_interval`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DATA_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG = "plumbline"
HALF, THIRD, QUARTER, SIXTH = 12, 8, 6, 4
"""Widths, of 24 columns."""

Panel = timeseries.Panel | stat.Panel | table.Panel | bargauge.Panel


@dataclass(frozen=True)
class Query:
    """A PromQL expression and how its series are called."""

    expression: str
    legend: str = ""


def lines(
    title: str,
    *queries: Query,
    unit: str = "short",
    description: str = "",
    width: int = THIRD,
    stacked: bool = False,
    bounds: tuple[float | None, float | None] = (None, None),
) -> timeseries.Panel:
    """Values over time; `unit` is Grafana's name of it, `bounds` those of the axis."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(DATA_SOURCE)
        .unit(unit)
        .height(8)
        .span(width)
        .line_width(1)
        .fill_opacity(30 if stacked else 5)
        .show_points(common_models.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(common_models.LegendDisplayMode.LIST)
            .placement(common_models.LegendPlacement.BOTTOM)
        )
        .tooltip(common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI))
    )
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL).group("A"))
    least, most = bounds
    if least is not None:
        panel = panel.min(least)
    if most is not None:
        panel = panel.max(most)
    for query in queries:
        panel = panel.with_target(_target(query).range())
    return panel


def number(
    title: str,
    query: Query,
    *,
    unit: str = "short",
    description: str = "",
    width: int = SIXTH,
    thresholds: Sequence[tuple[float | None, str]] = ((None, "blue"),),
    by_name: bool = False,
) -> stat.Panel:
    """The last value; the colour of the last threshold below it. `by_name` shows the series' name and not its value."""
    steps = [Threshold(value=value, color=color) for value, color in thresholds]
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(DATA_SOURCE)
        .unit(unit)
        .height(4)
        .span(width)
        .thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        .graph_mode(common_models.BigValueGraphMode.NONE if by_name else common_models.BigValueGraphMode.AREA)
        .text_mode(common_models.BigValueTextMode.NAME if by_name else common_models.BigValueTextMode.VALUE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(_target(query).range())
    )


def bars(title: str, query: Query, *, unit: str = "short", description: str = "", width: int = THIRD) -> bargauge.Panel:
    """The last value of each series as a bar."""
    return (
        bargauge.Panel()
        .title(title)
        .description(description)
        .datasource(DATA_SOURCE)
        .unit(unit)
        .min(0)
        .height(8)
        .span(width)
        .orientation(common_models.VizOrientation.HORIZONTAL)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(_target(query).instant())
    )


def rows(
    title: str, columns: Sequence[tuple[str, Query, str]], *, hidden: Sequence[str], width: int = 24
) -> table.Panel:
    """One row for each set of labels; a column for each (name, query, unit), and without the labels `hidden`."""
    panel = table.Panel().title(title).datasource(DATA_SOURCE).height(9).span(width)
    names: dict[str, str] = {}
    for index, (name, query, _) in enumerate(columns):
        letter = chr(ord("A") + index)
        names[f"Value #{letter}"] = name
        panel = panel.with_target(_target(query).instant().format(PromQueryFormat.TABLE).ref_id(letter))
    organize = {"excludeByName": dict.fromkeys(("Time", *hidden), True), "renameByName": names}
    panel = panel.with_transformation(DataTransformerConfig(id_val="merge", options={}))
    panel = panel.with_transformation(DataTransformerConfig(id_val="organize", options=organize))
    for name, _, unit in columns:
        panel = panel.override_by_name(name, [DynamicConfigValue(id_val="unit", value=unit)])
    return panel


def _target(query: Query) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(query.expression).legend_format(query.legend).datasource(DATA_SOURCE)


def variable(name: str, label: str, query: str, *, several: bool) -> dashboard.QueryVariable:
    """A variable whose values are those of a label; `several` allows more than one and all of them."""
    built = (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(DATA_SOURCE)
        .query(query)
        .refresh(_ON_TIME_RANGE)
        .sort(_SORT)
    )
    return built.multi(True).include_all(True).all_value(".*") if several else built


_ON_TIME_RANGE = dashboard.dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED
_SORT = dashboard.dashboard.VariableSort.ALPHABETICAL_ASC


def board(
    uid: str,
    title: str,
    description: str,
    variables: Sequence[dashboard.QueryVariable],
    sections: Sequence[tuple[str, Sequence[Panel]]],
) -> dashboard.Dashboard:
    """A dashboard with a row for each section, and links to the others."""
    built = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("Plumbline")
            .type(DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(True)
            .keep_time(True)
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for one in variables:
        built = built.with_variable(one)
    for name, panels in sections:
        built = built.with_row(dashboard.Row(name))
        for panel in panels:
            built = built.with_panel(panel)
    return built
