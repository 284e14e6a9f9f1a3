"""Random numbers of a row, and the choice of a token from logits."""

import numpy as np
import pytest
import torch

from plumbline_api.rlvr_job import Sampling
from plumbline_trainer.rollout.sampling import Stream, choose, philox, uniforms


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
