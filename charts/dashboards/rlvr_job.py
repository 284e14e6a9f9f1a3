"""The dashboard of one RLVRJob."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from charts.dashboards.job import JobPanels
from charts.dashboards.panels import QUARTER, Panel, Query, board, lines


def rlvr_job() -> dashboard.Dashboard:
    job = JobPanels("RLVRJob")
    return board(
        "plumbline-rlvr-job",
        "Plumbline / RLVRJob",
        "One job that learns from verifiable rewards: what it learns, whether its verifiers work, and what it costs.",
        job.variables(),
        [
            ("State", job.state()),
            ("Rewards", _rewards(job)),
            ("Policy", _policy(job)),
            ("Verifiers", _verifiers(job)),
            ("Optimization", job.optimization()),
            ("Speed and memory", job.speed()),
            ("Reliability", job.reliability()),
        ],
    )


def _rewards(job: JobPanels) -> list[Panel]:
    return [
        job.held_out("Accuracy", "accuracy_ratio", description="Share of completions that the verifiers find right."),
        job.held_out("Reward", "reward_mean", unit="short", description="Mean weighted reward of a completion."),
        lines(
            "Reward by component",
            Query(job.trained("reward_component", "training", by="component"), "{{component}}"),
            description="One component that climbs while the others stand still is what the policy games.",
        ),
    ]


def _policy(job: JobPanels) -> list[Panel]:
    return [
        lines(
            "Groups that teach nothing",
            Query(job.trained("advantage_zero_group_ratio", "training"), "groups"),
            Query(job.trained("advantage_zero_ratio", "training"), "completions"),
            unit="percentunit",
            description="All advantages are 0: prompts too easy or too hard.",
            width=QUARTER,
        ),
        lines(
            "Entropy",
            Query(job.trained("entropy_nats", "training"), "nats a token"),
            description="Near 0 the policy no longer explores.",
            width=QUARTER,
        ),
        lines(
            "KL to the reference",
            Query(job.trained("kl_nats", "training"), "nats"),
            description="The estimate of spec.kl over the policy's own samples.",
            width=QUARTER,
        ),
        lines(
            "Clipped tokens",
            Query(job.trained("clip_ratio", "training", by="bound"), "{{bound}}"),
            unit="percentunit",
            width=QUARTER,
        ),
        lines(
            "Length of completions",
            Query(job.trained("completion_length_tokens", "training"), "training"),
            Query(job.trained("completion_length_tokens", "evaluation"), "held out"),
            description="In tokens.",
            width=QUARTER,
        ),
        lines(
            "Truncated completions",
            Query(job.trained("completion_truncated_ratio", "training"), "training"),
            Query(job.trained("completion_truncated_ratio", "evaluation"), "held out"),
            unit="percentunit",
            width=QUARTER,
        ),
        lines(
            "Probability ratio",
            Query(job.trained("policy_ratio", "training"), "mean"),
            description="Policy over the policy that sampled; 1 is on-policy.",
            width=QUARTER,
        ),
        lines(
            "Tokens a second by phase",
            Query(job.trained("phase_tokens_per_second", "training", by="phase"), "{{phase}}"),
            description="prefill: of prompts; decode: of completions; update: of forward and backward passes.",
            width=QUARTER,
        ),
    ]


def _verifiers(job: JobPanels) -> list[Panel]:
    return [
        lines(
            "Failed calls",
            Query(job.trained("reward_error_ratio", "training", by="component"), "{{component}}"),
            unit="percentunit",
            description="Share of a component's calls that raised an error; they are no rewards of 0.",
        ),
        lines(
            "Calls that ran out of time",
            Query(job.trained("reward_timeout_ratio", "training", by="component"), "{{component}}"),
            unit="percentunit",
        ),
        lines(
            "Time of a call",
            Query(job.trained("reward_call_duration_seconds", "training", by="component"), "{{component}}"),
            unit="s",
        ),
    ]
