"""Random numbers of a row, and the choice of a token from logits."""

import numpy as np
import pytest
import torch

from plumbline_api.methods.sampling import EntropyDescent, Sampling
from plumbline_trainer.rollout.entropy_descent import entropy_of, lower_entropy
from plumbline_trainer.rollout.sampling import Stream, choose, philox, truncated, uniforms
from plumbline_trainer.rollout.sampling import draw as draw_tokens


def words(*values):
    return [np.array([value], dtype=np.uint64) for value in values]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_known_answers(counter, key, expected):
    assert tuple(int(word[0]) for word in philox(words(*counter), words(*key))) == expected


def draw(streams, count):
    return uniforms(streams, np.tile(np.arange(count), (len(streams), 1)))


def test_numbers_are_uniform_and_uncorrelated_between_rows_and_positions():
    rows = [Stream(7, "rollout", 3, prompt, sample) for prompt in range(64) for sample in range(8)]
    values = draw(rows, 256)
    assert values.min() >= 0
    assert values.max() < 1
    count = values.size
    bins = np.histogram(values, bins=64, range=(0, 1))[0]
    chi_squared = ((bins - count / 64) ** 2 / (count / 64)).sum()
    assert chi_squared < 63 + 5 * np.sqrt(2 * 63)
    centred = values - 0.5
    for products in (centred[:, 1:] * centred[:, :-1], centred[1:] * centred[:-1], centred[8:] * centred[:-8]):
        assert abs(products.mean()) < 5 / 12 / np.sqrt(products.size)


def test_every_part_of_the_key_matters():
    base = {"seed": 1, "purpose": "rollout", "step": 1, "prompt": 1, "sample": 1}
    streams = [Stream(**base)] + [
        Stream(**(base | change))
        for change in ({"seed": 2}, {"purpose": "other"}, {"step": 2}, {"prompt": 2}, {"sample": 2})
    ]
    values = draw(streams, 8)
    assert len(np.unique(values)) == values.size


def test_a_rows_numbers_depend_on_nothing_beside_it():
    streams = [Stream(0, "rollout", 5, prompt, 2) for prompt in range(10)]
    together = draw(streams, 100)
    alone = uniforms([streams[4]], np.arange(40, 60)[None])
    assert (together[4, 40:60] == alone[0]).all()


def frequencies(logits, sampling, count=40_000):
    streams = [Stream(0, "test", 0, row, 0) for row in range(count)]
    uniform = torch.from_numpy(draw(streams, 1)[:, 0])
    tokens, logprobs = choose(logits.expand(count, -1), sampling, uniform)
    return torch.bincount(tokens, minlength=logits.shape[-1]) / count, tokens, logprobs


LOGITS = torch.tensor([[0.3, -1.0, 2.0, 0.9, -3.0, 1.0]])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_follow_the_tempered_distribution(temperature):
    shares, tokens, logprobs = frequencies(LOGITS, Sampling(temperature=temperature))
    expected = (LOGITS[0] / temperature).softmax(-1)
    assert (shares - expected).abs().max() < 0.012
    torch.testing.assert_close(logprobs, expected.log()[tokens])


def test_top_k_keeps_the_k_most_likely():
    shares, _, _ = frequencies(LOGITS, Sampling(top_k=2))
    expected = torch.zeros(6)
    expected[[2, 5]] = LOGITS[0, [2, 5]].softmax(-1)
    assert (shares - expected).abs().max() < 0.012


def test_top_p_keeps_the_smallest_set_that_reaches_the_mass():
    probabilities = torch.tensor([[0.5, 0.3, 0.15, 0.05]])
    shares, _, _ = frequencies(probabilities.log(), Sampling(top_p=0.75))
    assert (shares - torch.tensor([0.625, 0.375, 0, 0])).abs().max() < 0.012
    shares, _, _ = frequencies(probabilities.log(), Sampling(top_p=0.1))
    assert shares.tolist() == [1, 0, 0, 0]


def test_top_p_applies_within_top_k():
    probabilities = torch.tensor([[0.5, 0.3, 0.15, 0.05]])
    # within the two most likely, 0.625 of the mass is the first token's alone
    shares, _, _ = frequencies(probabilities.log(), Sampling(top_k=2, top_p=0.6))
    assert shares.tolist() == [1, 0, 0, 0]


def test_the_logprob_is_that_of_the_whole_tempered_distribution():
    """The trainer knows nothing of truncation; renormalising here would make fresh ratios differ from 1."""
    _, tokens, logprobs = frequencies(LOGITS, Sampling(temperature=0.7, top_k=2, top_p=0.9), count=50)
    torch.testing.assert_close(logprobs, (LOGITS[0] / 0.7).log_softmax(-1)[tokens])


def test_a_token_of_probability_zero_is_never_chosen():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    uniform = torch.tensor([0.0, 0.5 - 2**-53, 0.5, 1 - 2**-52], dtype=torch.float64)
    tokens, _ = choose(logits.expand(4, -1), Sampling(), uniform)
    assert tokens.tolist() == [1, 1, 3, 3]


def test_greedy_takes_the_most_likely():
    tokens, logprobs = choose(LOGITS, None, None)
    assert tokens.tolist() == [2]
    torch.testing.assert_close(logprobs, LOGITS.log_softmax(-1)[:, 2])


def grid(count):
    """Evenly spaced numbers: the tokens drawn with them have shares that are exact up to one in `count`."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def inverse(weights, uniform):
    """The inverse of the cumulative distribution in plain float64."""
    cumulative = weights.double().cumsum(-1)
    return torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True).squeeze(-1)


@pytest.mark.parametrize("size", [1, 7, 512, 1009, 32_000, 50_257])
def test_drawing_by_blocks_is_the_inverse_of_the_cumulative_distribution(size):
    """Sizes with a good block, without one, and smaller than one. Only numbers at a boundary may differ by rounding."""
    generator = torch.Generator().manual_seed(size)
    weights = (3 * torch.randn(1, size, generator=generator)).softmax(-1)
    weights[0, ::3] = 0 if size > 1 else 1
    uniform = grid(2000)
    tokens = draw_tokens(weights.expand(2000, -1), uniform)
    expected = inverse(weights.expand(2000, -1), uniform)
    assert (tokens == expected).float().mean() > 0.998
    neighbours = tokens != expected
    cumulative = weights[0].double().cumsum(-1) / weights.double().sum()
    edges = torch.minimum(cumulative[tokens[neighbours]], cumulative[expected[neighbours]])
    assert ((edges - uniform[neighbours]).abs() < 1e-6).all()
    assert (weights[0, tokens] > 0).all()


def test_the_shares_of_drawn_tokens_are_exact():
    weights = torch.tensor([[1.0, 0.0, 3.0, 2.0, 0.0, 4.0]])
    tokens = draw_tokens(weights.expand(1000, -1), grid(1000))
    assert torch.bincount(tokens, minlength=6).tolist() == [100, 0, 300, 200, 0, 400]


def test_the_shares_pass_a_chi_squared_test_over_a_large_vocabulary():
    logits = torch.randn(1, 4096, generator=torch.Generator().manual_seed(3))
    count = 100_000
    streams = [Stream(1, "test", 0, row, 0) for row in range(count)]
    weights = logits.softmax(-1)
    tokens = torch.cat(
        [
            draw_tokens(weights.expand(len(some), -1), some)
            for some in torch.from_numpy(draw(streams, 1)[:, 0]).split(5000)
        ]
    )
    expected = weights[0].double() * count
    found = torch.bincount(tokens, minlength=4096)
    statistic = float(((found - expected) ** 2 / expected).sum())
    assert abs(statistic - 4095) < 5 * np.sqrt(2 * 4095)


def kept(probabilities, **sampling):
    return truncated(torch.tensor([probabilities]), Sampling(**sampling))[0].tolist()


def test_min_p_keeps_what_is_likely_enough_beside_the_most_likely():
    assert kept([0.5, 0.2, 0.125, 0.175], min_p=0.3) == pytest.approx([0.5, 0.2, 0, 0.175])
    assert kept([0.5, 0.2, 0.125, 0.175], min_p=1.0) == pytest.approx([0.5, 0, 0, 0])


def test_truncations_combine():
    assert kept([0.4, 0.3, 0.2, 0.1], top_k=3, min_p=0.6) == pytest.approx([0.4, 0.3, 0, 0])
    assert kept([0.4, 0.3, 0.2, 0.1], top_p=0.65, min_p=0.1) == pytest.approx([0.4, 0.3, 0, 0])


def test_equally_likely_tokens_are_kept_together():
    assert kept([0.25, 0.25, 0.25, 0.25], top_k=2) == [0.25] * 4
    assert kept([0.4, 0.2, 0.2, 0.2], top_p=0.5) == pytest.approx([0.4, 0.2, 0.2, 0.2])


@pytest.mark.parametrize("top_k", [None, 700])
@pytest.mark.parametrize("top_p", [0.1, 0.7, 0.9, 0.999])
def test_the_nucleus_is_that_of_a_whole_sort_whatever_rows_are_beside_it(top_p, top_k):
    """Peaked rows need few tokens sorted and flat ones all; the answer must not depend on which way was taken."""
    scales = torch.tensor([0.1, 1.0, 3.0, 8.0])[:, None]
    probabilities = (scales * torch.randn(4, 3000, generator=torch.Generator().manual_seed(0))).softmax(-1)
    found = truncated(probabilities, Sampling(top_p=top_p, top_k=top_k))
    for row, mine in zip(probabilities, found, strict=True):
        ordered, order = row.double().sort(descending=True, stable=True)
        ordered = ordered[: top_k or len(ordered)]
        inside = order[: len(ordered)][ordered.cumsum(0) - ordered < top_p * ordered.sum()]
        assert set(mine.nonzero().squeeze(1).tolist()) == set(inside.tolist())
        alone = truncated(row[None], Sampling(top_p=top_p, top_k=top_k))[0]
        assert torch.equal(alone, mine)


def test_changed_scores_decide_the_token_and_leave_its_logprob_alone():
    """The trainer knows nothing of penalties and grammars either."""
    scores = LOGITS.clone()
    scores[0, [2, 5]] = -torch.inf
    count = 1000
    sampling = Sampling(temperature=0.7)
    tokens, logprobs = choose(LOGITS.expand(count, -1), sampling, grid(count), scores.expand(count, -1))
    shares = torch.bincount(tokens, minlength=6) / count
    assert (shares - (scores[0] / 0.7).softmax(-1)).abs().max() <= 1.01 / count
    torch.testing.assert_close(logprobs, (LOGITS[0] / 0.7).log_softmax(-1)[tokens])
    tokens, logprobs = choose(LOGITS, None, None, scores)
    assert tokens.tolist() == [3]
    torch.testing.assert_close(logprobs, LOGITS.log_softmax(-1)[:, 3])


def test_the_descent_of_entropy_is_what_tokens_are_drawn_from_and_their_logprob():
    """After the temperature and before truncation; all tokens stay possible, so that ratios to the sampler exist."""
    count, descent = 1000, EntropyDescent(floor=0.4, learning_rate=1.0, max_steps=40)
    surer = lower_entropy(LOGITS / 1.5, 0.4, rate=1.0, most_steps=40)
    assert entropy_of(surer).item() == pytest.approx(0.4, abs=1e-4)
    rows, sampling = LOGITS.expand(count, -1), Sampling(temperature=1.5, entropy_descent=descent)
    tokens, logprobs = choose(rows, sampling, grid(count))
    assert (torch.bincount(tokens, minlength=6) / count - surer[0].softmax(-1)).abs().max() <= 1.01 / count
    torch.testing.assert_close(logprobs, surer[0].log_softmax(-1)[tokens])
    tokens, logprobs = choose(rows, sampling.model_copy(update={"top_k": 2}), grid(count))
    assert set(tokens.tolist()) == {2, 5}
    torch.testing.assert_close(logprobs, surer[0].log_softmax(-1)[tokens])


def test_the_descent_of_entropy_acts_on_changed_scores_too():
    scores = LOGITS.clone()
    scores[0, 2] = -torch.inf
    sampling = Sampling(entropy_descent=EntropyDescent(floor=0.1, learning_rate=1.0, max_steps=20))
    tokens, logprobs = choose(LOGITS.expand(1000, -1), sampling, grid(1000), scores.expand(1000, -1))
    expected = lower_entropy(scores, 0.1, rate=1.0, most_steps=20)[0].softmax(-1)
    assert (torch.bincount(tokens, minlength=6) / 1000 - expected).abs().max() <= 1.01 / 1000
    own = lower_entropy(LOGITS, 0.1, rate=1.0, most_steps=20)[0].log_softmax(-1)
    torch.testing.assert_close(logprobs, own[tokens])


@pytest.mark.parametrize(("right", "gains"), [(2, True), (3, False)])
def test_surer_sampling_helps_where_the_likeliest_answer_is_right_and_hurts_where_it_is_not(right, gains):
    surer = Sampling(entropy_descent=EntropyDescent(floor=0.1, learning_rate=1.0, max_steps=20))
    rates = []
    for sampling in (Sampling(), surer):
        tokens, _ = choose(LOGITS.expand(1000, -1), sampling, grid(1000))
        rates.append((tokens == right).double().mean().item())
    assert (rates[1] > rates[0] + 0.1) if gains else (rates[1] < rates[0] - 0.1)
