"""Likelihood bounds of a small bidirectional model: enumerated exactly, estimated without bias, with less variance."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path

import peft
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from plumbline_api.methods.preference.diffusion import Vrpo
from plumbline_trainer.data.batches import SequenceBatch, TokenSequence, pad_sequences, share_prompts
from plumbline_trainer.failures import ModelError
from plumbline_trainer.modeling.masked_likelihood import (
    MaskDraws,
    check_masked_model,
    draw_masks,
    load_masked_policy,
    mask_token_id,
    masked_logprob_estimates,
    noise_seed,
)
from plumbline_trainer.objectives.preference.diffusion import vrpo
from plumbline_trainer.objectives.preference.inputs import Completions, Pairs

VOCABULARY, MASK = 12, 11
SEQUENCES = [
    TokenSequence([1, 2, 3], [4, 5, 6, 7]),
    TokenSequence([2], [8, 9]),
    TokenSequence([3, 3, 4, 5], [6, 1, 2]),
    TokenSequence([9, 8], [7]),
]
PAIR = [TokenSequence([1, 2, 3], [4, 5, 6, 7]), TokenSequence([1, 2, 3], [8, 2, 9, 1])]


def small_bert(seed: int = 0) -> BertForMaskedLM:
    configuration = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
        initializer_range=0.4,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BertForMaskedLM(configuration)


@pytest.fixture(scope="module")
def model() -> BertForMaskedLM:
    return small_bert()


@pytest.fixture(scope="module")
def moved(model: BertForMaskedLM) -> BertForMaskedLM:
    """`model` after what could be some training: every parameter has changed a little."""
    other = copy.deepcopy(model)
    draws = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=draws))
    return other


def own_logprobs(model: BertForMaskedLM, sequence: TokenSequence, hidden: set[int]) -> torch.Tensor:
    """[L]: log p(y_i | x, y without `hidden`) from the model's own forward pass over this sequence alone."""
    completion = [MASK if place in hidden else token for place, token in enumerate(sequence.completion_ids)]
    logits = model(input_ids=torch.tensor([[*sequence.prompt_ids, *completion]])).logits[0, len(sequence.prompt_ids) :]
    return logits.log_softmax(-1).gather(1, torch.tensor(sequence.completion_ids)[:, None]).squeeze(1)


def subsets(length: int) -> list[set[int]]:
    places = range(length)
    return [set(some) for size in range(1, length + 1) for some in itertools.combinations(places, size)]


@torch.no_grad()
def by_writing_in_every_order(model: BertForMaskedLM, sequence: TokenSequence) -> float:
    """The bound as the mean log-probability of writing the completion token by token, over all L! orders."""
    length = len(sequence.completion_ids)
    table = {frozenset(hidden): own_logprobs(model, sequence, hidden) for hidden in subsets(length)}
    totals = []
    for order in itertools.permutations(range(length)):
        totals.append(sum(float(table[frozenset(order[step:])][order[step]]) for step in range(length)))
    return sum(totals) / len(totals)


def every_draw(sequence: TokenSequence) -> tuple[SequenceBatch, MaskDraws, torch.Tensor]:
    """The sequence once for each set that can be hidden, and the probability of each set."""
    length = len(sequence.completion_ids)
    sets = subsets(length)
    masks = torch.tensor([[[place in hidden for place in range(length)] for hidden in sets]])
    weights = torch.tensor([[length / len(hidden) for hidden in sets]])
    chances = torch.tensor([1 / (length * math.comb(length, len(hidden))) for hidden in sets])
    return pad_sequences([sequence] * len(sets), 0), MaskDraws(masks, weights), chances


def seeds(count: int, purpose: str = "masks", *, first: int = 0) -> list[int]:
    return [noise_seed(0, purpose, row, 0) for row in range(first, first + count)]


# --- the estimate is right --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sequence", SEQUENCES, ids=lambda sequence: str(len(sequence.completion_ids)))
def test_the_expectation_over_all_draws_is_the_mean_over_all_orders_of_writing(
    model: BertForMaskedLM, sequence: TokenSequence
) -> None:
    batch, draws, chances = every_draw(sequence)
    assert chances.sum().item() == pytest.approx(1)
    expectation = (chances * masked_logprob_estimates(model, batch, MASK, draws).detach()).sum().item()
    assert expectation == pytest.approx(by_writing_in_every_order(model, sequence), rel=1e-5)


def test_masking_each_token_with_probability_t_has_the_same_expectation_and_more_variance(
    model: BertForMaskedLM,
) -> None:
    """E_t E_S [1/t sum] with the integral over t by the midpoint rule, and the same for its second moment."""
    sequence = SEQUENCES[0]
    batch, draws, chances = every_draw(sequence)
    estimates = masked_logprob_estimates(model, batch, MASK, draws).detach().double()
    weights = draws.weights[0].double()
    length = len(sequence.completion_ids)
    hidden = length / weights
    edges = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    times = ((edges[1:] + edges[:-1]) / 2)[:, None]
    chance_at = times**hidden * (1 - times) ** (length - hidden) / len(times)
    value_at = estimates / weights / times
    mean, expectation = (chance_at * value_at).sum(), (chances * estimates).sum()
    assert mean.item() == pytest.approx(expectation.item(), rel=1e-6)
    spread = (chance_at * value_at.square()).sum() - mean.square()
    own_spread = (chances * estimates.square()).sum() - expectation.square()
    assert own_spread < 0.1 * spread


def test_sets_are_drawn_with_their_probabilities() -> None:
    """20,000 draws for 3 tokens: numbers of hidden tokens are equally likely, and so are sets of one size."""
    count = 20_000
    draws = draw_masks(torch.ones(1, 3, dtype=torch.bool), [7], samples=count)
    codes = (draws.masks[:, 0].long() * torch.tensor([1, 2, 4])).sum(1)
    shares = torch.bincount(codes, minlength=8) / count
    expected = torch.tensor([0, 1, 1, 1, 1, 1, 1, 3]) / 9
    assert shares[0] == 0, "something is always hidden"
    assert (shares - expected).abs().max() < 4 * math.sqrt(0.25 / count)
    torch.testing.assert_close(draws.weights[:, 0], 3 / draws.masks[:, 0].sum(1))


def test_masks_of_one_noise_level_hide_the_same_number_of_tokens() -> None:
    draws = draw_masks(torch.ones(2, 9, dtype=torch.bool), [3, 4], samples=5, masks_per_step=4)
    hidden = draws.masks.sum(2).view(5, 4, 2)
    assert (hidden == hidden[:, :1]).all()
    assert len(set(hidden[:, 0, 0].tolist())) > 1
    assert len({tuple(mask) for mask in draws.masks[:, 0].tolist()}) > 5


def test_draws_depend_on_the_seed_alone_and_stay_within_the_completion() -> None:
    wide = torch.tensor([[True] * 3 + [False] * 4, [True] * 7])
    both = draw_masks(wide, [11, 12], samples=6)
    alone = draw_masks(wide[:1, :3], [11], samples=6)
    assert torch.equal(both.masks[:, :1, :3], alone.masks)
    assert not both.masks[:, 0, 3:].any()
    places = itertools.product((1, 2), (0, "evaluation"), (0, 1), (0, 1), (False, True))
    seen = {noise_seed(s, step, row, side, reference=r) for s, step, row, side, r in places}
    assert len(seen) == 32, "every place has noise of its own"
    with pytest.raises(ValueError, match="sequence 1 has no completion token"):
        draw_masks(torch.tensor([[True], [False]]), [1, 2], samples=1)


def test_an_estimate_is_the_weighted_sum_over_the_hidden_tokens_of_the_model_s_own_log_probabilities(
    model: BertForMaskedLM,
) -> None:
    batch = pad_sequences(SEQUENCES, 0)
    draws = draw_masks(batch.mask, seeds(4), samples=3, masks_per_step=2)
    expected = []
    for row, sequence in enumerate(SEQUENCES):
        length, total = len(sequence.completion_ids), 0.0
        for masks in draws.masks[:, row]:
            hidden = set(masks.nonzero()[:, 0].tolist())
            own = own_logprobs(model, sequence, hidden).detach()
            total += length / len(hidden) * sum(float(own[place]) for place in hidden)
        expected.append(total / 6)
    estimates = masked_logprob_estimates(model, batch, MASK, draws)
    assert estimates.tolist() == pytest.approx(expected, rel=1e-5)


def test_one_token_needs_no_estimate(model: BertForMaskedLM) -> None:
    batch = pad_sequences(SEQUENCES[3:], 0)
    values = {
        masked_logprob_estimates(model, batch, MASK, draw_masks(batch.mask, [seed], samples=2)).item()
        for seed in range(5)
    }
    assert len(values) == 1
    assert values.pop() == pytest.approx(own_logprobs(model, SEQUENCES[3], {0}).item(), rel=1e-5)


def test_a_model_that_knows_nothing_gives_every_token_the_same_chance_whatever_is_drawn() -> None:
    blank = small_bert()
    with torch.no_grad():
        blank.get_output_embeddings().weight.zero_()
        blank.get_output_embeddings().bias.zero_()
    batch = pad_sequences(SEQUENCES, 0)
    estimates = masked_logprob_estimates(blank, batch, MASK, draw_masks(batch.mask, seeds(4), samples=2))
    expected = [-len(sequence.completion_ids) * math.log(VOCABULARY) for sequence in SEQUENCES]
    assert estimates.tolist() == pytest.approx(expected, rel=1e-6)


def test_estimates_do_not_depend_on_the_batch(model: BertForMaskedLM) -> None:
    batch = pad_sequences(SEQUENCES, 0)
    together = masked_logprob_estimates(model, batch, MASK, draw_masks(batch.mask, seeds(4), samples=4))
    for row, sequence in enumerate(SEQUENCES):
        single = pad_sequences([sequence], 0)
        draws = draw_masks(single.mask, seeds(1, first=row), samples=4)
        assert masked_logprob_estimates(model, single, MASK, draws).item() == pytest.approx(
            together[row].item(), rel=1e-5
        )


def test_gradients_equal_those_of_the_full_logits(model: BertForMaskedLM) -> None:
    batch = pad_sequences(SEQUENCES, 0)
    draws = draw_masks(batch.mask, seeds(4), samples=2)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    coefficients = torch.tensor([1.0, -2.0, 0.5, 3.0])
    found = torch.autograd.grad(
        (coefficients * masked_logprob_estimates(model, batch, MASK, draws)).sum(), parameters, allow_unused=True
    )
    total = torch.zeros(())
    for row, sequence in enumerate(SEQUENCES):
        for masks, weight in zip(draws.masks[:, row], draws.weights[:, row], strict=True):
            hidden = set(masks.nonzero()[:, 0].tolist())
            own = own_logprobs(model, sequence, hidden)
            total = total + coefficients[row] * weight / 2 * own[sorted(hidden)].sum()
    expected = torch.autograd.grad(total, parameters, allow_unused=True)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_sequences_that_share_a_row_are_refused(model: BertForMaskedLM) -> None:
    batch = share_prompts(PAIR, 0, one_row=False)
    with pytest.raises(ValueError, match="one row a sequence"):
        masked_logprob_estimates(model, batch, MASK, draw_masks(batch.mask, [1, 2], samples=1))


# --- its variance -----------------------------------------------------------------------------------------------------


TRIALS = 300


@torch.no_grad()
def estimates_of_pair(model: BertForMaskedLM, purpose: str, samples: int, masks_per_step: int) -> torch.Tensor:
    """[TRIALS, 2]: independent estimates for the chosen and the rejected completion of `PAIR`."""
    batch = pad_sequences(PAIR * TRIALS, 0)
    draws = draw_masks(batch.mask, seeds(2 * TRIALS, purpose), samples=samples, masks_per_step=masks_per_step)
    return masked_logprob_estimates(model, batch, MASK, draws).view(TRIALS, 2)


def margin_variance(
    policy: BertForMaskedLM, reference: BertForMaskedLM, samples: int, masks_per_step: int, *, shared: bool
) -> float:
    of_policy = estimates_of_pair(policy, "masks", samples, masks_per_step)
    of_reference = estimates_of_pair(reference, "masks" if shared else "other masks", samples, masks_per_step)
    ratios = of_policy - of_reference
    return float((ratios[:, 0] - ratios[:, 1]).var())


def test_the_same_masks_for_policy_and_reference_lower_the_variance_of_the_margin(
    model: BertForMaskedLM, moved: BertForMaskedLM
) -> None:
    shared = margin_variance(moved, model, 4, 1, shared=True)
    independent = margin_variance(moved, model, 4, 1, shared=False)
    assert shared < 0.2 * independent


@pytest.mark.parametrize("shared", [True, False])
def test_many_noise_levels_with_a_mask_each_vary_less_than_one_level_with_many_masks(
    model: BertForMaskedLM, moved: BertForMaskedLM, shared: bool
) -> None:
    many_levels = margin_variance(moved, model, 4, 1, shared=shared)
    one_level = margin_variance(moved, model, 1, 4, shared=shared)
    assert many_levels < 0.9 * one_level


def test_the_variance_falls_with_the_number_of_samples(model: BertForMaskedLM) -> None:
    few, many = (estimates_of_pair(model, "masks", samples, 1).var(0) for samples in (1, 8))
    assert ((few / many - 8).abs() < 3).all()


def test_vrpo_on_estimates_widens_the_margin_of_the_exact_bounds(model: BertForMaskedLM) -> None:
    """Twenty steps with fresh masks: what no step has seen, the bounds by enumeration, moves as the objective wants."""
    parameters, policy = Vrpo(samples=4), copy.deepcopy(model)
    batch = pad_sequences(PAIR, 0)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    for step in range(20):
        draws = draw_masks(
            batch.mask, [noise_seed(0, step, 0, completion) for completion in (0, 1)], samples=parameters.samples
        )
        estimates = masked_logprob_estimates(policy, batch, MASK, draws)
        with torch.no_grad():
            reference = masked_logprob_estimates(model, batch, MASK, draws)
        tokens = batch.mask.sum(dim=1).float()
        chosen, rejected = (
            Completions(estimates[side : side + 1], tokens[side : side + 1], reference[side : side + 1])
            for side in (0, 1)
        )
        losses, metrics = vrpo(parameters, Pairs(chosen, rejected))
        if step == 0:
            assert metrics["rewards/margin"].value == 0, "with shared masks nothing is noise where nothing was learned"
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()

    def margin(some: BertForMaskedLM) -> float:
        return by_writing_in_every_order(some, PAIR[0]) - by_writing_in_every_order(some, PAIR[1])

    assert margin(policy) - margin(model) > 2


# --- loading and checking ---------------------------------------------------------------------------------------------


def test_a_directory_with_a_masked_language_model_is_loaded_and_saved(model: BertForMaskedLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "base")
    loaded = load_masked_policy(str(tmp_path / "base"), dtype="float32", device=torch.device("cpu"))
    batch = pad_sequences(SEQUENCES, 0)
    draws = draw_masks(batch.mask, seeds(4), samples=3)
    estimates = masked_logprob_estimates(loaded, batch, MASK, draws)
    torch.testing.assert_close(estimates, masked_logprob_estimates(model, batch, MASK, draws), rtol=1e-5, atol=1e-5)
    loaded.save_pretrained(tmp_path / "result")
    again = BertForMaskedLM.from_pretrained(tmp_path / "result")
    torch.testing.assert_close(masked_logprob_estimates(again, batch, MASK, draws), estimates, rtol=1e-5, atol=1e-5)


def test_with_an_adapter_that_has_learned_nothing_the_estimates_stay(model: BertForMaskedLM) -> None:
    batch = pad_sequences(SEQUENCES, 0)
    draws = draw_masks(batch.mask, seeds(4), samples=2)
    plain = masked_logprob_estimates(model, batch, MASK, draws)
    adapted = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(r=2, target_modules="all-linear"))
    estimates = masked_logprob_estimates(adapted, batch, MASK, draws)
    torch.testing.assert_close(estimates, plain)
    estimates.sum().backward()
    trained = {name for name, parameter in adapted.named_parameters() if parameter.grad is not None}
    assert trained and all("lora_" in name for name in trained)


def test_a_model_that_looks_only_to_the_left_is_refused(llama_directory: Path) -> None:
    with pytest.raises(ModelError, match="architecture llama is no masked language model"):
        load_masked_policy(str(llama_directory), dtype="float32", device=torch.device("cpu"))
    configuration = small_bert().config
    configuration.is_decoder = True
    with pytest.raises(ModelError, match="does not look to the right"):
        check_masked_model(BertForMaskedLM(configuration))


def test_a_model_that_changes_its_logits_after_the_head_is_refused() -> None:
    class Scaled(BertForMaskedLM):
        def forward(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            output = super().forward(*args, **kwargs)
            output.logits = output.logits * 0.5
            return output

    with pytest.raises(ModelError, match="in a way that is not supported"):
        check_masked_model(Scaled(small_bert().config))
    check_masked_model(small_bert())


def test_a_tokenizer_without_a_mask_token_is_refused(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ModelError, match="no mask token"):
        mask_token_id(chat_tokenizer)
    masked = copy.deepcopy(chat_tokenizer)
    masked.mask_token = "?"
    assert mask_token_id(masked) == chat_tokenizer.convert_tokens_to_ids("?")
