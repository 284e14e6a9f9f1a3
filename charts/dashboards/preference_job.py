"""The dashboard of one PreferenceJob."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from charts.dashboards.job import JobPanels
from charts.dashboards.panels import Panel, Query, board, lines


def preference_job() -> dashboard.Dashboard:
    job = JobPanels("PreferenceJob")
    return board(
        "plumbline-preference-job",
        "Plumbline / PreferenceJob",
        "One job that learns from preferences: what it learns, how fast, and what it costs.",
        job.variables(),
        [
            ("State", job.state()),
            ("Preferences", _preferences(job)),
            ("Optimization", job.optimization(Query(job.trained("loss", "evaluation"), "held out"))),
            ("Speed and memory", job.speed()),
            ("Reliability", job.reliability()),
        ],
    )


def _preferences(job: JobPanels) -> list[Panel]:
    return [
        job.held_out(
            "Accuracy",
            "preference_accuracy_ratio",
            description="Share of pairs that the rewards get right; one half is chance.",
        ),
        job.held_out(
            "Margin",
            "preference_margin",
            unit="short",
            description="Chosen minus rejected. It should grow; held out below training is over-optimisation.",
        ),
        lines(
            "Rewards of both sides",
            Query(job.trained("preference_reward", "training", by="side"), "{{side}}"),
            description="Both falling while the margin grows: the policy unlearns the chosen answers, too.",
        ),
        lines(
            "Log-probabilities",
            Query(job.trained("logprob_nats", "training", by="side"), "{{side}}"),
            description="A sequence, in nats.",
        ),
        lines(
            "Distance from the reference",
            Query(job.trained("kl_nats", "training"), "log-ratio"),
            description="Mean log-ratio over the completions of the data, in nats; may be negative.",
        ),
        lines(
            "Calibration of held-out preferences",
            Query(job.trained("calibration", "evaluation", by="measure"), "{{measure}}"),
            description="ece: how far stated probabilities are from what happens.",
        ),
    ]
