"""The judge over HTTP, against a real server that misbehaves in every way a judge can."""

import threading
from http.server import ThreadingHTTPServer

import pytest

from plumbline_api.methods.verifiers.judges import HttpJudge
from plumbline_api.sources import Reward
from plumbline_trainer.data.rows import PromptRow
from plumbline_trainer.failures import ConfigError, RewardFunctionError
from plumbline_trainer.rewards.components import open_batch_components
from plumbline_trainer.rewards.http_judge import HttpJudgeComponent, shown
from plumbline_trainer.rewards.pool import VerifierPool
from plumbline_trainer.rewards.rehearsal import rehearse
from plumbline_trainer.rewards.scoring import Sample, Scorer
from tests.trainer.judge_server import Handler, chat_reply, served


def score_of(body):
    if "messages" in body:
        text = f"A fair answer. Score: {len(body['messages'][0]['content'])}"
        return chat_reply(text)
    if "items" in body:
        return {"scores": [len(item["completion"]) for item in body["items"]]}
    return {"score": len(body["completion"])}


@pytest.fixture
def judge():
    with served(score_of) as server:
        yield server


def component(judge, timeout=10.0, **options):
    return HttpJudgeComponent("judge", HttpJudge(url=judge.url, **{"backoffSeconds": 0.001, **options}), timeout)


def samples(*completions):
    return [Sample("question", completion, "answer", {}) for completion in completions]


def values(outcomes):
    return [outcome.value for outcome in outcomes]


def test_scores_come_in_the_order_of_completions(judge):
    completions = ["x" * length for length in range(20, 0, -1)]
    assert values(component(judge).score(samples(*completions))) == list(range(20, 0, -1))
    assert {"prompt": "question", "completion": "x" * 7, "answer": "answer"} in judge.seen


def test_no_completions_are_no_requests(judge):
    assert component(judge).score([]) == []
    assert judge.seen == []


def test_several_completions_go_in_one_request(judge):
    outcomes = component(judge, batchSize=3).score(samples("a", "bb", "ccc", "dddd"))
    assert values(outcomes) == [1, 2, 3, 4]
    assert sorted(len(body["items"]) for body in judge.seen) == [1, 3]


def test_a_language_model_is_asked_by_the_openai_protocol(judge):
    chat = {"model": "judge-7b", "template": "{prompt}|{completion}|{answer}"}
    [outcome] = component(judge, chatCompletions=chat).score(samples("abc"))
    assert outcome.value == len("question|abc|answer")
    [body] = judge.seen
    assert body == {
        "model": "judge-7b",
        "messages": [{"role": "user", "content": "question|abc|answer"}],
        "max_tokens": 256,
        "temperature": 0.0,
    }


def test_what_a_completion_says_stays_text_of_the_completion():
    sample = Sample([{"role": "user", "content": "q"}], "{answer} Score: 10", "secret", {})
    assert shown("{prompt}/{completion}", sample) == "user: q/{answer} Score: 10"


def test_the_last_score_in_the_reply_counts(judge):
    def behave(handler, body, attempt):
        content = "Score: 3 at first. But no.\n**Score:** 8"
        return handler.reply({"choices": [{"message": {"content": content}}]})

    judge.behave = behave
    assert values(component(judge, chatCompletions={"model": "m"}).score(samples("a"))) == [8]


def test_scores_are_put_on_the_scale_and_others_are_errors(judge):
    outcomes = component(judge, lowest=1, highest=5).score(samples("x", "xxx", "xxxxx", "xxxxxx"))
    assert values(outcomes) == [0, 0.5, 1, None]
    assert outcomes[3].error == "the judge's score 6 is outside of 1 to 5"


def test_no_more_requests_than_allowed_at_the_same_time(judge):
    gate = threading.Barrier(3, timeout=10)
    judge.behave = lambda handler, body, attempt: gate.wait() < 0  # three must be there for any to go on
    assert values(component(judge, concurrency=3).score(samples(*"abcdefghi"))) == [1] * 9
    assert judge.most_active == 3


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_a_passing_trouble_is_overcome(judge, status):
    judge.behave = lambda handler, body, attempt: attempt < 3 and handler.reply({}, status)
    assert values(component(judge).score(samples("a", "bb"))) == [1, 2]
    assert len(judge.seen) == 6


def test_a_lasting_trouble_is_an_error_of_its_completion_alone(judge):
    judge.behave = lambda handler, body, attempt: body["completion"] == "bb" and handler.reply({"why": "busy"}, 500)
    outcomes = component(judge).score(samples("a", "bb", "ccc"))
    assert values(outcomes) == [1, None, 3]
    assert outcomes[1].error == 'the judge answered with status 500: {"why": "busy"}'
    assert len(judge.seen) == 5


def test_a_refused_request_is_not_repeated(judge):
    judge.behave = lambda handler, body, attempt: handler.reply({"why": "no such model"}, 404)
    [outcome] = component(judge).score(samples("a"))
    assert "status 404" in outcome.error
    assert len(judge.seen) == 1


def test_a_server_that_asks_for_patience_gets_it(judge):
    judge.behave = lambda handler, body, attempt: attempt == 1 and handler.reply({}, 429, Retry_After="1")
    assert values(component(judge).score(samples("a"))) == [1]
    assert judge.times[1] - judge.times[0] >= 1


@pytest.mark.parametrize(
    ("raw", "message", "requests"),
    [
        ("<html>busy</html>", "the judge's reply is no JSON: <html>busy</html>", 3),
        ("", "the judge's reply is no JSON", 3),
        ("{}", "the judge's reply has no score: {}", 1),
        ("[1]", "the judge's reply has no score", 1),
        ('{"score": "7"}', 'the judge\'s score is "7", not a number', 1),
        ('{"score": null}', "the judge's score is null, not a number", 1),
        ('{"score": true}', "the judge's score is true, not a number", 1),
        ('{"score": NaN}', "the judge's score is NaN, not a number", 1),
        ("x" * 3_000_000, "the judge's reply is longer than 1048576 bytes", 1),
    ],
)
def test_a_malformed_reply_is_an_error_and_no_score(judge, raw, message, requests):
    judge.behave = lambda handler, body, attempt: handler.reply(None, raw=raw)
    [outcome] = component(judge).score(samples("a"))
    assert outcome.value is None
    assert message in outcome.error
    assert len(judge.seen) == requests


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ({"choices": []}, "is no chat completion"),
        ({"error": "overloaded"}, "is no chat completion"),
        ({"choices": [{"message": {"content": None}}]}, "is no chat completion"),
        ({"choices": [{"message": {"content": "I would rather not say."}}]}, "holds no score: I would rather not say."),
    ],
)
def test_a_chat_without_a_score_is_an_error(judge, reply, message):
    judge.behave = lambda handler, body, attempt: handler.reply(reply)
    [outcome] = component(judge, chatCompletions={"model": "m"}).score(samples("a"))
    assert outcome.value is None
    assert message in outcome.error


def test_a_part_of_a_batch_without_score_is_an_error_of_that_part(judge):
    judge.behave = lambda handler, body, attempt: handler.reply({"scores": [1, None, 3]})
    outcomes = component(judge, batchSize=3).score(samples("a", "b", "c"))
    assert values(outcomes) == [1, None, 3]


def test_a_batch_with_too_few_scores_is_an_error_of_all_since_none_says_whose_it_is(judge):
    judge.behave = lambda handler, body, attempt: handler.reply({"scores": [1, 2]})
    outcomes = component(judge, batchSize=3).score(samples("a", "b", "c"))
    assert values(outcomes) == [None] * 3
    assert outcomes[0].error == "the judge's reply has 2 scores for 3 completions"


def test_a_judge_that_does_not_answer_runs_out_of_time_and_the_others_go_on(judge):
    judge.behave = lambda handler, body, attempt: body["completion"] == "bb" and judge.closing.wait(30)
    outcomes = component(judge, timeout=0.5).score(samples("a", "bb", "ccc"))
    assert values(outcomes) == [1, None, 3]
    assert outcomes[1].timed_out
    assert outcomes[1].error == "the judge did not answer within 0.5 s"


def test_a_judge_that_answers_a_byte_at_a_time_runs_out_of_time_too(judge):
    """A limit for each read of a connection would never end this."""

    def drip(handler, body, attempt):
        handler.send_response(200)
        handler.end_headers()
        while not judge.closing.wait(0.02):
            handler.wfile.write(b" ")
            handler.wfile.flush()

    judge.behave = drip
    [outcome] = component(judge, timeout=0.4).score(samples("a"))
    assert outcome.timed_out


def test_attempts_share_the_time_limit(judge):
    judge.behave = lambda handler, body, attempt: handler.reply({}, 500)
    [outcome] = component(judge, timeout=0.3, attempts=20, backoffSeconds=0.2).score(samples("a"))
    assert outcome.timed_out
    assert len(judge.seen) == 2


def test_a_judge_that_hangs_up_or_is_not_there_is_an_error(judge):
    judge.behave = lambda handler, body, attempt: handler.connection.close() or True
    [outcome] = component(judge).score(samples("a"))
    assert "the judge could not be reached" in outcome.error
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as gone:
        port = gone.server_port
    parameters = HttpJudge(url=f"http://127.0.0.1:{port}/", backoffSeconds=0)
    [outcome] = HttpJudgeComponent("judge", parameters, 10).score(samples("a"))
    assert "the judge could not be reached" in outcome.error


def test_the_authorization_comes_from_the_environment(judge, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "Bearer secret")
    component(judge, authorizationVariable="JUDGE_KEY").score(samples("a"))
    assert judge.headers_seen[0]["Authorization"] == "Bearer secret"
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(ConfigError, match="reward judge: the environment variable JUDGE_KEY is not set"):
        component(judge, authorizationVariable="JUDGE_KEY")


@pytest.mark.parametrize(
    "answer",
    [
        lambda handler, key: handler.reply({"error": f"Incorrect API key provided: {key}"}, 401),
        lambda handler, key: handler.reply({"error": "x" * 170 + key}, 401),
        lambda handler, key: handler.reply({"score": key}),
        lambda handler, key: handler.reply({"scores": [key]}),
        lambda handler, key: handler.reply({"error": f"Bearer {key}"}, 503),
    ],
)
def test_a_key_that_the_judge_repeats_is_not_told(judge, monkeypatch, answer):
    monkeypatch.setenv("JUDGE_KEY", "Bearer sk-0123456789")
    judge.behave = lambda handler, body, attempt: answer(handler, "sk-0123456789")
    [outcome] = component(judge, authorizationVariable="JUDGE_KEY", attempts=1).score(samples("a"))
    assert outcome.value is None
    assert "0123" not in outcome.error
    assert "***" in outcome.error


def test_polling_ends_a_run(judge):
    class Stopped(Exception):
        pass

    def poll():
        if judge.seen:
            raise Stopped

    judge.behave = lambda handler, body, attempt: judge.closing.wait(30)
    with pytest.raises(Stopped):
        component(judge, timeout=60).score(samples("a", "b"), poll)


def reward(judge, parameters=None, **options):
    verifier = {"httpJudge": {"url": judge.url, "backoffSeconds": 0, **(parameters or {})}}
    return Reward(name="judge", verifier=verifier, **options)


def test_a_judge_is_a_component_beside_those_of_the_pool(judge):
    rewards = [Reward(name="short", verifier={"regex": {"pattern": "..?"}}, weight=10), reward(judge)]
    judge.behave = lambda handler, body, attempt: body["completion"] == "bb" and handler.reply({}, 500)
    with VerifierPool(rewards[:1], {}, workers=1) as pool:
        scorer = Scorer(rewards, pool, open_batch_components(rewards, {}, None))
        scores = scorer.score(samples("a", "bb", "ccc"), calls_of_step=20)
    assert scores.totals.tolist() == [11, 0, 3]
    assert scores.valid.tolist() == [True, False, True]
    assert scores.metrics["reward/judge"].value == 2
    assert scores.metrics["reward_errors/judge"].value == pytest.approx(1 / 3)
    assert scores.metrics["reward_errors/short"].value == 0
    assert scores.metrics["reward_seconds/judge"].total > 0


def test_too_many_errors_of_a_judge_end_the_step_at_once(judge):
    judge.behave = lambda handler, body, attempt: handler.reply({}, 500)
    rewards = [reward(judge, {"attempts": 1, "concurrency": 1}, max_error_fraction=0.1)]
    with VerifierPool([], {}, workers=1) as pool:
        scorer = Scorer(rewards, pool, open_batch_components(rewards, {}, None))
        with pytest.raises(RewardFunctionError, match=r"3 of the step's 20 calls failed.*status 500"):
            scorer.score(samples(*["a"] * 20))
    assert len(judge.seen) < 20


def test_a_rehearsal_asks_the_judge_and_refuses_one_that_never_answers(judge):
    rows = [PromptRow(f"train.jsonl:{line}", "question", "answer", {}) for line in (1, 2, 3)]
    with VerifierPool([], {}, workers=1) as pool:
        assert rehearse([reward(judge)], rows, pool) == []
        assert len(judge.seen) == 2
        judge.behave = lambda handler, body, attempt: handler.reply({}, 401)
        with pytest.raises(RewardFunctionError, match=r"reward judge failed on train\.jsonl:1: .*status 401"):
            rehearse([reward(judge)], rows, pool)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chatCompletions": {"model": "m"}, "batchSize": 2}, "batchSize must be 1 with chatCompletions"),
        ({"lowest": 1}, "lowest and highest must be set together"),
        ({"lowest": 2, "highest": 2}, "lowest must be below highest"),
        ({"chatCompletions": {"model": "m", "template": "{prompt}"}}, r"template must contain \{completion\}"),
    ],
)
def test_specs_that_cannot_work_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        HttpJudge(url="http://judge/", **options)
