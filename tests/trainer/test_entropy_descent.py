"""Logits made surer: the gradient, the floor, and the token that stays the likeliest."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plumbline_trainer.rollout.entropy_descent import entropy_gradient, entropy_of, lower_entropy


def test_the_gradient_of_the_entropy():
    logits = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    (expected,) = torch.autograd.grad(entropy_of(logits).sum(), logits)
    torch.testing.assert_close(entropy_gradient(logits.detach()), expected)


def test_rows_end_at_the_floor_and_keep_their_likeliest_token():
    logits = 2 * torch.randn(16, 50, generator=torch.Generator().manual_seed(2))
    found = lower_entropy(logits, 0.5, rate=1.0, most_steps=5000)
    torch.testing.assert_close(entropy_of(found), torch.full((16,), 0.5), rtol=0, atol=1e-4)
    assert torch.equal(found.argmax(dim=1), logits.argmax(dim=1))


def test_sure_rows_and_forbidden_tokens_stay():
    logits = torch.tensor([[9.0, 0.0, 0.0], [1.0, 0.9, float("-inf")]])
    found = lower_entropy(logits, 0.1, most_steps=50)
    assert torch.equal(found[0], logits[0])
    assert found[1, 2] == float("-inf") and found[1, :2].isfinite().all()
    assert 0.1 <= entropy_of(found)[1] < entropy_of(logits)[1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=9), st.floats(0.01, 1.0))
def test_entropy_never_rises_nor_falls_below_the_floor(values, floor):
    logits = torch.tensor([values])
    before, found = entropy_of(logits), lower_entropy(logits, floor)
    after = entropy_of(found)
    assert after <= before + 1e-5
    assert after >= min(floor, before.item()) - 1e-5
    assert found[0, logits.argmax()] >= found.max() - 1e-5


@pytest.mark.parametrize("wrong", [{"floor": -1.0}, {"floor": 1.0, "rate": 0.0}, {"floor": 1.0, "most_steps": 0}])
def test_senseless_settings_are_refused(wrong):
    with pytest.raises(ValueError):
        lower_entropy(torch.zeros(1, 2), **wrong)
