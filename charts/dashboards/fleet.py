"""The dashboard of all jobs."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from charts.dashboards.panels import HALF, THIRD, Panel, Query, bars, board, lines, number, rows, variable

JOB = "job_kind, job_namespace, job_name"
IN_NAMESPACE = '{job_namespace=~"$namespace"}'

# Every operator process says the same of a job, and every rank of a job the same of its run: `max by` counts them once.
WEIGHT = f"clamp_min(max by ({JOB}) (plumbline_job_gpus{IN_NAMESPACE}), 1)"
"""GPUs of a job; one without GPUs counts as one."""

PRODUCTIVE = 'state="productive"'
HOLDING = 'state!~"queued|suspended|backingOff|unattended"'
"""States in which the pods hold their nodes."""


def fleet() -> dashboard.Dashboard:
    return board(
        "plumbline-fleet",
        "Plumbline / Fleet",
        "All jobs: what runs, what waits, what is in trouble, and where the GPU time goes.",
        [variable("namespace", "Namespace", "label_values(plumbline_job_info, job_namespace)", several=True)],
        [
            (
                "Now",
                [
                    _jobs("Running", "Running", "green"),
                    _jobs("Waiting", "Pending|Queued|Starting|Restarting", "blue"),
                    number(
                        "Stalled or unhealthy",
                        Query(
                            f"count(max by ({JOB}) (plumbline_job_condition"
                            '{condition=~"Progressing|Healthy",job_namespace=~"$namespace"} == 0)'
                            f' unless on ({JOB}) plumbline_job_phase{{phase=~"Complete|Failed"}}) or vector(0)'
                        ),
                        thresholds=((None, "green"), (1, "red")),
                    ),
                    _jobs("Failed", "Failed", "red"),
                    number(
                        "GPUs held",
                        Query(
                            'sum(max by (kind, phase) (plumbline_operator_gpus{phase=~"Starting|Running|Suspending"}))'
                        ),
                        description="By all jobs of all namespaces.",
                    ),
                    number(
                        "Goodput of the last hour",
                        Query(f"{_weighted(PRODUCTIVE)} / {_weighted(HOLDING)}"),
                        unit="percentunit",
                        description="Productive share of the GPU time for which jobs held their nodes.",
                        thresholds=((None, "red"), (0.5, "orange"), (0.8, "green")),
                    ),
                ],
            ),
            (
                "Jobs and GPUs",
                [
                    lines(
                        "Jobs by phase",
                        Query("sum by (phase) (max by (kind, phase) (plumbline_operator_jobs))", "{{phase}}"),
                        stacked=True,
                        width=HALF,
                    ),
                    lines(
                        "GPUs by phase",
                        Query("sum by (phase) (max by (kind, phase) (plumbline_operator_gpus))", "{{phase}}"),
                        stacked=True,
                        width=HALF,
                    ),
                    lines(
                        "GPU time by state",
                        Query(
                            f"clamp_min(sum by (state) (max by ({JOB}, state)"
                            f" (deriv(plumbline_job_state_seconds{IN_NAMESPACE}[$__rate_interval]))"
                            f" * on ({JOB}) group_left {WEIGHT}), 0)",
                            "{{state}}",
                        ),
                        description="GPUs in each state; a job without GPUs counts as one.",
                        stacked=True,
                        width=HALF,
                    ),
                    lines(
                        "Tokens a second",
                        Query(
                            "topk(10, max by (job_namespace, job_name)"
                            f" (plumbline_trainer_tokens_per_second{IN_NAMESPACE}))",
                            "{{job_namespace}}/{{job_name}}",
                        ),
                        description="The ten fastest jobs.",
                        width=HALF,
                    ),
                ],
            ),
            (
                "Trouble",
                [
                    bars(
                        "Failed jobs by reason",
                        Query(
                            f"count by (reason) (max by ({JOB}, reason) (plumbline_job_condition"
                            '{condition="Failed",job_namespace=~"$namespace"} == 1))',
                            "{{reason}}",
                        ),
                    ),
                    lines(
                        "Age of checkpoints",
                        Query(
                            f"time() - max by ({JOB}) (plumbline_job_checkpoint_timestamp_seconds{IN_NAMESPACE})"
                            f' and on ({JOB}) plumbline_job_phase{{phase="Running"}}',
                            "{{job_namespace}}/{{job_name}}",
                        ),
                        unit="s",
                        description="What a crash now would cost, for each running job.",
                        width=THIRD,
                    ),
                    bars(
                        "Restarts",
                        Query(
                            f"topk(10, max by (job_namespace, job_name) (plumbline_job_restarts{IN_NAMESPACE}))",
                            "{{job_namespace}}/{{job_name}}",
                        ),
                    ),
                ],
            ),
            (
                "Every job",
                [
                    rows(
                        "Jobs",
                        [
                            (
                                "Phase is current",
                                Query(f"max by ({JOB}, phase) (plumbline_job_phase{IN_NAMESPACE})"),
                                "none",
                            ),
                            (
                                "Done",
                                Query(
                                    f"max by ({JOB}) (plumbline_job_steps{IN_NAMESPACE})"
                                    f" / max by ({JOB}) (plumbline_job_max_steps{IN_NAMESPACE})"
                                ),
                                "percentunit",
                            ),
                            (
                                "Goodput",
                                Query(f"max by ({JOB}) (plumbline_job_goodput_ratio{IN_NAMESPACE})"),
                                "percentunit",
                            ),
                            ("GPUs", Query(f"max by ({JOB}) (plumbline_job_gpus{IN_NAMESPACE})"), "none"),
                            ("Restarts", Query(f"max by ({JOB}) (plumbline_job_restarts{IN_NAMESPACE})"), "none"),
                            ("Cost", Query(f"sum by ({JOB}) (plumbline_job_cost{IN_NAMESPACE})"), "none"),
                        ],
                        hidden=["Value #A"],
                    ),
                ],
            ),
        ],
    )


def _jobs(title: str, phases: str, color: str) -> Panel:
    return number(
        title,
        Query(
            f'count(max by ({JOB}) (plumbline_job_phase{{phase=~"{phases}",job_namespace=~"$namespace"}})) or vector(0)'
        ),
        thresholds=((None, "text"), (1, color)),
    )


def _weighted(states: str) -> str:
    """GPU seconds in these states within an hour."""
    spent = f'delta(plumbline_job_state_seconds{{{states},job_namespace=~"$namespace"}}[1h])'
    return f"sum(sum by ({JOB}) (max by ({JOB}, state) ({spent})) * on ({JOB}) {WEIGHT})"
