"""Prefix trees: values of subtrees, order of advantages, and less variance than one flat group."""

from __future__ import annotations

import pytest
import torch

from plumbline_api.methods.advantage.group import GroupRelative
from plumbline_api.methods.advantage.trees import PrefixTree
from plumbline_trainer.advantages import advantages
from plumbline_trainer.failures import DataError
from plumbline_trainer.rollout.judged import JudgedRollout, judged

# a tree of depth two: the root, its children a (2 of 3 right below it) and b (none right), and a's child ab
PREFIXES = [[], [], ["a"], ["a"], ["a", "b"], ["b"], ["b"]]
REWARDS = [1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0]


def rollout_of(
    rewards: list[float] = REWARDS, prefixes: list[list[str]] = PREFIXES, valid: list[bool] | None = None
) -> JudgedRollout:
    columns = [{"tree": "one", "prefix": prefix} for prefix in prefixes]
    return judged(rewards, list(range(len(rewards))), valid, columns=columns)


def raw(baseline: str, alpha: float = 1.0) -> torch.Tensor:
    """Advantages before they are centred, up to a constant: differences of two advantages."""
    return advantages(PrefixTree(baseline=baseline, alpha=alpha), rollout_of())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("baseline", "values"),
    [
        ("expectation", [3 / 7, 3 / 7, 2 / 3, 2 / 3, 1, 0, 0]),
        ("optimistic", [1, 1, 1, 1, 1, 0, 0]),
        ("pessimistic", [0, 0, 0, 0, 1, 0, 0]),
    ],
)
@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_values_of_prefixes_by_hand(baseline: str, values: list[float], alpha: float) -> None:
    above = torch.tensor(REWARDS).double() - alpha * torch.tensor(values).double()
    torch.testing.assert_close(raw(baseline, alpha), above - above.mean())


def test_a_success_from_a_hard_prefix_counts_more_than_one_from_an_easy_prefix() -> None:
    result = raw("expectation").tolist()
    assert result[0] > result[2] > result[4], "the root, its child, the child's child"
    assert result[5] > result[3], "a failure where nothing succeeds counts less than one where others succeed"


def test_the_mean_over_the_tree_is_0() -> None:
    for baseline in ("expectation", "optimistic", "pessimistic"):
        assert raw(baseline).sum().item() == pytest.approx(0, abs=1e-12)


def test_without_baseline_it_is_the_centred_reward() -> None:
    flat = judged(REWARDS, [0] * 7)
    torch.testing.assert_close(raw("expectation", alpha=0.0), advantages(GroupRelative(normalize="none"), flat))


def test_trees_do_not_see_each_other_and_texts_are_prefixes_too() -> None:
    two = judged(
        [1, 0, 1, 1],
        [0, 1, 2, 3],
        columns=[{"t": 1, "p": "x"}, {"t": 1, "p": "x = 1;"}, {"t": 2, "p": "x"}, {"t": 2, "p": "y"}],
    )
    result = advantages(PrefixTree(tree_column="t", prefix_column="p"), two)
    # tree 1: values 1/2 (both) and 0; above them 1/2 and 0, centred
    assert result.tolist() == pytest.approx([0.25, -0.25, 0, 0])


def test_what_was_not_judged_has_no_part_in_any_value() -> None:
    valid = [True, True, True, True, False, True, True]
    result = advantages(PrefixTree(), rollout_of([1, 0, 1, 0, 999, 0, 0], valid=valid))
    values = torch.tensor([2 / 6, 2 / 6, 1 / 2, 1 / 2, 0, 0], dtype=torch.float64)
    above = torch.tensor([1.0, 0, 1, 0, 0, 0], dtype=torch.float64) - values
    assert result[4] == 0
    torch.testing.assert_close(result[torch.tensor(valid)], above - above.mean())


def test_a_row_without_the_columns_is_refused() -> None:
    with pytest.raises(DataError, match="no column prefix"):
        advantages(PrefixTree(), judged([1], [0], columns=[{"tree": "one"}]))
    assert PrefixTree(tree_column="problem").columns == ("problem", "prefix")


def test_the_gradient_varies_less_than_with_one_flat_group_over_mixed_prefixes() -> None:
    """Two prefixes, each with 20 equally likely answers of which 18 and 2 are right. All scores have one size, as about
    holds for completions of many tokens; then the value of the prefix is the best baseline. (With a single logit it
    is not: the rarer outcome has the larger score.)"""
    generator = torch.Generator().manual_seed(0)
    right = torch.tensor([18] * 4 + [2] * 4)
    prefixes = [["easy"]] * 4 + [["hard"]] * 4
    gradients: dict[str, list[torch.Tensor]] = {"tree": [], "flat": []}
    for _ in range(400):
        answers = torch.randint(0, 20, (8,), generator=generator)
        rewards = (answers < right).double()
        scores = torch.nn.functional.one_hot(answers, 20) - torch.full((20,), 1 / 20, dtype=torch.float64)
        tree, flat = rollout_of(rewards.tolist(), prefixes), judged(rewards, [0] * 8)
        for name, estimated in (
            ("tree", advantages(PrefixTree(), tree)),
            ("flat", advantages(GroupRelative(normalize="none"), flat)),
        ):
            products = estimated[:, None] * scores
            gradients[name].append(torch.cat([products[:4].mean(dim=0), products[4:].mean(dim=0)]))
    variance = {name: torch.stack(some).var(dim=0).sum().item() for name, some in gradients.items()}
    assert variance["tree"] < 0.6 * variance["flat"]
