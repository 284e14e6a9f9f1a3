"""Which judged samples are learnt from."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from plumbline_api.methods.exploration.family import SampleSelection
from plumbline_api.methods.exploration.selection import MaxVariance, ProcessConsistency
from plumbline_trainer.exploration.registry import SELECTIONS
from plumbline_trainer.rollout.judged import JudgedRollout


def select(parameters: SampleSelection | None, rollout: JudgedRollout) -> JudgedRollout:
    """The rollout in which only selected completions are valid, so that baselines and counts are theirs alone."""
    if parameters is None:
        return rollout
    return replace(rollout, valid=rollout.valid & SELECTIONS.of(parameters)(parameters, rollout))


@SELECTIONS.implements(ProcessConsistency)
def process_consistency(parameters: ProcessConsistency, rollout: JudgedRollout) -> Tensor:
    """Of each group the correct completions of highest and the wrong ones of lowest process score: bool [N].

    PROF (Ye et al. 2025, arXiv:2509.03403) ranks right and wrong completions apart and takes more from the larger side
    so that the two even out. Of m kept out of n+ right and n- wrong ones, m+ = m / 2 are right, as far as there are
    enough: n+ where there are fewer, m - n- where wrong ones are too few. An odd one goes to the larger side, and to
    the right ones between equal sides. Without balance m+ is m n+ / (n+ + n-), rounded to the nearest. A completion
    whose process score failed is the first of its side to go. Groups of up to m valid completions keep all.
    """
    if parameters.component not in rollout.components:
        raise KeyError(f"no reward component is named {parameters.component}")
    scores = rollout.components[parameters.component]
    agreement = torch.where(rollout.correct, scores, -scores)
    agreement = torch.where(agreement.isnan(), -torch.inf, agreement)
    kept = torch.zeros_like(rollout.valid)
    for members in _groups(rollout):
        right, wrong = members[rollout.correct[members]], members[~rollout.correct[members]]
        count = min(parameters.keep, len(members))
        share = _rounded_share(count, len(right), len(wrong), balance=parameters.balance)
        for side, number in ((right, share), (wrong, count - share)):
            order = agreement[side].argsort(descending=True, stable=True)
            kept[side[order[:number]]] = True
    return kept


@SELECTIONS.implements(MaxVariance)
def max_variance(parameters: MaxVariance, rollout: JudgedRollout) -> Tensor:
    """Of each group the m completions whose rewards have the largest variance: bool [N].

    PODS (Xu et al. 2025, arXiv:2504.13818): the variance is convex in each reward, so the best subset consists of the i
    lowest and the m - i highest for some i, and trying all i is exact. Of equal variances the split nearest to even
    is taken, which keeps right and wrong completions in balance where rewards are binary.
    """
    kept = torch.zeros_like(rollout.valid)
    for members in _groups(rollout):
        count = min(parameters.keep, len(members))
        order = members[rollout.rewards[members].argsort(stable=True)]
        best = max(
            range(count + 1),
            key=lambda low: (_variance(rollout.rewards[_ends(order, low, count)]), -abs(2 * low - count), low),
        )
        kept[_ends(order, best, count)] = True
    return kept


def _groups(rollout: JudgedRollout) -> list[Tensor]:
    """Places of the valid completions of each group."""
    return [
        torch.nonzero((rollout.groups == group) & rollout.valid).flatten() for group in torch.unique(rollout.groups)
    ]


def _rounded_share(count: int, right: int, wrong: int, *, balance: bool) -> int:
    """How many of `count` are taken from the right ones."""
    if balance:
        wanted = count // 2 + (count % 2 if right >= wrong else 0)
    else:
        wanted = round(count * right / max(right + wrong, 1))
    return max(count - wrong, min(right, wanted))


def _ends(order: Tensor, low: int, count: int) -> Tensor:
    return torch.cat([order[:low], order[len(order) - (count - low) :]])


def _variance(values: Tensor) -> float:
    """Mean squared distance from the mean, rounded to 12 digits so that equal subsets compare as equal."""
    return round(float((values - values.mean()).square().mean()), 12) if len(values) else 0.0
