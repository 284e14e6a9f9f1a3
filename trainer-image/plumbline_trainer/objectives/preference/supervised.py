"""Objectives on demonstrations, and likelihood training that also sees what not to say.

On demonstrations, losses are `[B, T]`, of which only those at completion tokens count; the caller takes the mean over
all tokens of the step (`aggregation.token_mean`). On pairs they are `[B]`.
"""

from __future__ import annotations

import torch

from plumbline_api.methods.preference.supervised import Sft, SftDivergence, Unlikelihood
from plumbline_trainer.objectives.preference.complement import log_complement
from plumbline_trainer.objectives.preference.inputs import Completions, Demonstrations, Losses, Pairs, TokenLogprobs
from plumbline_trainer.objectives.preference.measures import logprob_metrics, pair_metrics, reference_metrics
from plumbline_trainer.objectives.registry import implements
from plumbline_trainer.reporting.metrics import Metric

TANGENT_POINT = -0.5
"""Implicit reward below which the squared Hellinger loss goes on along its tangent; its pole is at -1."""


@implements(Sft)
def sft(parameters: Sft, rows: Demonstrations) -> Losses:
    """Negative log-likelihood of each completion token: -log pi(y_t | x, y_<t), `[B, T]`."""
    tokens = _tokens_of(rows.completion)
    return -tokens.policy, {"logprobs/token": Metric.mean_of(tokens.policy, tokens.mask)}


@implements(SftDivergence)
def sft_divergence(parameters: SftDivergence, rows: Demonstrations) -> Losses:
    """Supervised fine-tuning as implicit reward learning (Wang et al. 2025, arXiv:2507.00018), derived here.

    Losses `[B, T]`, with h = log pi(y_t) - log pi_ref(y_t) of a token and r = beta h its implicit reward:

        kl         -h                             weight of the token in the gradient: 1
        pearson    (r^2/4 - r) / beta             1 - r/2 up to r = 2, then 0
        hellinger  -r / (1 + r) / beta            1 / (1 + r)^2; from r = -1/2 downwards the tangent, weight 4

    Derivation. Match the policy pi to the demonstrations E and stay close to the reference: minimise over pi
    D_f(pi || E) + beta KL(pi || pi_ref). With the variational form D_f(pi || E) = sup_g E_pi[g] - E_E[f*(g)], f* the
    convex conjugate of f, and g = -r, this is max_r min_pi of -E_pi[r] + beta KL(pi || pi_ref) - E_E[f*(-r)]. The inner
    minimum is at pi = pi_ref exp((r - V)/beta), where it is -V, V = beta log E_pi_ref[exp(r/beta)]. So r = beta h + V,
    and what remains is to minimise E_E[f*(-beta h - V)] + V.

    Where f* is linear (exact matching of E, the limit that maximum likelihood stands for), V cancels and -beta h
    remains: the negative log-likelihood up to a constant. The KL term has vanished, and nothing holds the policy.
    Otherwise V stays. Rewards that differ by a function of the prefix have the same policy, and each class has one
    member with V = 0, namely beta h (Rafailov et al. 2023, arXiv:2305.18290, theorem 1); taking that one gives
    E_E[f*(-beta h)]. Conjugates: f(t) = (t - 1)^2, t >= 0, has f*(u) = u + u^2/4 from u = -2 and -1 below; f(t) =
    (sqrt(t) - 1)^2 has u / (1 - u) below its pole u = 1, which is r = -1; the tangent keeps tokens near and beyond it
    finite. All are divided by beta, so that every loss starts at pi = pi_ref with the gradient of likelihood.
    """
    tokens = _tokens_of(rows.completion)
    if tokens.reference is None:
        raise ValueError("this objective needs the reference's log-probability of every token")
    log_ratios = tokens.policy - tokens.reference
    rewards = parameters.beta * log_ratios
    if parameters.divergence == "pearson":
        reached = rewards.clamp(max=2.0)
        losses = (reached.square() / 4 - reached) / parameters.beta
    elif parameters.divergence == "hellinger":
        inside = rewards.clamp(min=TANGENT_POINT)
        slope = 1 / (1 + TANGENT_POINT) ** 2
        losses = (-inside / (1 + inside) - slope * (rewards - inside)) / parameters.beta
    else:
        losses = -log_ratios
    return losses, {
        "logprobs/token": Metric.mean_of(tokens.policy, tokens.mask),
        "log_ratio/token": Metric.mean_of(log_ratios, tokens.mask),
        **reference_metrics(rows.completion),
    }


@implements(Unlikelihood)
def unlikelihood(parameters: Unlikelihood, pairs: Pairs) -> Losses:
    """Unlikelihood training (Welleck et al. 2020, arXiv:1908.04319, sec. 5), on pairs.

    -(1/|y_w|) sum_t log pi(y_w,t) - alpha (1/|y_l|) sum_t log(1 - pi(y_l,t)): the paper's sequence-level loss, whose
    negative candidates at position t are here the token y_l,t of the rejected completion. Losses `[B]`. Each side is
    averaged over its own tokens, so that long rejected completions do not drown the likelihood.
    """
    likelihoods, rejected = _tokens_of(pairs.chosen), _tokens_of(pairs.rejected)
    complements = torch.where(rejected.mask, log_complement(torch.where(rejected.mask, rejected.policy, -1.0)), 0.0)
    wanted = torch.where(likelihoods.mask, likelihoods.policy, 0.0).sum(dim=1) / pairs.chosen.tokens
    unwanted = complements.sum(dim=1) / pairs.rejected.tokens
    losses = -wanted - parameters.alpha * unwanted
    metrics = pair_metrics(pairs.chosen.mean_logprob, pairs.rejected.mean_logprob) | logprob_metrics(pairs)
    metrics |= {"loss/likelihood": Metric.mean_of(-wanted), "loss/unlikelihood": Metric.mean_of(-unwanted)}
    return losses, metrics


def _tokens_of(completions: Completions) -> TokenLogprobs:
    if completions.by_token is None:
        raise ValueError("this objective needs the log-probability of every token")
    return completions.by_token
