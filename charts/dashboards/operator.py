"""The dashboard of the operator itself."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from charts.dashboards.panels import QUARTER, Query, board, lines, number

RATE = "[$__rate_interval]"


def operator() -> dashboard.Dashboard:
    return board(
        "plumbline-operator",
        "Plumbline / Operator",
        "Whether the operator keeps up: reconciliations, its queue, the API server, its watch streams.",
        [],
        [
            (
                "State",
                [
                    number(
                        "Version",
                        Query("max by (version) (plumbline_operator_build_info)", "{{version}}"),
                        by_name=True,
                    ),
                    number("Processes that answer", Query("count(plumbline_operator_build_info)")),
                    number(
                        "Keys that wait",
                        Query("max(plumbline_operator_queue_depth)"),
                        thresholds=((None, "green"), (100, "orange"), (1000, "red")),
                    ),
                    number(
                        "Failed reconciliations",
                        Query(
                            f'(sum(rate(plumbline_operator_reconcile_total{{result="error"}}{RATE})) or vector(0))'
                            f" / sum(rate(plumbline_operator_reconcile_total{RATE}))"
                        ),
                        unit="percentunit",
                        thresholds=((None, "green"), (0.05, "orange"), (0.5, "red")),
                    ),
                    number(
                        "Silent watch streams",
                        Query("sum(plumbline_operator_watch_silent)"),
                        description="Streams that have not delivered what the API server holds.",
                        thresholds=((None, "green"), (1, "red")),
                    ),
                    number("Jobs", Query("sum(max by (kind, phase) (plumbline_operator_jobs))")),
                ],
            ),
            (
                "Reconciliations",
                [
                    lines(
                        "Reconciliations a second",
                        Query(f"sum by (result) (rate(plumbline_operator_reconcile_total{RATE}))", "{{result}}"),
                        unit="ops",
                        stacked=True,
                    ),
                    lines("Duration", *_quantiles("plumbline_operator_reconcile_duration_seconds"), unit="s"),
                    lines(
                        "Queue",
                        Query("max(plumbline_operator_queue_depth)", "waiting for a worker"),
                        Query("max(plumbline_operator_queue_working)", "being worked on"),
                        Query("max(plumbline_operator_queue_scheduled)", "due later"),
                    ),
                ],
            ),
            (
                "API server and process",
                [
                    lines(
                        "Requests a second",
                        Query(
                            f"sum by (verb, code) (rate(plumbline_operator_api_requests_total{RATE}))",
                            "{{verb}} {{code}}",
                        ),
                        unit="reqps",
                        width=QUARTER,
                    ),
                    lines(
                        "Duration of requests",
                        *_quantiles("plumbline_operator_api_request_duration_seconds"),
                        unit="s",
                        width=QUARTER,
                    ),
                    lines(
                        "Time since the last event of a watch",
                        Query("max by (resource) (plumbline_operator_watch_age_seconds)", "{{resource}}"),
                        unit="s",
                        description="Grows on a quiet cluster; silent streams are counted above.",
                        width=QUARTER,
                    ),
                    lines(
                        "Memory",
                        Query(
                            "process_resident_memory_bytes"
                            " * on (job, instance) group_left plumbline_operator_build_info",
                            "{{instance}}",
                        ),
                        unit="bytes",
                        width=QUARTER,
                    ),
                ],
            ),
        ],
    )


def _quantiles(histogram: str) -> list[Query]:
    rates = f"sum by (le) (rate({histogram}_bucket{RATE}))"
    return [Query(f"histogram_quantile({share}, {rates})", f"p{round(100 * share)}") for share in (0.5, 0.99)]
