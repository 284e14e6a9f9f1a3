"""Prompts for reinforcement learning beside plain problems: beginnings of solutions, programs, and bandits.

prefixes   a sum with the first lines of its solution, none to two of them (make_steps.py); all beginnings of one
           solution are a tree, in which each is a node
programs   a sum to print, with the test that a program must pass
bandits    slot machines that were tried a few times, and the question which one to try next
"""

from __future__ import annotations

import random
from typing import Any

from make_steps import WorkedSum

Row = dict[str, Any]

ARMS = 3
PULLS = 6
"""Pulls before the question."""


def prefixes_of(worked: WorkedSum) -> list[Row]:
    """The problem with none, one and two lines of its solution."""
    *lines, answer = worked.right
    return [
        {
            "prompt": " ".join([worked.prompt, *(line.strip() for line in lines[:given])]),
            "answer": answer,
            "tree": worked.prompt,
            "prefix": lines[:given],
        }
        for given in range(len(lines) + 1)
    ]


def program(prompt: str, answer: str) -> Row:
    """What the program must print, as the verifier `code` reads it."""
    return {"prompt": prompt, "answer": answer, "tests": [{"input": "", "output": answer}]}


def bandit(random_numbers: random.Random) -> Row:
    """Pulls drawn at random, each won with the arm's own probability; the answer is the arm of the highest."""
    means = [tenths / 10 for tenths in random_numbers.sample(range(1, 10), ARMS)]
    history = []
    for _ in range(PULLS):
        arm = random_numbers.randrange(ARMS)
        history.append([arm, float(random_numbers.random() < means[arm])])
    told = " ".join(f"{arm}{'+' if won else '-'}" for arm, won in history)
    return {
        "prompt": f"Won + or lost -: {told} Which is next?",
        "answer": str(means.index(max(means))),
        "arms": ARMS,
        "means": means,
        "history": history,
    }


def bandits(random_numbers: random.Random, train: int, held_out: int) -> dict[str, list[Row]]:
    """Files with different prompts."""
    rows: dict[str, Row] = {}
    while len(rows) < train + held_out:
        row = bandit(random_numbers)
        rows.setdefault(row["prompt"], row)
    every = list(rows.values())
    return {"bandits-train": every[:train], "bandits-heldout": every[train:]}
