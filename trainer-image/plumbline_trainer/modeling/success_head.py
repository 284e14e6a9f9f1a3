"""A head beside a frozen language model that tells how likely the model succeeds after each next token.

It reads the hidden state that the next token is predicted from, h, so that one pass gives the logits of the model and
those of success for every token a:

    logit p(success | prefix, a) = v . h + c + e_a . silu(W h + b)

The first part is what is known of the prefix, the second what the token changes; with F features it costs
F / H of the language model's own head, in memory as in time, where a full matrix [V, H] would cost as much again and a
trained copy of the model a whole pass. The features are not linear in h because what a token is worth turns on several
things at once. All e_a are zero to start with: no token is better than another, and guidance changes nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import embedding, silu

from plumbline_trainer.data.seeds import derive_seed
from plumbline_trainer.failures import ModelError
from plumbline_trainer.modeling.logprobs import causal_model

SUCCESS_HEAD = "success_head"
"""Name of the head within the transformers model, and so the start of its parameters' names."""

WEIGHTS_FILE, SETTINGS_FILE = "guidance.safetensors", "guidance.json"
"""The head beside an exported model, and how it guides."""


class SuccessHead(nn.Module):
    """Logits of success after single tokens, float32 whatever the model's type."""

    def __init__(self, hidden: int, vocabulary: int, width: int) -> None:
        super().__init__()
        self.features = nn.utils.skip_init(nn.Linear, hidden, width)
        self.prefix = nn.utils.skip_init(nn.Linear, hidden, 1)
        self.tokens = nn.Parameter(torch.zeros(vocabulary, width))

    def forward(self, states: Tensor, tokens: Tensor) -> Tensor:
        """[N] or [N, K] from `states` [N, H] and `tokens` int64 [N] or [N, K]: the logits of success after each."""
        states = states.float()
        features, prefix = silu(self.features(states)), self.prefix(states)
        if tokens.dim() == 1:
            return prefix.squeeze(-1) + (features * embedding(tokens, self.tokens)).sum(dim=-1)
        found: Tensor = prefix + torch.einsum("nf,nkf->nk", features, embedding(tokens, self.tokens))
        return found


def attach_success_head(model: nn.Module, width: int, *, seed: int) -> None:
    """Freezes a causal language model and adds a head to it, the only thing that learns from then on.

    The head is a part of the model: optimizer and checkpoints find its parameters as they find all others. Its start
    depends on `seed` alone. Raises `ValueError` where there is a head already.
    """
    inner = causal_model(model)
    if hasattr(inner, SUCCESS_HEAD):
        raise ValueError(f"{type(inner).__name__} has a success head already")
    hidden = inner.config.get_text_config().hidden_size
    head = SuccessHead(hidden, inner.get_output_embeddings().weight.shape[0], width)
    generator = torch.Generator().manual_seed(derive_seed(seed, "success head"))
    with torch.no_grad():
        head.features.weight.copy_(torch.randn(head.features.weight.shape, generator=generator) / hidden**0.5)
        for zero in (head.features.bias, head.prefix.weight, head.prefix.bias):
            zero.zero_()
    model.requires_grad_(False)
    inner.add_module(SUCCESS_HEAD, head.to(next(model.parameters()).device))


def success_head(model: nn.Module) -> SuccessHead | None:
    """The head of `model`; None where it has none."""
    return getattr(causal_model(model), SUCCESS_HEAD, None)


def detach_success_head(model: nn.Module) -> SuccessHead | None:
    """Removes the head where there is one, and returns it: before and after, the language model is the same."""
    head = success_head(model)
    if head is not None:
        delattr(causal_model(model), SUCCESS_HEAD)
    return head


def save_success_head(head: SuccessHead, settings: dict[str, float], directory: Path) -> None:
    """Writes the head and the `settings` of its guidance beside a model."""
    weights = {name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()}
    save_file(weights, directory / WEIGHTS_FILE)
    (directory / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def load_success_head(directory: Path, device: torch.device) -> tuple[SuccessHead, dict[str, float]]:
    """What `save_success_head` wrote. Raises `ModelError` where it is missing or damaged."""
    try:
        weights = load_file(directory / WEIGHTS_FILE)
        settings: dict[str, float] = json.loads((directory / SETTINGS_FILE).read_text(encoding="utf-8"))
        vocabulary, width = weights["tokens"].shape
        head = SuccessHead(weights["prefix.weight"].shape[1], vocabulary, width)
        head.load_state_dict(weights)
    except Exception as error:  # a missing file, no JSON, no safetensors, or tensors of another head
        raise ModelError(f"model directory {directory}: the guidance head cannot be loaded: {error}") from error
    return head.requires_grad_(False).to(device), settings
