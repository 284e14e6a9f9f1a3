"""What is shown of rollouts and evaluations besides the rewards of `rewards.scoring`."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import torch
from torch import Tensor

from plumbline_api.rlvr_job import RLVRJobSpec
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rewards.scoring import Scores
from plumbline_trainer.rollout.requests import Completion, GenerationFigures


def judges(spec: RLVRJobSpec) -> list[str]:
    """The components that say whether a completion is right: those that compare it with the row's answer.

    Where there are none, the components with a positive weight; a penalty does not say that anything is right. Nor does
    being better than others of the group, unless every component compares: then the one that beats all of them is.
    """
    alone = [reward for reward in spec.rewards if not reward.verifier.value.compares_group] or spec.rewards
    comparing = [reward.name for reward in alone if reward.verifier.value.needs_answer]
    positive = [reward.name for reward in alone if reward.weight > 0]
    return comparing or positive or [reward.name for reward in alone]


def correct(spec: RLVRJobSpec, scores: Scores) -> Tensor:
    """[N] bool: whether every component of `judges` gives the completion at least 1."""
    return (torch.stack([scores.components[name] for name in judges(spec)]) >= 1).all(dim=0)


def judged(spec: RLVRJobSpec, scores: Scores) -> Tensor:
    """[N] bool: whether every component of `judges` has a verdict on the completion."""
    return ~torch.stack([scores.components[name] for name in judges(spec)]).isnan().any(dim=0)


def score_metrics(spec: RLVRJobSpec, scores: Scores) -> dict[str, Metric]:
    """The rewards, and `accuracy`: the share of completions that every component of `judges` gives at least 1."""
    accuracy = Metric.mean_of(correct(spec, scores).double(), judged(spec, scores))
    return {**scores.metrics, "accuracy": accuracy}


def pass_at(right: Tensor, judged: Tensor, prompts: Tensor) -> dict[str, Metric]:
    """`pass_at/k` for k = 1, 2, 4, ...: the chance that at least one of k completions of a prompt is right.

    1 - C(n-c, k) / C(n, k) of a prompt with c right ones of n judged ones, which is unbiased (Chen et al. 2021,
    "Evaluating Large Language Models Trained on Code", arXiv:2107.03374, eq. 1); a prompt with fewer than k judged
    ones has no say. `right` and `judged` are bool [N], `prompts` int64 [N].
    """
    found: dict[str, Metric] = {}
    for prompt in prompts.unique():
        own = judged & (prompts == prompt)
        total, successes = int(own.sum()), int((own & right).sum())
        k = 1
        while k <= total:
            chance = 1 - comb(total - successes, k) / comb(total, k)
            found[f"pass_at/{k}"] = found.get(f"pass_at/{k}", Metric(0.0, 0.0)) + Metric(chance, 1.0)
            k *= 2
    return found


def length_metrics(completions: Sequence[Completion]) -> dict[str, Metric]:
    """Length in tokens, and the share that was cut off by the limit."""
    lengths = torch.tensor([len(completion.tokens) for completion in completions], dtype=torch.float64)
    cut = torch.tensor([completion.finish == "length" for completion in completions], dtype=torch.float64)
    return {"completions/length": Metric.mean_of(lengths), "completions/truncated": Metric.mean_of(cut)}


def generation_metrics(figures: GenerationFigures, world_size: int) -> dict[str, Metric]:
    """How fast completions came about, from this rank's figures; what an engine does not measure is left out.

    Rates are tokens of all ranks a second of wall time, in which they generate side by side.
    `completions/slowest_share` is the share of that time for which a rank's slowest completion ran alone, with all
    other places of the batch empty.
    """
    metrics = {
        "tokens_per_second/prefill": Metric(float(figures.prompt_tokens), figures.prefill_seconds / world_size),
        "tokens_per_second/decode": Metric(float(figures.tokens), figures.decode_seconds / world_size),
        "completions/slowest_share": Metric(figures.alone_seconds, figures.seconds),
    }
    return {name: metric for name, metric in metrics.items() if metric.count}


def entropy(completions: Sequence[Completion]) -> Metric:
    """The policy's entropy a token, estimated without bias by -log pi(y_t) where sampling truncates nothing; guided
    tokens, which it did not sample, have no say."""
    own = [completion.logprobs[completion.guided :] for completion in completions]
    return Metric(-sum(sum(logprobs) for logprobs in own), float(sum(len(logprobs) for logprobs in own)))


def signal_metrics(estimated: Tensor, valid: Tensor, groups: Tensor) -> dict[str, Metric]:
    """How much of a rollout can move the policy: completions, and groups (int64 [N]), whose advantages are all 0."""
    none = estimated == 0 if estimated.dim() == 1 else (estimated == 0).all(dim=1)
    ids, index = torch.unique(groups, return_inverse=True)
    silent = torch.ones(len(ids), dtype=torch.float64).scatter_reduce_(0, index, none.double(), "amin")
    return {"advantages/zero": Metric.mean_of(none.double(), valid), "advantages/zero_groups": Metric.mean_of(silent)}
