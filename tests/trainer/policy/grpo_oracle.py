"""The loss of TRL's own GRPO trainers as an oracle: their code, on models and completions made here.

    batch = PolicyBatch.random(seed=0)
    assert_same_loss(batch.policy, loss_of(Ppo(), batch.tokens())[0], trl_grpo(batch, loss_type="bnpo"))

Both sides see a `Bigram`, whose logits after a token are a row of one table: the gradient of a loss with respect to
that table is the gradient with respect to every logit that entered it.
"""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
from trl.experimental.gmpo.gmpo_trainer import GMPOTrainer
from trl.experimental.gspo_token.grpo_trainer import GRPOTrainer as GSPOTokenTrainer
from trl.trainer.grpo_trainer import GRPOTrainer

from plumbline_trainer.objectives.policy.inputs import PolicyTokens
from tests.trainer.objectives.trl_oracle import Bigram, Sequences

PROMPT_TOKENS = 2
LONGEST = 8
"""The longest completion that a job would allow; those of a batch are shorter."""

ONE_PROCESS = SimpleNamespace(
    num_processes=1,
    sync_gradients=True,
    is_main_process=False,  # nobody to report durations to
    gather=lambda value: value,
    reduce=lambda value, reduction: value,
    pad_across_processes=lambda value, dim, pad_index: value,
)


@dataclass(frozen=True)
class PolicyBatch:
    """Completions under a policy, that before the updates, that of the sampler, and a reference."""

    policy: Bigram
    old: Bigram
    sampler: Bigram
    reference: Bigram
    completions: Sequences
    advantages: torch.Tensor

    @classmethod
    def random(
        cls, seed: int, rows: int = 6, vocabulary: int = 7, spread: float = 0.3, dtype: torch.dtype = torch.float64
    ) -> PolicyBatch:
        """Completions of 1 to 6 tokens; the logits of each model differ from the next one's by about `spread`."""
        random = torch.Generator().manual_seed(seed)
        tables = [torch.randn(vocabulary, vocabulary, generator=random, dtype=dtype)]
        for _ in range(3):
            tables.append(tables[-1] + spread * torch.randn(vocabulary, vocabulary, generator=random, dtype=dtype))
        prompts = torch.randint(vocabulary, (rows, PROMPT_TOKENS), generator=random)
        lengths = torch.randint(1, 7, (rows,), generator=random)
        lengths[0] = 6
        completions = Sequences.random(prompts, lengths.tolist(), vocabulary, random)
        policy, *others = (Bigram(table) for table in tables)
        frozen = [other.requires_grad_(False) for other in others]
        return cls(policy, *frozen, completions, torch.randn(rows, generator=random, dtype=dtype))

    def logprobs(self, model: Bigram) -> torch.Tensor:
        """[B, T] of the completions' tokens; 0 outside."""
        return model.token_logprobs(self.completions.ids, self.completions.completion)[:, PROMPT_TOKENS - 1 :]

    @property
    def mask(self) -> torch.Tensor:
        """[B, T] bool: true at tokens of the completions."""
        return self.completions.completion[:, PROMPT_TOKENS:]

    def entropies(self) -> torch.Tensor:
        """[B, T] of the policy's distributions at the completions' tokens, with gradient."""
        by_row = torch.distributions.Categorical(logits=self.policy.table).entropy()
        return by_row[self.completions.ids[:, PROMPT_TOKENS - 1 : -1]]

    def tokens(self, **more: Any) -> PolicyTokens:
        """What our objectives see."""
        return PolicyTokens(
            self.logprobs(self.policy),
            self.mask,
            self.advantages[:, None].expand(self.mask.shape),
            old_logprobs=self.logprobs(self.old),
            sampled_logprobs=self.logprobs(self.sampler),
            reference_logprobs=self.logprobs(self.reference),
            entropy=self.entropies(),
            **more,
        )

    def inputs(self) -> dict[str, torch.Tensor]:
        """What TRL's trainers see."""
        ids = self.completions.ids
        return {
            "prompt_ids": ids[:, :PROMPT_TOKENS],
            "prompt_mask": torch.ones_like(ids[:, :PROMPT_TOKENS]),
            "completion_ids": ids[:, PROMPT_TOKENS:],
            "completion_mask": self.mask.long(),
            "advantages": self.advantages,
            "old_per_token_logps": self.logprobs(self.old),
            "sampling_per_token_logps": self.logprobs(self.sampler),
            "ref_per_token_logps": self.logprobs(self.reference),
            "num_items_in_batch": self.mask.sum(),
        }


def trl_grpo(batch: PolicyBatch, *, importance_weights: torch.Tensor | None = None, **settings: Any) -> torch.Tensor:
    """`GRPOTrainer`'s loss; `settings` are its attributes or its arguments.

    `importance_weights` [B, T] or [B, 1] are the ratios that it makes from the sampler's log-probabilities before.
    """
    extra = {} if importance_weights is None else {"importance_sampling_ratio": importance_weights}
    corrected = {"use_vllm": importance_weights is not None}
    return _loss(GRPOTrainer, batch, {**settings, **corrected}, extra)


def trl_gspo_token(batch: PolicyBatch, **settings: Any) -> torch.Tensor:
    """The loss of its experimental trainer for GSPO-token."""
    return _loss(GSPOTokenTrainer, batch, {"importance_sampling_level": "sequence_token", **settings}, {})


def trl_gmpo(batch: PolicyBatch, **settings: Any) -> torch.Tensor:
    """The loss of its experimental trainer for GMPO, whose bounds are those of log-ratios."""
    return _loss(GMPOTrainer, batch, settings, {})


def _loss(trainer: type[Any], batch: PolicyBatch, settings: dict[str, Any], extra: dict[str, Any]) -> torch.Tensor:
    """The trainer's loss without its `__init__`, which would want data sets and folders; as in a run of one process."""
    arguments = {
        "delta": None,
        "use_bias_correction_kl": False,
        "sapo_temperature_pos": 1.0,
        "sapo_temperature_neg": 1.05,
        "vespo_k_pos": 2.0,
        "vespo_lambda_pos": 3.0,
        "vespo_k_neg": 3.0,
        "vespo_lambda_neg": 2.0,
        "steps_per_generation": 1,
    }
    attributes = {
        "model": batch.policy,
        "accelerator": ONE_PROCESS,
        "loss_type": "grpo",
        "importance_sampling_level": "token",
        "epsilon_low": 0.2,
        "epsilon_high": 0.2,
        "beta": 0.0,
        "temperature": 1.0,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "use_vllm": False,
        "vllm_importance_sampling_correction": True,
        "max_completion_length": LONGEST,
        "current_gradient_accumulation_steps": 1,
        "aux_loss_enabled": False,
        "entropy_coef": 0.0,
        "use_adaptive_entropy": False,
        "_entropy_bonus_enabled": False,
        "model_kwarg_keys": set(),
        "_metrics": {"train": defaultdict(list), "eval": defaultdict(list)},
    }
    unknown = settings.keys() - attributes.keys() - arguments.keys()
    assert not unknown, f"the loss reads no {sorted(unknown)}"
    made = trainer.__new__(trainer)
    made.__dict__.update({name: settings.get(name, value) for name, value in attributes.items()})
    made.__dict__["args"] = SimpleNamespace(**{name: settings.get(name, value) for name, value in arguments.items()})
    loss: torch.Tensor = made._compute_loss(batch.policy, {**batch.inputs(), **extra})
    return loss
