"""The methods: what each changes in the job that all of them share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.learning.corpora import LEVEL
from bench.learning.verifiers.unreliable import FALSE_NEGATIVE_RATE, FALSE_POSITIVE_RATE

Spec = dict[str, Any]

GROUP = 8
"""Completions of a prompt."""

SHARED: Spec = {
    "objective": {"grpo": {}},
    "advantage": {"groupRelative": {"normalize": "std"}},
    "rollout": {"groupSize": GROUP, "updatesPerRollout": 2, "maxBatchSize": 256},
    "optimizer": {"adamw": {"learningRate": 0.001, "beta2": 0.99}},
    "schedule": {"linear": {"warmupFraction": 0.05}},
}
"""What a method does not change. With one update on a rollout ratios would be 1 and most objectives alike."""


@dataclass(frozen=True)
class Method:
    """A way to train."""

    name: str
    family: str
    spec: Spec
    """What it changes; None removes a field."""

    note: str = ""
    """What the table of methods says of it."""

    rewards: list[Spec] | None = None
    """In place of the task's."""

    share: float = 1.0
    """Prompts of a rollout in relation to those of the other methods."""


_CENTRED: Spec = {"groupRelative": {"normalize": "none"}}
_NOISY_REWARDS: list[Spec] = [
    {"name": "reported", "verifier": {"python": {"path": "verifiers/unreliable.py"}}},
    {"name": "correct", "weight": 0, "verifier": {"numeric": {}}},
]
_SGD: Spec = {
    "advantage": _CENTRED,
    "optimizer": {"sgd": {"learningRate": 0.1}},
    "training": {"gradientClip": 0},
}
_ONE_UPDATE: Spec = {"rollout": {"updatesPerRollout": 1}}
_TWO_GROUPS = 1 / 8
_DAPO: Spec = {"objective": {"dapo": {"clipLow": 0.2, "clipHigh": 0.28}}}

METHODS = {
    method.name: method
    for method in (
        Method("grpo", "named", {}, "reward relative to the group, divided by its deviation; mean of each completion"),
        Method(
            "drGrpo",
            "named",
            {"objective": {"drGrpo": {}}, "advantage": _CENTRED},
            "no division by deviation or length",
        ),
        Method(
            "dapo",
            "named",
            {**_DAPO, "exploration": {"resampling": {"dynamicSampling": {"maxAttempts": 3}}}},
            "higher upper clip, mean of all tokens, groups without signal replaced",
        ),
        Method(
            "rloo",
            "named",
            {
                "objective": {"reinforce": {}},
                "advantage": {"leaveOneOut": {}},
                **_ONE_UPDATE,
            },
            "REINFORCE with the mean of the others; strictly on-policy, so half as large rollouts with one update",
            share=0.5,
        ),
        Method(
            "ppo",
            "named",
            {
                "objective": {"ppo": {}},
                "advantage": {"gae": {"gamma": 1.0, "lambda": 0.95}},
                "critic": {"shared": {"learningRate": 0.001, "loss": {"mse": {"clip": 0.2}}}},
            },
            "generalized advantages of a critic on the policy's hidden states",
        ),
        Method(
            "passAtK", "advantage", {"advantage": {"passAtK": {"form": "marginal", "k": 4}}}, "raises the best of four"
        ),
        Method("opo", "advantage", {"advantage": {"opo": {}}}, "baseline weighted by length"),
        Method(
            "cispo", "objective", {"objective": {"cispo": {}}}, "clipped ratio as a weight, gradient of every token"
        ),
        Method("gspo", "objective", {"objective": {"gspo": {}}}, "ratio of whole sequences"),
        Method("copo", "objective", {"objective": {"copo": {}}}, "also compares the prompts of a rollout"),
        Method(
            "selfEvolving",
            "data",
            {"curriculum": {"selfEvolving": {"categoryColumn": LEVEL, "temperature": 0.3}}},
            "a bandit draws prompts by what their level still teaches",
        ),
        Method(
            "linearLength",
            "shaping",
            {"shaping": [{"linearLength": {"coefficient": 0.5}}]},
            "right answers lose by their length",
        ),
        Method("dapo-static", "claim", _DAPO, "dapo without replaced groups"),
        Method("grpo-two-groups", "claim", _ONE_UPDATE, "grpo with two groups a rollout", share=_TWO_GROUPS),
        Method(
            "copo-two-groups",
            "claim",
            {**_ONE_UPDATE, "objective": {"copo": {}}},
            "copo with two groups a rollout",
            share=_TWO_GROUPS,
        ),
        Method("clean-sgd", "claim", _SGD, "plain gradient steps, right rewards"),
        Method("noisy-sgd", "claim", _SGD, "plain gradient steps, unreliable rewards", _NOISY_REWARDS),
        Method(
            "backwardCorrection",
            "noise",
            {
                **_SGD,
                "shaping": [
                    {
                        "backwardCorrection": {
                            "falsePositiveRate": FALSE_POSITIVE_RATE,
                            "falseNegativeRate": FALSE_NEGATIVE_RATE,
                        }
                    }
                ],
            },
            "plain gradient steps, unreliable rewards corrected by their known rates",
            _NOISY_REWARDS,
        ),
        Method("grpo-noisy", "claim", {}, "grpo with AdamW, unreliable rewards", _NOISY_REWARDS),
    )
}
