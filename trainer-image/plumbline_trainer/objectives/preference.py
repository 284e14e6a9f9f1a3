"""Preference objectives on log-probabilities: DPO, IPO, SimPO, KTO.

Each is a pure function of per-sequence log-probabilities and returns one loss a row, `[B]`, and metrics. The caller
divides by the step's global number of rows (`aggregation.sequence_mean`).

Notation: log pi(y|x) is the sum over the completion's tokens; h(y) = log pi(y|x) - log pi_ref(y|x) is the log-ratio;
y_w is the chosen, y_l the rejected completion; sigma is the logistic function.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid

from plumbline_api.methods.preference import Dpo, Ipo, Kto, Simpo
from plumbline_trainer.objectives.registry import implements
from plumbline_trainer.reporting.metrics import Metric

RowLosses = tuple[torch.Tensor, dict[str, Metric]]
"""Losses `[B]` with gradient, and metrics without."""


@dataclass(frozen=True)
class PairLogprobs:
    """B pairs. All tensors are `[B]` float; the reference's are None for objectives without one."""

    chosen: torch.Tensor
    """log pi(y_w|x)."""

    rejected: torch.Tensor
    """log pi(y_l|x)."""

    chosen_tokens: torch.Tensor
    """|y_w|, number of completion tokens."""

    rejected_tokens: torch.Tensor
    """|y_l|."""

    reference_chosen: torch.Tensor | None = None
    """log pi_ref(y_w|x)."""

    reference_rejected: torch.Tensor | None = None
    """log pi_ref(y_l|x)."""

    def log_ratios(self) -> tuple[torch.Tensor, torch.Tensor]:
        """h(y_w) and h(y_l), each `[B]`."""
        if self.reference_chosen is None or self.reference_rejected is None:
            raise ValueError("this objective needs reference log-probabilities")
        return self.chosen - self.reference_chosen, self.rejected - self.reference_rejected


@dataclass(frozen=True)
class UnpairedLogprobs:
    """B completions, each desirable or not."""

    completion: torch.Tensor
    """log pi(y|x), `[B]` float."""

    reference: torch.Tensor
    """log pi_ref(y|x), `[B]` float."""

    desirable: torch.Tensor
    """`[B]` bool."""

    reference_point: torch.Tensor
    """z_0, scalar without gradient; see `kto_reference_point`."""


@implements(Dpo)
def dpo(parameters: Dpo, pairs: PairLogprobs) -> RowLosses:
    """Direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290, eq. 7), with label smoothing.

    -(1 - e) log sigma(beta (h(y_w) - h(y_l))) - e log sigma(-beta (h(y_w) - h(y_l))), where e is the assumed
    probability of a flipped label (Mitchell 2023, "A note on DPO with noisy preferences", eq. 3); e = 0 is eq. 7.
    Rewards are beta h (eq. 5 without its prompt-only term).
    """
    chosen, rejected = pairs.log_ratios()
    margin = parameters.beta * (chosen - rejected)
    flipped = parameters.label_smoothing
    losses = -(1 - flipped) * logsigmoid(margin) - flipped * logsigmoid(-margin)
    return losses, pair_metrics(parameters.beta * chosen, parameters.beta * rejected) | _logprob_metrics(pairs)


@implements(Ipo)
def ipo(parameters: Ipo, pairs: PairLogprobs) -> RowLosses:
    """Identity preference optimization (Azar et al. 2023, arXiv:2310.12036, eq. 17).

    ((h(y_w) - h(y_l)) - 1 / (2 tau))^2. With `length_normalized` each h is first divided by its number of tokens.
    Rewards are tau times the log-ratios that enter the loss.
    """
    chosen, rejected = pairs.log_ratios()
    if parameters.length_normalized:
        chosen, rejected = chosen / pairs.chosen_tokens, rejected / pairs.rejected_tokens
    losses = (chosen - rejected - 1 / (2 * parameters.tau)).square()
    return losses, pair_metrics(parameters.tau * chosen, parameters.tau * rejected) | _logprob_metrics(pairs)


@implements(Simpo)
def simpo(parameters: Simpo, pairs: PairLogprobs) -> RowLosses:
    """Simple preference optimization (Meng et al. 2024, arXiv:2405.14734, eq. 6).

    -log sigma(beta log pi(y_w|x) / |y_w| - beta log pi(y_l|x) / |y_l| - gamma). The rewards are its two first terms
    (eq. 4): length-normalised and without a reference.
    """
    chosen = parameters.beta * pairs.chosen / pairs.chosen_tokens
    rejected = parameters.beta * pairs.rejected / pairs.rejected_tokens
    losses = -logsigmoid(chosen - rejected - parameters.gamma)
    return losses, pair_metrics(chosen, rejected) | _logprob_metrics(pairs)


@implements(Kto)
def kto(parameters: Kto, rows: UnpairedLogprobs) -> RowLosses:
    """Kahneman-Tversky optimization (Ethayarajh et al. 2024, arXiv:2402.01306, eq. 8).

    lambda_D (1 - sigma(beta (h(y) - z_0))) for a desirable and lambda_U (1 - sigma(beta (z_0 - h(y)))) for an
    undesirable completion. Rewards are beta h; a row counts as accurate when h lies on its label's side of z_0, half
    when it lies on z_0.
    """
    log_ratios = rows.completion - rows.reference
    distance = log_ratios - rows.reference_point
    signed = torch.where(rows.desirable, distance, -distance)
    weights = torch.full_like(signed, parameters.desirable_weight)
    weights[~rows.desirable] = parameters.undesirable_weight
    losses = weights * torch.sigmoid(-parameters.beta * signed)

    rewards = parameters.beta * log_ratios.detach()
    desirable, undesirable = rows.desirable, ~rows.desirable
    correct = _won(signed)
    metrics = {
        "rewards/desirable": Metric.mean_of(rewards, desirable),
        "rewards/undesirable": Metric.mean_of(rewards, undesirable),
        "rewards/accuracy": Metric.mean_of(correct),
        "rewards/accuracy_desirable": Metric.mean_of(correct, desirable),
        "rewards/accuracy_undesirable": Metric.mean_of(correct, undesirable),
        "logprobs/desirable": Metric.mean_of(rows.completion, desirable),
        "logprobs/undesirable": Metric.mean_of(rows.completion, undesirable),
        "kl": Metric(float(rows.reference_point) * len(rewards), float(len(rewards))),
    }
    return losses, metrics


def kto_reference_point(policy: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """z_0 of a step: max(0, mean of log pi(y'|x) - log pi_ref(y'|x)) over mismatched pairs, scalar.

    `policy` and `reference` are `[M]`, the log-probabilities of every row's prompt with another row's completion, for
    ALL rows of the optimizer step, over all micro-batches and ranks: z_0 estimates KL(pi || pi_ref) (sec. 4.1 of the
    paper) and is shared by the whole batch. Taken per micro-batch it would make the loss depend on the split, and
    biased upwards, because max(0, .) of a noisy mean is. No gradient flows through it, as in the paper, so it can be
    computed in a pass of its own before the step's first micro-batch.
    """
    return (policy - reference).detach().mean().clamp(min=0)


def pair_metrics(chosen: torch.Tensor, rejected: torch.Tensor) -> dict[str, Metric]:
    """Metrics of rewards `[B]` of both sides; a tie counts as half a win, as a coin would decide it."""
    margin = (chosen - rejected).detach()
    return {
        "rewards/chosen": Metric.mean_of(chosen),
        "rewards/rejected": Metric.mean_of(rejected),
        "rewards/margin": Metric.mean_of(margin),
        "rewards/accuracy": Metric.mean_of(_won(margin)),
    }


def _won(margin: torch.Tensor) -> torch.Tensor:
    return (margin.detach().sign() + 1) / 2


def _logprob_metrics(pairs: PairLogprobs) -> dict[str, Metric]:
    return {"logprobs/chosen": Metric.mean_of(pairs.chosen), "logprobs/rejected": Metric.mean_of(pairs.rejected)}
