"""A reference that follows the policy: exact mixtures in place, and mistakes refused before anything moves."""

from __future__ import annotations

import copy
import re

import pytest
import torch

from plumbline_trainer.modeling.moving_reference import mix_parameters


def two_models(dtype: torch.dtype = torch.float32) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A reference and a policy of the same shape, both random; the output layer is tied to the embedding."""
    torch.manual_seed(0)
    models = []
    for _ in range(2):
        model = torch.nn.Sequential(torch.nn.Embedding(5, 3), torch.nn.Linear(3, 3), torch.nn.Linear(3, 5, bias=False))
        model[2].weight = model[0].weight
        models.append(model.to(dtype))
    return models[0], models[1]


def parameters_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters())


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 1.0])
def test_every_parameter_becomes_the_weighted_mean(share: float) -> None:
    reference, policy = two_models()
    before, of_policy = copy.deepcopy(reference.state_dict()), copy.deepcopy(policy.state_dict())
    mix_parameters(parameters_of(reference), parameters_of(policy), share)
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(value, share * of_policy[name] + (1 - share) * before[name])
        assert torch.equal(policy.state_dict()[name], of_policy[name])
    assert reference[2].weight is reference[0].weight, "tied parameters stay tied and move once"


def test_a_share_of_one_copies_exactly_and_repeated_mixing_converges() -> None:
    reference, policy = two_models()
    copied = copy.deepcopy(reference)
    mix_parameters(parameters_of(copied), parameters_of(policy), 1.0)
    assert all(torch.equal(copied.state_dict()[name], value) for name, value in policy.state_dict().items())
    start = (reference[0].weight - policy[0].weight).norm()
    for _ in range(5):
        mix_parameters(parameters_of(reference), parameters_of(policy), 0.6)
    distance = (reference[0].weight - policy[0].weight).norm()
    assert (distance / start).item() == pytest.approx(0.4**5, rel=1e-3)


def test_a_reference_of_lower_precision_is_rounded_once() -> None:
    reference, _ = two_models(torch.bfloat16)
    _, policy = two_models(torch.float32)
    before = reference[1].weight.detach().float().clone()
    mix_parameters(parameters_of(reference), parameters_of(policy), 0.25)
    exact = 0.25 * policy[1].weight + 0.75 * before
    assert reference[1].weight.dtype == torch.bfloat16
    torch.testing.assert_close(reference[1].weight.float(), exact, rtol=2**-7, atol=2**-8)


def test_no_gradient_is_recorded() -> None:
    reference, policy = two_models()
    mix_parameters(parameters_of(reference), parameters_of(policy), 0.5)
    assert all(parameter.grad_fn is None and parameter.is_leaf for parameter in reference.parameters())


def test_mistakes_are_named_and_change_nothing() -> None:
    reference, policy = two_models()
    before = copy.deepcopy(reference.state_dict())
    fewer = parameters_of(policy)
    fewer.pop("1.bias")
    wider = parameters_of(policy) | {"1.bias": torch.zeros(4)}
    for wrong, share, message in (
        (fewer, 0.5, "do not have the same parameters: 1.bias"),
        (wider, 0.5, "1.bias has shape (4,) in the policy and (3,) in the reference"),
        (parameters_of(policy), 1.5, "must be between 0 and 1, not 1.5"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            mix_parameters(parameters_of(reference), wrong, share)
    assert all(torch.equal(reference.state_dict()[name], value) for name, value in before.items())
