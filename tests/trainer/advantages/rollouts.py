"""Judged rollouts with everything that an estimator may ask for, for the tests of advantages."""

from __future__ import annotations

from typing import Any

import torch

from plumbline_trainer.rollout.judged import JudgedRollout, judged


def full_rollout(rewards: torch.Tensor, groups: torch.Tensor, seed: int = 0, **more: Any) -> JudgedRollout:
    """Completions of lengths 1 to 5 whose other fields are drawn by `seed`; padding holds NaN."""
    generator = torch.Generator().manual_seed(seed)
    count, width = len(rewards), 5

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, dtype=torch.float64, generator=generator)

    lengths = torch.randint(1, width + 1, (count,), generator=generator)
    inside = torch.arange(width) < lengths[:, None]

    def by_token(values: torch.Tensor) -> torch.Tensor:
        return torch.where(inside, values, torch.nan)

    logprobs = -draw(count, width)
    defaults: dict[str, Any] = {
        "lengths": lengths,
        "logprobs": by_token(logprobs),
        "policy_logprobs": by_token(logprobs + 0.3 * draw(count, width) - 0.15),
        "values": by_token(draw(count, width)),
        "greedy_rewards": draw(count),
        "prefix_values": by_token(draw(count, width)),
        "components": {"right": rewards.double(), "format": rewards.double() / 2},
        "weights": {"right": 1.0, "format": 0.5},
        "columns": [{"tree": str(int(group)), "prefix": ["a"] * (row % 3)} for row, group in enumerate(groups)],
    }
    return judged(rewards, groups, **{**defaults, **more})


def rows_of(rollout: JudgedRollout, index: torch.Tensor) -> JudgedRollout:
    """The completions of `index` (int64), in its order."""
    values: dict[str, Any] = {}
    for name, value in vars(rollout).items():
        if isinstance(value, torch.Tensor):
            values[name] = value[index]
        elif name == "components":
            values[name] = {key: component[index] for key, component in value.items()}
        elif name in ("texts", "columns"):
            values[name] = [value[row] for row in index.tolist()] if value else value
        else:
            values[name] = value
    return JudgedRollout(**values)
