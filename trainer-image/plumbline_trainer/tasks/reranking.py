"""Which of several samples a learnt value function would keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from plumbline_api.methods.policy.conservative_bellman import ConservativeBellman
from plumbline_trainer.data.batches import Layout, TokenSequence
from plumbline_trainer.modeling.logit_gaps import greedy_tokens, logit_gaps
from plumbline_trainer.modeling.logprobs import laid_out, predicting_states
from plumbline_trainer.modeling.scoring import evaluating
from plumbline_trainer.objectives.policy.conservative_bellman import candidate_scores
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.tasks.critic import Critic
from plumbline_trainer.tasks.judging import Candidate


class ValueRanking:
    """Scores of completions by the rewards that the values of `conservativeBellman` imply."""

    def __init__(
        self, parameters: ConservativeBellman, model: nn.Module, layout: Layout, critic: Critic, device: torch.device
    ) -> None:
        self._parameters, self._model, self._layout = parameters, model, layout
        self._critic, self._device = critic, device

    @torch.no_grad()
    def scores(
        self, candidates: Sequence[Candidate], prompts: Sequence[Sequence[int]], poll: Callable[[], None]
    ) -> Tensor:
        """[N] float32 for N completions in order of their slots; `prompts` are the token ids of each row's.

        `poll` ends the call by raising.
        """
        groups = [
            [TokenSequence(prompts[one.row], one.completion.tokens) for one in some]
            for _, some in groupby(candidates, key=lambda one: one.slot)
        ]
        found: dict[int, Tensor] = {}
        with evaluating(self._model):
            for places in self._layout.passes([self._layout.size(group) for group in groups]):
                batch = self._layout.batch([groups[place] for place in places]).to(self._device)
                states = predicting_states(self._model, batch)
                gaps = logit_gaps(self._model, states, batch.targets[batch.mask], greedy_tokens(self._model, states))
                scores = candidate_scores(
                    self._parameters, self._critic.values(batch, states), laid_out(gaps, batch.mask), batch.mask
                )
                sizes = [len(groups[place]) for place in places]
                found |= dict(zip(places, scores.cpu().split(sizes), strict=True))
                poll()
        return torch.cat([found[place] for place in range(len(groups))]) if groups else torch.zeros(0)


def picked_accuracy(scores: Tensor, right: Tensor, judged: Tensor, prompts: Tensor) -> Metric:
    """The share of prompts whose completion with the largest of `scores` is right, the first of equal ones.

    Only `judged` completions are candidates, and prompts without any have no say. `right` and `judged` are bool [N],
    `prompts` int64 [N].
    """
    found = Metric(0.0, 0.0)
    for prompt in prompts.unique():
        own = torch.nonzero(judged & (prompts == prompt))[:, 0]
        if len(own):
            found += Metric(float(right[own[scores[own].argmax()]]), 1.0)
    return found
