"""How the sequences of a job become forward passes of its model."""

from __future__ import annotations

from torch import nn

from plumbline_trainer.data.batches import Layout, default_token_budget
from plumbline_trainer.modeling.adapters import without_adapter
from plumbline_trainer.modeling.scoring import evaluating
from plumbline_trainer.modeling.shared_prefix import can_share_prompts


def model_layout(
    model: nn.Module, pad_token_id: int, *, longest: int, copies: int = 1, looks_left: bool = True
) -> Layout:
    """The layout for sequences of at most `longest` tokens, on the model's device.

    `copies` is how often a pass repeats each sequence. A model that looks to both sides (`looks_left` false) shares no
    prompts, nor does one whose attention cannot.
    """
    inner, device = without_adapter(model), next(model.parameters()).device
    with evaluating(model):
        shares = looks_left and can_share_prompts(getattr(inner, inner.base_model_prefix), longest)
    budget = max(1, default_token_budget(device) // copies)
    return Layout(pad_token_id, shares, one_row=device.type == "cpu", token_budget=budget)
