"""TRL's own losses as an oracle: the code that its trainers run, on models and batches made here.

Both sides see the same tensors. A `Bigram` is a language model whose logits after a token are a row of one table, so
that any batch can be scored, and the gradient of a loss with respect to that table is the gradient with respect to
every logit that entered it. A `PairBatch` gives our objectives their log-probabilities (through `torch.log_softmax`,
not through TRL) and TRL's trainers the batch that their collators would have made:

    batch = PairBatch.random(seed=0)
    assert_same_loss(batch.policy, mean_loss(Dpo(), batch.pairs()), trl_dpo(batch, "sigmoid"))

Trainers are made without their `__init__`, which would want data sets, tokenizers and output folders; they get the
attributes that their loss reads, as a run with one process has them.
"""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
from trl.experimental.bco.bco_trainer import BCOTrainer, RunningMoments
from trl.experimental.cpo.cpo_trainer import CPOTrainer
from trl.experimental.orpo.orpo_trainer import ORPOTrainer
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_trainer import KTOTrainer

from plumbline_trainer.objectives.preference.inputs import Completions, Pairs, TokenLogprobs, Unpaired
from plumbline_trainer.objectives.registry import implementation_of

ONE_PROCESS = SimpleNamespace(
    device=torch.device("cpu"),
    use_distributed=False,
    is_main_process=True,
    gather=lambda value: value,
    gather_for_metrics=lambda value: value,
)
"""What a trainer asks of its accelerator, in a run with one process."""


class Bigram(torch.nn.Module):
    """A language model of token pairs: logits `[V]` after a token are its row of `table` `[V, V]`."""

    is_gradient_checkpointing = False

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(table)

    def forward(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self.table[input_ids])

    def token_logprobs(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[N, L - 1]: log-probability of each token of `ids` `[N, L]` after the first, 0 where `mask` is false."""
        logprobs = torch.log_softmax(self.table, dim=1)[ids[:, :-1], ids[:, 1:]]
        return logprobs * mask[:, 1:]


@dataclass(frozen=True)
class Sequences:
    """N sequences: prompt tokens, then completion tokens, then padding."""

    ids: torch.Tensor
    """[N, L] int64."""

    completion: torch.Tensor
    """[N, L] bool: true at completion tokens."""

    attention: torch.Tensor
    """[N, L] int64: 0 at padding."""

    @classmethod
    def random(cls, prompts: torch.Tensor, lengths: list[int], vocabulary: int, random: torch.Generator) -> Sequences:
        """Completions of the given `lengths` for `prompts` `[N, P]`, drawn uniformly, padded on the right."""
        rows, start = prompts.shape
        ids = torch.zeros(rows, start + max(lengths), dtype=torch.long)
        ids[:, :start] = prompts
        position = torch.arange(ids.shape[1])
        end = start + torch.tensor(lengths)[:, None]
        completion = (position >= start) & (position < end)
        ids[completion] = torch.randint(vocabulary, (int(completion.sum()),), generator=random)
        return cls(ids, completion, (position < end).long())

    def scored(self, policy: Bigram, reference: Bigram) -> Completions:
        """These completions as objectives see them."""
        mask = self.completion[:, 1:]
        of_policy = policy.token_logprobs(self.ids, self.completion)
        of_reference = reference.token_logprobs(self.ids, self.completion).detach()
        tokens = TokenLogprobs(of_policy, mask, of_reference)
        return Completions(
            of_policy.sum(dim=1), mask.sum(dim=1).to(of_policy.dtype), of_reference.sum(dim=1), by_token=tokens
        )

    @property
    def labels(self) -> torch.Tensor:
        """[N, L]: the tokens, with -100 wherever no loss is taken."""
        return self.ids.masked_fill(~self.completion, -100)


@dataclass(frozen=True)
class PairBatch:
    """Pairs under a policy and a reference that differ."""

    policy: Bigram
    reference: Bigram
    chosen: Sequences
    rejected: Sequences

    @classmethod
    def random(
        cls, seed: int, rows: int = 4, vocabulary: int = 7, spread: float = 1.0, dtype: torch.dtype = torch.float64
    ) -> PairBatch:
        """Prompts of 2 tokens, completions of 1 to 6; logits are normal with standard deviation `spread`."""
        random = torch.Generator().manual_seed(seed)
        tables = [spread * torch.randn(vocabulary, vocabulary, generator=random, dtype=dtype) for _ in range(2)]
        prompts = torch.randint(vocabulary, (rows, 2), generator=random)
        # both sides are padded to the same width, as a batch of both needs it
        lengths = torch.randint(1, 7, (2, rows), generator=random)
        lengths[:, 0] = 6
        sides = [Sequences.random(prompts, side.tolist(), vocabulary, random) for side in lengths]
        return cls(Bigram(tables[0]), Bigram(tables[1]).requires_grad_(False), *sides)

    def pairs(self) -> Pairs:
        """What our objectives see."""
        return Pairs(self.chosen.scored(self.policy, self.reference), self.rejected.scored(self.policy, self.reference))

    def unpaired(self) -> Unpaired:
        """All completions, the chosen first, as desirable and undesirable rows."""
        both = _joined(self.chosen, self.rejected)
        rows = self.chosen.ids.shape[0]
        return Unpaired(both.scored(self.policy, self.reference), torch.arange(2 * rows) < rows)


def mean_loss(parameters: Any, inputs: Any) -> torch.Tensor:
    """Scalar: the mean of our objective's row losses."""
    losses: torch.Tensor = implementation_of(parameters)(parameters, inputs)[0]
    return losses.mean()


def assert_same_loss(
    policy: Bigram, ours: torch.Tensor, theirs: torch.Tensor, value: float = 1e-6, gradient: float = 1e-6
) -> None:
    """Two scalars are equal, and so are their gradients with respect to every logit; tolerances are absolute."""
    assert ours.item() == pytest.approx(theirs.item(), abs=value, rel=0)
    our_gradient, their_gradient = (torch.autograd.grad(loss, policy.table)[0] for loss in (ours, theirs))
    assert our_gradient.abs().max() > 1e-4, "a gradient of nothing would equal anything"
    torch.testing.assert_close(our_gradient, their_gradient, atol=gradient, rtol=0)


def trl_dpo(batch: PairBatch, *loss_types: str, weights: list[float] | None = None, **settings: Any) -> torch.Tensor:
    """`DPOTrainer`'s loss: the weighted sum of its `loss_types`; `settings` are attributes, such as `beta`.

    `discopop_tau` is the one setting that the trainer reads from its arguments.
    """
    trainer = _without_init(
        DPOTrainer,
        batch,
        loss_types=list(loss_types),
        loss_weights=weights or [1.0] * len(loss_types),
        beta=0.1,
        label_smoothing=0.0,
        ld_alpha=None,
        f_divergence_type="reverse_kl",
        f_alpha_divergence_coef=0.5,
        use_weighting=False,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None, discopop_tau=settings.pop("discopop_tau", 0.05)),
    )
    _set(trainer, settings)
    both = _joined(batch.chosen, batch.rejected)
    inputs = {"input_ids": both.ids, "attention_mask": both.attention, "completion_mask": both.completion.long()}
    loss: torch.Tensor = trainer._compute_loss(batch.policy, inputs, False)
    return loss


def trl_kto(batch: PairBatch, mismatched: Sequences | None = None, **settings: Any) -> torch.Tensor:
    """`KTOTrainer`'s loss on the completions of `PairBatch.unpaired`.

    `mismatched` are the completions from which it estimates the KL divergence; it takes that for 0 without any.
    """
    trainer = _without_init(
        KTOTrainer,
        batch,
        loss_type="kto",
        beta=0.1,
        desirable_weight=1.0,
        undesirable_weight=1.0,
        calculate_KL=mismatched is not None,
        use_liger_kernel=False,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
    )
    _set(trainer, settings)
    both = _joined(batch.chosen, batch.rejected)
    inputs = {
        "input_ids": both.ids,
        "attention_mask": both.attention,
        "completion_mask": both.completion.long(),
        "label": batch.unpaired().desirable,
    }
    if mismatched is not None:
        inputs |= {
            "KL_input_ids": mismatched.ids,
            "KL_attention_mask": mismatched.attention,
            "KL_completion_mask": mismatched.completion.long(),
        }
    loss: torch.Tensor = trainer._compute_loss(batch.policy, inputs, False)
    return loss


def trl_cpo(batch: PairBatch, loss_type: str, **settings: Any) -> torch.Tensor:
    """`CPOTrainer`'s loss: CPO ("sigmoid", "hinge", "ipo") and SimPO ("simpo"), AlphaPO with `alpha`.

    `cpo_alpha` weighs the likelihood of the chosen completions, averaged over all their tokens in the batch.
    """
    trainer = _without_init(
        CPOTrainer,
        batch,
        loss_type=loss_type,
        beta=0.1,
        label_smoothing=0.0,
        alpha=0.0,
        cpo_alpha=0.0,
        simpo_gamma=0.5,
        is_encoder_decoder=False,
        pad_token_id=0,
    )
    _set(trainer, settings)
    loss: torch.Tensor = trainer.get_batch_loss_metrics(batch.policy, _concatenated(batch))[0]
    return loss


def trl_orpo(batch: PairBatch, beta: float) -> torch.Tensor:
    """`ORPOTrainer`'s odds ratio term alone: -beta log sigmoid(log odds ratio), averaged over rows.

    Its other term is left out because TRL takes that likelihood over the prompt as well.
    """
    trainer = _without_init(ORPOTrainer, batch, beta=beta, is_encoder_decoder=False, padding_value=0)
    logprobs = trainer.concatenated_forward(batch.policy, _concatenated(batch))[:2]
    ratios: torch.Tensor = trainer.odds_ratio_loss(*logprobs)[0]
    return -ratios.mean()


def trl_bco(batch: PairBatch, beta: float, train: bool = True) -> tuple[torch.Tensor, float]:
    """`BCOTrainer`'s loss in its first step, and the reward shift that it subtracted (0 unless `train`)."""
    trainer = _without_init(BCOTrainer, batch, beta=beta, embedding_func=None, running=RunningMoments(ONE_PROCESS))
    pairs = batch.pairs()
    losses, _, _, shift = trainer.bco_loss(
        pairs.chosen.logprob,
        pairs.rejected.logprob,
        pairs.chosen.reference,
        pairs.rejected.reference,
        None,
        None,
        do_train=train,
    )
    return losses.mean(), float(shift)


def _without_init(trainer: type[Any], batch: PairBatch, **attributes: Any) -> Any:
    made = trainer.__new__(trainer)
    everywhere = {
        "model": batch.policy,
        "ref_model": batch.reference,
        "accelerator": ONE_PROCESS,
        "precompute_ref_logps": False,
        "aux_loss_enabled": False,
        "_metrics": {"train": defaultdict(list), "eval": defaultdict(list)},
        "_total_train_tokens": 0,
        "_tp_size": 1,
    }
    made.__dict__.update(everywhere | attributes)
    return made


def _set(trainer: Any, settings: dict[str, Any]) -> None:
    unknown = settings.keys() - trainer.__dict__.keys()
    assert not unknown, f"{type(trainer).__name__}'s loss reads no {sorted(unknown)}"
    trainer.__dict__.update(settings)


def _joined(*sides: Sequences) -> Sequences:
    return Sequences(
        torch.cat([side.ids for side in sides]),
        torch.cat([side.completion for side in sides]),
        torch.cat([side.attention for side in sides]),
    )


def _concatenated(batch: PairBatch) -> dict[str, torch.Tensor]:
    return {
        f"{name}_{part}": tensor
        for name, side in (("chosen", batch.chosen), ("rejected", batch.rejected))
        for part, tensor in (("input_ids", side.ids), ("attention_mask", side.attention), ("labels", side.labels))
    }
