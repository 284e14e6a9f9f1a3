"""The judge of pairs against a real server: win rates, what is asked, what fails, and a job that learns from it."""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from plumbline_api.contract import TrainerConfig
from plumbline_api.methods.verifiers.pairwise import PairwiseJudge
from plumbline_api.sources import Reward
from plumbline_trainer.data.rows import PromptRow
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.failures import RewardFunctionError
from plumbline_trainer.rewards.components import open_batch_components
from plumbline_trainer.rewards.pairwise_judge import NO_OPPONENT, PairwiseJudgeComponent, pairs
from plumbline_trainer.rewards.pool import Outcome, VerifierPool
from plumbline_trainer.rewards.rehearsal import rehearse
from plumbline_trainer.rewards.scoring import Sample, Scorer
from plumbline_trainer.stopping import StopRequest
from plumbline_trainer.tasks.rlvr import build
from tests.trainer.judge_server import Judge, chat_reply, served
from tests.trainer.rlvr_jobs import write_job
from tests.trainer.rlvr_rank import start_rank


def longer(body: dict[str, Any]) -> dict[str, Any]:
    """Prefers the longer text."""
    difference = len(body["first"]) - len(body["second"])
    return {"preferred": "tie" if not difference else "first" if difference > 0 else "second"}


@pytest.fixture
def judge() -> Iterator[Judge]:
    with served(longer) as server:
        yield server


def component(judge: Judge, timeout: float = 10.0, **options: Any) -> PairwiseJudgeComponent:
    parameters = PairwiseJudge.model_validate({"url": judge.url, "backoffSeconds": 0.001, **options})
    return PairwiseJudgeComponent("better", parameters, timeout)


def samples(*completions: str, group: int = 0, prompt: Any = "question") -> list[Sample]:
    return [Sample(prompt, completion, "answer", {}, group) for completion in completions]


def values(outcomes: list[Outcome]) -> list[float | None]:
    return [outcome.value for outcome in outcomes]


def test_the_reward_is_the_share_of_the_group_that_is_beaten(judge):
    assert values(component(judge).score(samples("bb", "dddd", "a", "ccc"))) == [1 / 3, 1, 0, 2 / 3]
    assert {"prompt": "question", "first": "bb", "second": "ccc", "answer": "answer"} in judge.seen
    assert len(judge.seen) == 4 * 3


def test_groups_are_compared_within_themselves(judge):
    mixed = [one for pair in zip(samples("a", "bb"), samples("eeee", "ccc", group=7), strict=True) for one in pair]
    assert values(component(judge).score(mixed)) == [0, 1, 1, 0]
    assert len(judge.seen) == 4


def test_a_tie_counts_one_half(judge):
    assert values(component(judge).score(samples("aa", "bb", "c"))) == [0.75, 0.75, 0]


def test_equal_texts_are_tied_without_asking_and_no_question_is_asked_twice(judge):
    assert values(component(judge).score(samples("a", "a", "bb", "bb"))) == [1 / 6, 1 / 6, 5 / 6, 5 / 6]
    assert len(judge.seen) == 2


def test_the_mean_over_a_group_is_one_half(judge):
    outcomes = component(judge).score(samples(*("x" * (n % 5) for n in range(9))))
    assert sum(values(outcomes)) / 9 == pytest.approx(0.5)


def test_a_judge_that_always_prefers_what_comes_first_decides_nothing_when_asked_both_ways(judge):
    judge.verdict = lambda body: {"preferred": "first"}
    assert values(component(judge).score(samples("a", "bb", "ccc"))) == [0.5] * 3


def test_a_drawn_order_asks_once_a_pair_and_shows_each_side_first_about_half_of_the_time(judge):
    completions = [f"answer {number}" for number in range(24)]
    outcomes = component(judge, order="drawn").score(samples(*completions))
    assert len(judge.seen) == 24 * 23 / 2
    smaller_first = sum(body["first"] < body["second"] for body in judge.seen)
    assert 0.4 < smaller_first / len(judge.seen) < 0.6
    asked = sorted((body["first"], body["second"]) for body in judge.seen)
    judge.seen.clear()
    again = component(judge, order="drawn").score(samples(*completions[::-1]))
    assert values(again) == values(outcomes)[::-1], "what is compared does not depend on the order of samples"
    assert sorted((body["first"], body["second"]) for body in judge.seen) == asked


def test_a_probability_is_taken_as_it_is(judge):
    judge.verdict = lambda body: {"probability": 0.8 if body["first"] == "a" else 0.4}
    assert values(component(judge).score(samples("a", "bb"))) == [pytest.approx(0.7), pytest.approx(0.3)]


@pytest.mark.parametrize("count", range(2, 12))
@pytest.mark.parametrize("opponents", [*range(1, 12), None])
def test_every_completion_has_as_many_opponents_as_wanted(count, opponents):
    found = pairs(count, opponents)
    met = Counter(place for pair in found for place in pair)
    wanted = count - 1 if opponents is None else min(opponents, count - 1)
    assert set(met) == set(range(count))
    assert set(met.values()) == {wanted + (wanted % 2 and count % 2)}
    assert len({frozenset(pair) for pair in found}) == len(found)
    assert all(one != other for one, other in found)


def test_fewer_opponents_are_fewer_requests_and_a_mean_over_them(judge):
    completions = ["x" * length for length in range(1, 9)]
    outcomes = component(judge, opponents=2).score(samples(*completions))
    assert len(judge.seen) == 8 * 2
    met: dict[str, set[str]] = {}
    for body in judge.seen:
        met.setdefault(body["first"], set()).add(body["second"])
    assert values(outcomes) == [sum(len(other) < len(one) for other in met[one]) / 2 for one in completions]
    judge.seen.clear()
    assert values(component(judge, opponents=2).score(samples(*completions))) == values(outcomes)


def test_a_language_model_is_shown_both_and_its_last_verdict_counts(judge):
    def verdict(body):
        _, first, second, _ = body["messages"][0]["content"].split("|")
        return chat_reply(f"Verdict: tie? No. **Verdict:** {1 if len(first) > len(second) else 2}")

    judge.verdict = verdict
    chat = {"model": "judge-7b", "template": "{prompt}|{first}|{second}|{answer}"}
    outcomes = component(judge, chatCompletions=chat).score(
        samples("a", "b{first}", prompt=[{"role": "user", "content": "q"}])
    )
    assert values(outcomes) == [0, 1]
    assert {body["messages"][0]["content"] for body in judge.seen} == {
        "user: q|a|b{first}|answer",
        "user: q|b{first}|a|answer",
    }


@pytest.mark.parametrize(
    ("word", "value"), [("1", 0.5), ("A", 1), ("first", 1), ("B", 0), ("Second", 0), ("C", 0.5), ("equal", 0.5)]
)
def test_verdicts_have_several_words(judge, word, value):
    judge.verdict = lambda body: chat_reply(f"[[{word}]]")
    chat = {"model": "m", "verdictPattern": r"\[\[(\w+)\]\]"}
    options = {} if word == "1" else {"order": "drawn"}
    outcomes = component(judge, chatCompletions=chat, **options).score(samples("a", "bb"))
    shown_first = 0 if "Answer 1:\na" in judge.seen[0]["messages"][0]["content"] else 1
    assert outcomes[shown_first].value == value


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ({}, "the judge's reply has no preferred: {}"),
        ({"preferred": "both"}, 'the judge prefers "both", neither first nor second nor tie'),
        ({"preferred": 1}, "the judge prefers 1, neither"),
        ({"probability": 1.5}, "the judge's probability is 1.5, not one from 0 to 1"),
        ({"probability": True}, "the judge's probability is true, not one"),
        ({"probability": float("nan")}, "the judge's probability is NaN, not one"),
    ],
)
def test_a_reply_without_verdict_is_an_error_and_no_reward(judge, reply, message):
    judge.verdict = lambda body: reply
    outcomes = component(judge).score(samples("a", "bb"))
    assert values(outcomes) == [None, None]
    assert message in outcomes[0].error
    assert outcomes[0].error.startswith("1 of 1 comparisons failed; the last: ")


def test_a_chat_without_verdict_is_an_error(judge):
    judge.verdict = lambda body: chat_reply("Verdict: neither")
    [outcome, _] = component(judge, chatCompletions={"model": "m"}).score(samples("a", "bb"))
    assert "the judge's reply holds no verdict: Verdict: neither" in outcome.error


def test_a_completion_on_which_the_judge_fails_is_an_error_and_the_others_are_compared_without_it(judge):
    judge.behave = lambda handler, body, attempt: "bb" in body.values() and handler.reply({}, 404)
    outcomes = component(judge).score(samples("a", "bb", "ccc", "dddd"))
    assert values(outcomes) == [0, None, 0.5, 1]
    assert outcomes[1].error.startswith("2 of 3 comparisons failed; the last: the judge answered with status 404")
    assert [(one.failed_comparisons, one.comparisons) for one in outcomes] == [(1, 3), (3, 3), (1, 3), (1, 3)]


def test_a_pair_with_an_answer_one_way_only_is_not_decided(judge):
    """What is left would favour a position."""
    judge.behave = lambda handler, body, attempt: body["first"] == "bb" and handler.reply({}, 404)
    outcomes = component(judge).score(samples("a", "bb"))
    assert values(outcomes) == [None, None]


def test_passing_troubles_are_overcome_and_time_outs_told_apart(judge):
    judge.behave = lambda handler, body, attempt: attempt < 3 and handler.reply({}, 503)
    assert values(component(judge).score(samples("a", "bb"))) == [0, 1]
    judge.behave = lambda handler, body, attempt: judge.closing.wait(30)
    outcomes = component(judge, timeout=0.3).score(samples("a", "bb"))
    assert [outcome.timed_out for outcome in outcomes] == [True, True]


def test_a_completion_that_is_alone_is_an_error(judge):
    outcomes = component(judge).score(samples("a") + samples("b", "cc", group=1))
    assert values(outcomes) == [None, 0, 1]
    assert outcomes[0].error == NO_OPPONENT
    assert component(judge).score([]) == []


def reward(judge: Judge, **options: Any) -> Reward:
    verifier = {"pairwiseJudge": {"url": judge.url, "backoffSeconds": 0, "attempts": 1}}
    return Reward.model_validate({"name": "better", "verifier": verifier, **options})


def test_it_is_a_component_of_groups_and_has_no_part_in_what_is_scored_alone(judge):
    rewards = [Reward(name="short", verifier={"regex": {"pattern": "..?"}}, weight=10), reward(judge)]
    judge.behave = lambda handler, body, attempt: set("x") in map(set, body.values()) and handler.reply({}, 404)
    with VerifierPool(rewards[:1], {}, workers=1) as pool:
        scorer = Scorer(rewards, pool, open_batch_components(rewards, {}, torch.device("cpu")))
        scores = scorer.score(samples("a", "bb", "ccc", "xxxx"), calls_of_step=20, in_groups=True)
        alone = scorer.score(samples("a", "bb"))
    assert scores.totals.tolist() == [10, 10.5, 1, 0]
    assert scores.valid.tolist() == [True, True, True, False]
    assert scores.metrics["reward/better"].value == 0.5
    assert scores.metrics["reward_errors/better"].value == 0.25
    assert scores.metrics["comparison_errors/better"].value == 0.5
    assert alone.totals.tolist() == [10, 10]
    assert set(alone.components) == {"short"}
    assert not any("better" in name for name in alone.metrics)


def test_a_judge_that_is_gone_ends_the_step_before_all_was_asked(judge):
    judge.behave = lambda handler, body, attempt: handler.reply({}, 500)
    rewards = [reward(judge, maxErrorFraction=0.1)]
    rewards[0].verifier.value.concurrency = 1
    with VerifierPool([], {}, workers=1) as pool:
        scorer = Scorer(rewards, pool, open_batch_components(rewards, {}, torch.device("cpu")))
        with pytest.raises(RewardFunctionError, match=r"3 of the step's 20 calls failed.*status 500"):
            scorer.score(samples(*(f"text {n}" for n in range(20))), in_groups=True)
    assert len(judge.seen) < 20 * 19 / 2


def test_a_rehearsal_asks_about_the_first_rows_and_refuses_a_judge_that_never_answers(judge):
    rows = [PromptRow(f"train.jsonl:{line}", "question", "answer", {}) for line in (1, 2, 3)]
    with VerifierPool([], {}, workers=1) as pool:
        assert rehearse([reward(judge)], rows, pool) == []
        assert len(judge.seen) == 2 * 2
        judge.behave = lambda handler, body, attempt: handler.reply({}, 401)
        with pytest.raises(RewardFunctionError, match=r"reward better failed on train.jsonl:1: .*status 401"):
            rehearse([reward(judge)], rows, pool)


def shorter(body: dict[str, Any]) -> dict[str, Any]:
    words = [len(body[name].split()) for name in ("first", "second")]
    return {"preferred": "tie" if words[0] == words[1] else "first" if words[0] < words[1] else "second"}


def job(folder: Path, model: Path, judge: Judge, **patch: Any) -> TrainerConfig:
    verifier = {"pairwiseJudge": {"url": judge.url, **patch.pop("parameters", {})}}
    rewards = [
        {"name": "better", "verifier": verifier, "timeoutSeconds": 120},
        {"name": "right", "weight": 0, "verifier": {"exactMatch": {"extract": "[0-3]"}}},
    ]
    return write_job(folder, model, {"rewards": rewards, **patch}, {"steps": 40})


def test_a_job_learns_what_the_judge_prefers(judge, model, tmp_path):
    judge.verdict = shorter
    config = job(tmp_path, model, judge)
    stop = StopRequest()
    with closing(build(config, Ranks(stop, torch.device("cpu")), stop)) as task:
        optimizer = torch.optim.AdamW(task.model.parameters(), lr=1e-2, weight_decay=0.0)
        lengths = []
        for step in range(25):
            batch = task.prepare(step)
            for micro_batch in batch.micro_batches:
                task.loss(micro_batch)[0].backward()
            optimizer.step()
            optimizer.zero_grad()
            lengths.append(batch.metrics["completions/length"].value)
            assert batch.metrics["reward/better"].value == pytest.approx(0.5)
            assert batch.metrics["comparison_errors/better"].value == 0
    assert lengths[0] > 4
    assert lengths[-1] < 2


def test_held_out_completions_are_scored_without_it(judge, model, tmp_path):
    config = job(tmp_path, model, judge, **{"data.evaluation": {"source": {"path": {"path": "held-out.jsonl"}}}})
    config = config.model_copy(update={"paths": config.paths.model_copy(update={"evaluation": config.paths.train})})
    stop = StopRequest()
    with closing(build(config, Ranks(stop, torch.device("cpu")), stop)) as task:
        metrics = task.evaluate()
    assert judge.seen == []
    assert metrics["accuracy"] == metrics["reward/right"]
    assert "reward/better" not in metrics


def test_two_ranks_compare_the_same_completions_as_one(judge, model, tmp_path):
    judge.verdict = shorter
    config = job(tmp_path, model, judge, parameters={"opponents": 2, "order": "drawn"})
    (tmp_path / "config.json").write_text(config.model_dump_json(by_alias=True, exclude_none=True))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    processes = [start_rank(tmp_path / "config.json", rank, **address) for rank in range(2)]
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0, 0]
    by_two = sorted(json.dumps(body) for body in judge.seen)
    judge.seen.clear()
    stop = StopRequest()
    with closing(build(config, Ranks(stop, torch.device("cpu")), stop)) as task:
        for micro_batch in task.prepare(0).micro_batches:
            task.loss(micro_batch)[0].backward()
        gradient = torch.cat([one.grad.flatten() for one in task.model.parameters() if one.grad is not None])
    assert sorted(json.dumps(body) for body in judge.seen) == by_two
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)["gradient"]
        torch.testing.assert_close(found, gradient, atol=1e-7, rtol=1e-4)
