"""The tasks: their base model, their rows, and how completions are judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Spec = dict[str, Any]

TAIL_LENGTH = "wrong_tail"
"""Component that counts the dots of wrong answers, with weight 0."""


@dataclass(frozen=True)
class Task:
    """A kind of problem that a job learns."""

    name: str
    title: str
    base: str
    """Name of the model that jobs start from (`bases`)."""

    rewards: list[Spec]
    max_prompt_tokens: int
    max_completion_tokens: int
    steps: int = 80
    """Optimizer steps."""

    prompts: int = 16
    """Of a rollout."""

    held_out: int = 300
    """Held-out prompts that are measured."""

    evaluations: int = 4
    """How often, besides the one before training."""


def _gym(name: str, max_prompt_tokens: int, max_completion_tokens: int) -> Task:
    rewards: list[Spec] = [{"name": "solved", "verifier": {"reasoningGym": {"partialCredit": False}}}]
    return Task(
        name.replace("_", "-"), f"reasoning-gym {name}", "columns", rewards, max_prompt_tokens, max_completion_tokens
    )


TASKS = {
    task.name: task
    for task in (
        Task("arithmetic", "sums", "tiny", [{"name": "correct", "verifier": {"numeric": {}}}], 32, 8),
        _gym("chain_sum", 32, 8),
        _gym("decimal_chain_sum", 32, 8),
        Task(
            "programs",
            "programs",
            "programs",
            [
                {
                    "name": "passed",
                    "verifier": {"code": {"caseTimeoutSeconds": 2, "timeoutSeconds": 5}},
                    "timeoutSeconds": 10,
                }
            ],
            max_prompt_tokens=48,
            max_completion_tokens=32,
            # a program costs as much in the sandbox as ten sums cost altogether
            steps=40,
            prompts=4,
            held_out=100,
        ),
        Task(
            "tails",
            "sums with a tail of dots",
            "tails",
            [
                {"name": "correct", "verifier": {"exactMatch": {"extract": r"^(\d+)\.*$"}}},
                {"name": TAIL_LENGTH, "weight": 0, "verifier": {"python": {"path": "verifiers/wrong_tail.py"}}},
            ],
            max_prompt_tokens=32,
            max_completion_tokens=48,
        ),
    )
}
