"""Every metric family that a trainer shows, and which family shows a training metric (pure).

Training metrics have names like `rewards/margin`; Prometheus wants one family a quantity, with its unit in the name and
what it is about in labels. `TRAINING_FAMILIES` is that translation, and docs/metrics.md is generated from this module.
All families also have the labels of `JOB_LABELS`: they are part of what is exposed rather than left to the scraper, so
that dashboards and rules hold with any way of scraping. `namespace` would be renamed by most of them, and `job` by all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Literal

from plumbline_api.status import MetricValue
from plumbline_trainer.reporting.status import EVALUATION_PREFIX

PREFIX = "plumbline_trainer_"
JOB_LABELS = ("job_kind", "job_namespace", "job_name")

STATES = ("starting", "evaluating", "training", "checkpointing", "exporting", "stopping", "done")


@dataclass(frozen=True)
class Family:
    """One metric family. `name` is without `PREFIX`, and without the `_total` that counters get."""

    name: str
    documentation: str
    labels: tuple[str, ...] = ()
    kind: Literal["gauge", "counter"] = "gauge"

    @property
    def shown_name(self) -> str:
        """The name of its samples."""
        return PREFIX + self.name + ("_total" if self.kind == "counter" else "")


RUN_FAMILIES = (
    Family("build_info", "Always 1; versions are in the labels.", ("contract", "torch")),
    Family("state", "1 for what the trainer is doing, 0 for the rest: " + ", ".join(STATES) + ".", ("state",)),
    Family("attempt", "Number of the attempt."),
    Family("step", "Optimizer steps done by the run."),
    Family("max_steps", "Optimizer steps of the run in all."),
    Family("resumed_from_step", "Step that this attempt continued from."),
    Family("steps", "Optimizer steps done by this attempt.", kind="counter"),
    Family("last_step_timestamp_seconds", "When the last step ended, as Unix time."),
    Family("step_duration_seconds", "Median duration of the last 32 steps."),
    Family("eta_seconds", "Remaining steps times the median step."),
    Family("tokens", "Tokens processed by this attempt, all ranks together.", kind="counter"),
    Family("tokens_per_second", "Tokens processed a second over the last 32 steps, all ranks together."),
    Family(
        "phase_seconds",
        "Time spent in each phase of the steps by this attempt: prepare, forward_backward, update, and checkpoint after"
        " them; in RLVR also sync (weights to a rollout server), generate, verify (verifiers), score (judges, reward"
        " models), and where used evidence, values, reference, old_logprobs.",
        ("phase",),
        "counter",
    ),
    Family("score", "The run in one number: the held-out score, else the training metric of that name, else the loss."),
    Family("checkpoint_step", "Step of the newest verified checkpoint."),
    Family("checkpoint_timestamp_seconds", "When the newest verified checkpoint was taken, as Unix time."),
    Family(
        "checkpoint_write_duration_seconds", "Duration of the last write of a checkpoint, flush and digests included."
    ),
    Family("best_checkpoint_step", "Step of the checkpoint with the best held-out value; only with checkpoint.best."),
    Family("best_checkpoint_value", "The held-out value of the best checkpoint; only with checkpoint.best."),
    Family("warnings", "Warnings in the status report."),
    Family("gpu_memory_allocated_bytes", "GPU memory held by tensors of this rank; only with a GPU."),
    Family("gpu_memory_peak_bytes", "The most GPU memory that tensors of this rank have held; only with a GPU."),
)


_PLACE = re.compile(r"\{(\w+)(?::([\w|]+))?\}")


@dataclass(frozen=True)
class TrainingFamily:
    """A family with the label `split` and those of its patterns: training metric -> sample.

    A pattern is a metric's name in which `{label}` stands for a part that becomes that label's value, `{label:a|b}` for
    a or b. With several patterns, a label that is not in one of them is empty.
    """

    name: str
    documentation: str
    patterns: tuple[str, ...]
    labels: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        found = dict.fromkeys(label for pattern in self.patterns for label, _ in _PLACE.findall(pattern))
        object.__setattr__(self, "labels", ("split", *found))

    @property
    def family(self) -> Family:
        return Family(self.name, self.documentation, self.labels)

    @cached_property
    def _expressions(self) -> list[re.Pattern[str]]:
        return [
            re.compile(_PLACE.sub(lambda place: f"(?P<{place[1]}>{place[2] or '.+'})", pattern))
            for pattern in self.patterns
        ]

    def match(self, metric: str) -> tuple[str, ...] | None:
        """Values of the labels after `split`, or None for a metric of another family."""
        for expression in self._expressions:
            if found := expression.fullmatch(metric):
                values = found.groupdict()
                return tuple(values.get(label, "") for label in self.labels[1:])
        return None


TRAINING_FAMILIES = (
    TrainingFamily("loss", "What is minimised.", ("loss",)),
    TrainingFamily(
        "loss_part",
        "Mean of one part of the loss, before its weight.",
        ("loss/{part}", "likelihood_loss"),
    ),
    TrainingFamily("gradient_norm", "Euclidean norm over all parameters, before clipping.", ("gradient_norm",)),
    TrainingFamily("learning_rate", "Learning rate of the last step, schedule included.", ("learning_rate",)),
    TrainingFamily("padding_ratio", "Share of the computed positions that are padding.", ("padding_share",)),
    TrainingFamily(
        "kl_nats",
        "How far the policy is from its reference. Preferences: mean log-ratio a sequence over the rows' completions,"
        " which may be negative. RLVR: the estimate of spec.kl a token, over the policy's own samples.",
        ("kl", "kl/{of}"),
    ),
    TrainingFamily("kl_coefficient", "Weight of the KL penalty, where it adapts.", ("kl_coefficient",)),
    # preferences
    TrainingFamily(
        "preference_margin",
        "Reward of the preferred minus that of the other side; implicit rewards, or scores of a reward model.",
        ("rewards/margin",),
    ),
    TrainingFamily(
        "preference_accuracy_ratio",
        "Share of pairs, or of labelled completions of one side, that the rewards get right; a tie counts half.",
        ("rewards/accuracy", "rewards/accuracy_{side}"),
    ),
    TrainingFamily(
        "preference_shift",
        "What unpaired objectives compare rewards with: an average or a KL term.",
        ("rewards/shift",),
    ),
    TrainingFamily("preference_reward", "Mean reward of one side.", ("rewards/{side}",)),
    TrainingFamily(
        "logprob_nats", "Mean log-probability of one side a sequence; side token: a token.", ("logprobs/{side}",)
    ),
    TrainingFamily(
        "log_ratio_nats",
        "Mean log-ratio of the policy to its reference (preferences) or to the policy that sampled (RLVR).",
        ("log_ratio", "log_ratio/{of}"),
    ),
    TrainingFamily("win_ratio", "Held out: share of pairs that the rewards get right.", ("win_accuracy",)),
    TrainingFamily(
        "label_ratio", "Held out: share of labelled completions that the rewards get right.", ("label_accuracy",)
    ),
    TrainingFamily(
        "calibration",
        "Held out: what stated probabilities are worth. ece: expected calibration error; overconfidence: mean"
        " confidence minus accuracy; brier, log_loss: scores of the stated probability.",
        ("calibration/{measure}",),
    ),
    TrainingFamily("preference_degree", "Heads that predict how strong a preference is.", ("degree/{measure}",)),
    TrainingFamily(
        "preference_score", "Scores that rows state: gaps between them, shares of them.", ("scores/{measure}",)
    ),
    TrainingFamily("improver", "Self-improving objectives: what the improved policy prefers.", ("improver/{measure}",)),
    # rollouts
    TrainingFamily("accuracy_ratio", "Share of completions that every judging component finds right.", ("accuracy",)),
    TrainingFamily(
        "pass_at_ratio", "Held out: chance that at least one of k sampled completions is right.", ("pass_at/{k}",)
    ),
    TrainingFamily(
        "reranked_accuracy_ratio",
        "Held out: share of prompts for which the sample that the learnt values rank highest is right.",
        ("reranked_accuracy",),
    ),
    TrainingFamily("reward_mean", "Mean weighted reward of a completion.", ("reward/mean",)),
    TrainingFamily("reward_component", "Mean value of one reward component.", ("reward/{component}",)),
    TrainingFamily("reward_error_ratio", "Share of a component's calls that failed.", ("reward_errors/{component}",)),
    TrainingFamily(
        "reward_comparison_error_ratio",
        "Share of comparisons that failed, for a component that compares completions.",
        ("comparison_errors/{component}",),
    ),
    TrainingFamily(
        "reward_timeout_ratio", "Share of a component's calls that ran out of time.", ("reward_timeouts/{component}",)
    ),
    TrainingFamily(
        "reward_call_duration_seconds", "Mean duration of a component's calls.", ("reward_seconds/{component}",)
    ),
    TrainingFamily("completion_length_tokens", "Mean length of the completions.", ("completions/length",)),
    TrainingFamily(
        "completion_truncated_ratio", "Share of completions that the token limit cut off.", ("completions/truncated",)
    ),
    TrainingFamily(
        "completion_slowest_ratio",
        "Share of the time of generation for which a rank's slowest completion, or a server's slowest request, was"
        " under way alone.",
        ("completions/slowest_share",),
    ),
    TrainingFamily(
        "phase_tokens_per_second",
        "Tokens a second of single phases, all ranks together. prefill: of prompts, once each; decode: of completions,"
        " with a rollout server its whole time; update: of forward and backward passes.",
        ("tokens_per_second/{phase}",),
    ),
    TrainingFamily("entropy_nats", "Entropy of the policy a token.", ("entropy", "policy_entropy")),
    TrainingFamily("advantage_zero_ratio", "Share of completions whose advantage is 0.", ("advantages/zero",)),
    TrainingFamily(
        "advantage_zero_group_ratio",
        "Share of groups that teach nothing: all their advantages are 0.",
        ("advantages/zero_groups",),
    ),
    # updates
    TrainingFamily("policy_ratio", "Mean probability ratio of the policy to the one that sampled.", ("ratio",)),
    TrainingFamily(
        "clip_ratio",
        "Share of tokens whose ratio is clipped, by bound where there are several.",
        ("clip_share", "clip_share/{bound}"),
    ),
    TrainingFamily(
        "off_policy",
        "Weights that correct for samples of another policy; sampler_gap: mean difference of the"
        " log-probabilities of trainer and engine.",
        ("off_policy/{measure}", "{measure:sampler_gap|staleness_weight|importance_weight}"),
    ),
    TrainingFamily(
        "success",
        "A head that guides the model: mean stated chance of success (predicted), share of successes (observed) and"
        " mean squared difference (brier), at tokens that the model wrote.",
        ("success/{measure}",),
    ),
    TrainingFamily("unguided", "Held out: what the model reaches without guidance.", ("unguided/{measure}",)),
    TrainingFamily("critic", "Loss, values and returns of the critic.", ("critic/{measure}",)),
    TrainingFamily(
        "shaping", "Mean change of the reward by a shaping step, or what the step measures.", ("shaping/{step}",)
    ),
    TrainingFamily(
        "curriculum",
        "What the curriculum knows of the prompts; bandits: value and chance of each category.",
        ("curriculum/{measure}",),
    ),
    TrainingFamily(
        "kept_solutions",
        "Solutions of the policy's own that are kept. whole: right completions; partial: beginnings of wrong ones.",
        ("kept_solutions/{part}",),
    ),
    TrainingFamily("replay", "The store of samples that are used again.", ("replay/{measure}",)),
    TrainingFamily(
        "objective",
        "What single objectives say of themselves, such as the share of tokens or rows that they keep.",
        (
            "{measure:weight|gate|divergence|drift|residual|confidence}",
            "{measure:kept_share|solution_share|restrained_share|local_share}",
        ),
    ),
)

UNNAMED = Family("metric", "Metrics that no other family shows.", ("split", "name"))
"""Where metrics of code that is newer than this table are still seen; the trainer of this version has none."""


Sample = tuple[tuple[str, ...], float]
"""Values of a family's labels, and the value."""


@lru_cache(maxsize=512)
def placed(metric: str) -> tuple[Family, tuple[str, ...]]:
    """The family of a training metric, given without `evaluation/`, and the labels after `split`."""
    for candidate in TRAINING_FAMILIES:
        labels = candidate.match(metric)
        if labels is not None:
            return candidate.family, labels
    return UNNAMED, (metric,)


def training_samples(metrics: Iterable[MetricValue]) -> dict[Family, list[Sample]]:
    """Samples of each family. `split` is training, evaluation, or first_evaluation for what the first one found."""
    found: dict[Family, list[Sample]] = {}
    for metric in metrics:
        held_out = metric.name.startswith(EVALUATION_PREFIX)
        family, labels = placed(metric.name.removeprefix(EVALUATION_PREFIX))
        samples = found.setdefault(family, [])
        samples.append((("evaluation" if held_out else "training", *labels), metric.value))
        if metric.first is not None:
            samples.append((("first_evaluation", *labels), metric.first))
    return found
