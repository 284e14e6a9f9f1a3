"""Objectives that also see completions drawn from the reference."""

from __future__ import annotations

import math

from torch.nn.functional import logsigmoid

from plumbline_api.methods.preference.sampled import Ddo, Typo
from plumbline_trainer.objectives.preference.inputs import Completions, Demonstrations, Losses, Pairs
from plumbline_trainer.objectives.preference.measures import logprob_metrics, pair_metrics, reference_metrics, won
from plumbline_trainer.objectives.registry import implements
from plumbline_trainer.reporting.metrics import Metric


@implements(Typo)
def typo(parameters: Typo, pairs: Pairs) -> Losses:
    """TYPO (Hu et al. 2024, "New Desiderata for Direct Preference Optimization", arXiv:2407.09072).

    KL(p* || p) + lambda E_{y ~ pi_ref}[-log pi(y|x)], where p = sigma(log pi(y_w|x) - log pi(y_l|x)) carries no
    reference ratio and p* = (1 - e, e) is the label with its assumed flips. The expectation is over the samples of a
    row; it is KL(pi_ref || pi) up to the entropy of pi_ref, which is a constant. Minimised over tables, lambda to
    infinity gives pi_ref; lambda to 0 gives the Bradley-Terry fit of the labels, pi(y_w) / pi(y_l) = odds(p*), and
    among the policies with that fit the closest to pi_ref. Rewards are log pi.
    """
    chosen, rejected = pairs.chosen.logprob, pairs.rejected.logprob
    margin, flipped = chosen - rejected, parameters.label_smoothing
    negative_entropy = (flipped * math.log(flipped) if flipped else 0.0) + (1 - flipped) * math.log1p(-flipped)
    labels = negative_entropy - (1 - flipped) * logsigmoid(margin) - flipped * logsigmoid(-margin)
    held = -_samples_of(pairs).logprob.mean(dim=1)
    metrics = pair_metrics(chosen, rejected) | logprob_metrics(pairs)
    metrics |= {"loss/preference": Metric.mean_of(labels), "logprobs/samples": Metric.mean_of(-held)}
    return labels + parameters.reference_weight * held, metrics


@implements(Ddo)
def ddo(parameters: Ddo, rows: Demonstrations) -> Losses:
    """Direct discriminative optimization (Zheng et al. 2025, arXiv:2503.01103), on demonstrations.

    -log sigma(d(y)) - alpha mean over samples y' of log sigma(-d(y')), with the discriminator's logit d(y) =
    beta h(y) + s and y' drawn from the reference. A discriminator is optimal at d = log p(y) - log pi_ref(y) - log
    alpha, p the distribution of the demonstrations, so h* = (log p - log pi_ref - log alpha - s) / beta. With beta = 1
    and s = -log alpha the policy is p exactly, and taking it as the next round's reference changes nothing more. With
    beta below 1 it overshoots: pi* = pi_ref^(1 - 1/beta) p^(1/beta) / Z at s = beta log Z - log alpha. The shift is
    ours; the paper has s = 0. Losses `[B]`. Rewards are d; a demonstration is told right where d is positive, a sample
    where it is negative.
    """
    samples = _samples_of(rows)
    demonstrated = parameters.beta * rows.completion.log_ratio + parameters.shift
    sampled = parameters.beta * samples.log_ratio + parameters.shift
    losses = -logsigmoid(demonstrated) - parameters.sample_weight * logsigmoid(-sampled).mean(dim=1)
    accuracy = (won(demonstrated) + won(-sampled).mean(dim=1)) / 2
    return losses, {
        "rewards/demonstrations": Metric.mean_of(demonstrated),
        "rewards/samples": Metric.mean_of(sampled),
        "rewards/margin": Metric.mean_of(demonstrated - sampled.mean(dim=1)),
        "rewards/accuracy": Metric.mean_of(accuracy),
        "logprobs/demonstrations": Metric.mean_of(rows.completion.logprob),
        "logprobs/samples": Metric.mean_of(samples.logprob),
        **reference_metrics(rows.completion),
    }


def _samples_of(rows: Pairs | Demonstrations) -> Completions:
    if rows.samples is None:
        raise ValueError("this objective needs completions drawn from the reference")
    return rows.samples
