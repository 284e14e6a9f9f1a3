"""Log-likelihoods of completions under a masked diffusion language model, estimated from masked copies.

Such a model sees a text in which some tokens are replaced by the mask token, looks in both directions, and predicts
every hidden token. Its log-likelihood has no closed form; training uses the evidence lower bound (Nie et al. 2025,
"Large Language Diffusion Models", arXiv:2502.09992)

    B(y|x) = E_{t ~ U(0,1)} E_{S: each token of y with probability t} [ 1/t sum_{i in S} log p(y_i | x, y without S) ].

The expectation over t can be taken: a set S of k of the L tokens has weight integral t^(k-1) (1-t)^(L-k) dt =
1 / (k C(L,k)), so

    B(y|x) = sum over non-empty S of 1 / (|S| C(L,|S|)) sum_{i in S} log p(y_i | x, y without S).

The same sum is the expectation of L/k sum_{i in S} log p(y_i | x, y without S) over k uniform in 1..L and S uniform
among the sets of k tokens. That is what is drawn here: unbiased like the first form, without its draws that hide
nothing, and with less variance, because k no longer varies around t L. It is also the mean log-probability of writing
y in a random order, one token at a time, which is why it is at most log p(y|x).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoModelForMaskedLM, PretrainedConfig
from transformers import PreTrainedTokenizerBase as Tokenizer

from plumbline_trainer.data.batches import SequenceBatch
from plumbline_trainer.data.order import derive_seed
from plumbline_trainer.failures import ModelError
from plumbline_trainer.modeling.linear_head import LOGIT_ELEMENTS
from plumbline_trainer.modeling.loading import (
    load_configuration,
    load_model,
    resolve_directory,
    select_device,
    select_dtype,
)
from plumbline_trainer.modeling.logprobs import causal_model, token_logprobs


@dataclass(frozen=True)
class MaskDraws:
    """Which completion tokens are hidden in each of K masked copies of B sequences."""

    masks: torch.Tensor
    """[K, B, T] bool: at least one true within each completion."""

    weights: torch.Tensor
    """[K, B] float32: completion tokens over hidden tokens, L/k."""

    def to(self, device: torch.device) -> MaskDraws:
        return MaskDraws(self.masks.to(device, non_blocking=True), self.weights.to(device, non_blocking=True))


def noise_seed(seed: int, step: int | str, row: int, completion: int, *, reference: bool = False) -> int:
    """The seed of one completion's masks: another one in every step, the same whatever the batch split.

    `step` is the optimizer step, or a name where numbers must be comparable over the run, such as "evaluation"; `row`
    is the number of the row in its data set and `completion` its place in the row. `reference` gives draws that are
    independent of the policy's.
    """
    return derive_seed(seed, "reference masks" if reference else "masks", step, row, completion)


def draw_masks(mask: torch.Tensor, seeds: Sequence[int], *, samples: int, masks_per_step: int = 1) -> MaskDraws:
    """Draws `samples` numbers k of hidden tokens for every sequence, and `masks_per_step` sets of k tokens for each.

    `mask` [B, T] bool is true at completion tokens, which come first in each row; `seeds` has one seed a sequence,
    on which alone its draws depend. For a given number of copies K = samples x masks_per_step, one set a number has
    the least variance. Raises `ValueError` for an empty completion.
    """
    copies, (rows, width) = samples * masks_per_step, mask.shape
    masks = torch.zeros(copies, rows, width, dtype=torch.bool)
    weights = torch.empty(copies, rows)
    for row, (length, seed) in enumerate(zip(mask.sum(dim=1).tolist(), seeds, strict=True)):
        if not length:
            raise ValueError(f"sequence {row} has no completion token to mask")
        generator = torch.Generator().manual_seed(seed)
        hidden = torch.randint(1, length + 1, (samples,), generator=generator).repeat_interleave(masks_per_step)
        order = torch.rand(copies, length, generator=generator, dtype=torch.float64).argsort(dim=1)
        masks[:, row, :length] = order.argsort(dim=1) < hidden[:, None]
        weights[:, row] = length / hidden
    return MaskDraws(masks, weights)


def masked_logprob_estimates(
    model: nn.Module, batch: SequenceBatch, mask_id: int, draws: MaskDraws, *, logit_elements: int = LOGIT_ELEMENTS
) -> torch.Tensor:
    """[B] float32, with gradient: the estimate of B(y|x) of each sequence of `batch` (one row a sequence).

    All K masked copies of the batch go through `model` at once, so that a forward pass has K x B rows. Only hidden
    tokens reach the head. Raises `ValueError` where sequences share a row: in a model that looks in both directions
    they would see each other.
    """
    if batch.groups is not None:
        raise ValueError("masked log-likelihoods need one row a sequence")
    copies = draws.masks.shape[0]
    copy, token = draws.masks[:, batch.mask].nonzero(as_tuple=True)
    input_ids = batch.input_ids.repeat(copies, 1)
    # with one row a sequence, a token stands right after the position that predicts it in a causal model
    hidden = copy * batch.input_ids.numel() + batch.source[token] + 1
    input_ids.view(-1)[hidden] = mask_id
    states = _head_inputs(model, input_ids, batch.lengths.repeat(copies), hidden)
    logprobs = token_logprobs(model, states, batch.targets[batch.mask][token], 1.0, logit_elements)
    sequence = batch.mask.nonzero()[:, 0][token]
    weighted = logprobs * draws.weights[copy, sequence] / copies
    return torch.zeros(batch.size, device=weighted.device).index_add(0, sequence, weighted)


def load_masked_policy(
    location: str, *, dtype: str = "auto", device: torch.device | None = None, activation_checkpointing: bool = False
) -> Any:
    """Loads the masked language model at `location` (directory or URI) as `load_policy` does a causal one, and checks
    that it can be trained. Raises `ModelError`."""
    device = device or select_device()
    directory = resolve_directory(location)
    check_masked_architecture(load_configuration(directory), location)
    model = load_model(
        directory,
        dtype=select_dtype(dtype, device),
        device=device,
        activation_checkpointing=activation_checkpointing,
        model_class=AutoModelForMaskedLM,
    )
    check_masked_model(model)
    return model


def check_masked_architecture(configuration: PretrainedConfig, location: str) -> None:
    """Raises `ModelError` where the architecture of the model at `location` has no masked language model."""
    if type(configuration) not in MODEL_FOR_MASKED_LM_MAPPING:
        raise ModelError(
            f"model {location}: architecture {configuration.model_type} is no masked language model; masked diffusion "
            "needs one that looks in both directions (AutoModelForMaskedLM)"
        )


def mask_token_id(tokenizer: Tokenizer) -> int:
    """The id of the mask token. Raises `ModelError` where the tokenizer has none."""
    if tokenizer.mask_token_id is None:
        raise ModelError("the tokenizer has no mask token (mask_token), which a masked diffusion model needs")
    token: int = tokenizer.mask_token_id
    return token


@torch.no_grad()
def check_masked_model(model: nn.Module) -> None:
    """Refuses a model that looks only to the left, or whose logits are not those of its output embeddings.

    Asked by trying, on a few tokens. Raises `ModelError`.
    """
    inner = causal_model(model)
    name, head = type(inner).__name__, inner.get_output_embeddings()
    if head is None:
        raise ModelError(f"{name} has no output embeddings: it cannot be trained as a masked diffusion model")
    device = next(model.parameters()).device
    ids = torch.tensor([[(7 * position + 3) % head.weight.shape[0] for position in range(8)]] * 2, device=device)
    ids[1, -1] = (ids[1, -1] + 1) % head.weight.shape[0]
    logits = inner(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()
    if torch.equal(logits[0, 0], logits[1, 0]):
        raise ModelError(f"{name} does not look to the right: it is no masked diffusion model")
    targets = ids.flatten()
    states = _head_inputs(model, ids, torch.tensor([8, 8], device=device), torch.arange(16, device=device))
    scored = token_logprobs(model, states, targets, 1.0, LOGIT_ELEMENTS)
    expected = logits.flatten(0, 1).log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    difference = float((scored - expected).abs().max())
    if difference > (1e-3 if inner.dtype == torch.float32 else 1e-1):
        raise ModelError(
            f"{name} makes its logits in a way that is not supported: its log-probabilities differ by {difference:.3g}"
        )


def _head_inputs(
    model: nn.Module, input_ids: torch.Tensor, lengths: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """[N, H]: what the output embeddings get at the flat `positions` [N] of `input_ids` [R, L].

    Masked language models put layers of their own between body and output embeddings. The model's own forward pass
    runs up to the output embeddings, which then are given no rows: no logits are made.
    """
    inner = causal_model(model)
    attended = torch.arange(input_ids.shape[1], device=input_ids.device) < lengths[:, None]
    found: list[torch.Tensor] = []

    def keep(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        states = arguments[0].flatten(0, -2)
        found.append(states.index_select(0, positions))
        return (states[:0],)

    handle = inner.get_output_embeddings().register_forward_pre_hook(keep)
    try:
        inner(input_ids=input_ids, attention_mask=attended.long())
    finally:
        handle.remove()
    return found[0]
