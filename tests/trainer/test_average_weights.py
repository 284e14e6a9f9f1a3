"""The average of weights against its definition, and settings that keep training's course for another batch size."""

import pytest
import torch

from plumbline_trainer.modeling.average_weights import AverageWeights, BatchScaling, centre_of_mass


def test_it_is_the_weighted_mean_of_all_weights_so_far():
    generator = torch.Generator().manual_seed(1)
    history = [torch.randn(3, generator=generator, dtype=torch.float64) for _ in range(6)]
    average = AverageWeights({"w": history[0].clone()}, decay=0.7)
    for weights in history[1:]:
        average.update({"w": weights})
    powers = torch.tensor([0.7 ** (5 - i) for i in range(6)], dtype=torch.float64)
    expected = (powers[:, None] * torch.stack(history)).sum(dim=0) / powers.sum()
    torch.testing.assert_close(average.average["w"], expected)
    assert average.total == pytest.approx(powers.sum().item())


def test_it_goes_on_from_its_state():
    first = AverageWeights({"w": torch.zeros(2)}, decay=0.5)
    first.update({"w": torch.ones(2)})
    again = AverageWeights({"w": first.average["w"].clone()}, 0.5, total=first.total)
    for one in (first, again):
        one.update({"w": torch.full((2,), 3.0)})
    assert torch.equal(first.average["w"], again.average["w"]) and first.total == again.total


def test_other_names_change_nothing():
    average = AverageWeights({"w": torch.zeros(2)}, decay=0.5)
    with pytest.raises(ValueError, match="same parameters"):
        average.update({"v": torch.ones(2)})
    assert average.total == 1 and (average.average["w"] == 0).all()


@pytest.mark.parametrize("wrong", [{"decay": 0.0}, {"decay": 1.0}, {"decay": 0.5, "total": 0.5}])
def test_senseless_settings_are_refused(wrong):
    with pytest.raises(ValueError):
        AverageWeights({}, **wrong)


def test_the_average_spans_the_same_samples_for_a_smaller_batch():
    scaling = BatchScaling(4.0)
    assert centre_of_mass(0.889) == pytest.approx(8.009, abs=1e-3)
    assert centre_of_mass(scaling.average_decay(0.889)) == pytest.approx(4 * centre_of_mass(0.889))
    assert scaling.adam_decay(0.9) ** 4 == pytest.approx(0.9)
    assert scaling.learning_rate(1e-3) == pytest.approx(5e-4)
    assert BatchScaling(1.0).average_decay(0.889) == pytest.approx(0.889)
    with pytest.raises(ValueError):
        BatchScaling(0.0)


def test_adam_takes_the_same_course_on_noise_with_the_scaled_settings():
    """Steps of pure gradient noise: the spread after the same number of samples agrees for batches 4 times smaller."""

    def spread(smaller: int) -> float:
        generator, scaling = torch.Generator().manual_seed(0), BatchScaling(float(smaller))
        weights = torch.zeros(2000, dtype=torch.float64, requires_grad=True)
        betas = (scaling.adam_decay(0.9), scaling.adam_decay(0.999))
        optimizer = torch.optim.Adam([weights], lr=scaling.learning_rate(0.01), betas=betas)
        for _ in range(100 * smaller):
            weights.grad = torch.randn(2000, dtype=torch.float64, generator=generator) * smaller**0.5
            optimizer.step()
        return weights.detach().std().item()

    assert spread(4) == pytest.approx(spread(1), rel=0.1)
