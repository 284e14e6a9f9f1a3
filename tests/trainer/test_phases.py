"""Where the time of a step goes: phases, and the tokens a second of each."""

import json
from datetime import UTC, datetime

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from plumbline_api.contract import TrainerConfig
from plumbline_api.status import CheckpointStatus
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.reporting.prometheus import registry_of
from plumbline_trainer.reporting.status import StatusBoard
from plumbline_trainer.rollout.requests import GenerationFigures
from plumbline_trainer.stopping import StopRequest
from plumbline_trainer.tasks.build import build_task
from plumbline_trainer.tasks.phases import count_as, timed
from plumbline_trainer.tasks.rlvr import build
from plumbline_trainer.tasks.rlvr_metrics import generation_metrics
from tests.trainer.rlvr_jobs import llama, write_job, write_words
from tests.trainer.toy_program import Child


@pytest.fixture
def open_task():
    opened = []

    def open_one(config):
        stop = StopRequest()
        opened.append(build(config, Ranks(stop, torch.device("cpu")), stop))
        return opened[-1]

    yield open_one
    for task in opened:
        task.close()


class TestSeconds:
    def test_add_up_by_name(self, monkeypatch):
        times = iter([0.0, 2.0, 10.0, 13.0])
        monkeypatch.setattr("plumbline_trainer.tasks.phases.time.perf_counter", lambda: next(times))
        phases = {}
        for _ in range(2):
            with timed(phases, "verify"):
                pass
        assert phases == {"verify": 5.0}

    def test_inside_another_phase_are_taken_from_it(self):
        phases = {"verify": 5.0, "score": 1.0}
        count_as(phases, "score", 2.0, within="verify")
        assert phases == {"verify": 3.0, "score": 3.0}

    def test_of_nothing_make_no_phase(self):
        phases = {"verify": 5.0}
        count_as(phases, "score", 0.0, within="verify")
        assert phases == {"verify": 5.0}


class TestRates:
    def test_are_those_of_all_ranks_together(self):
        """Two ranks that generate side by side for two seconds, 100 and 300 tokens."""
        ranks = [GenerationFigures(tokens=tokens, decode_seconds=2.0, prompt_tokens=50, prefill_seconds=0.5,
                                   alone_seconds=alone) for tokens, alone in ((100, 1.0), (300, 0.0))]  # fmt: skip
        first, second = (generation_metrics(figures, 2) for figures in ranks)
        merged = {name: first[name] + second[name] for name in first}
        assert merged["tokens_per_second/decode"].value == pytest.approx(200)
        assert merged["tokens_per_second/prefill"].value == pytest.approx(200)
        assert merged["completions/slowest_share"].value == pytest.approx(1.0 / 5.0)

    def test_that_nobody_measures_are_left_out(self):
        assert set(generation_metrics(GenerationFigures(tokens=3, decode_seconds=1.0), 1)) == {
            "tokens_per_second/decode",
            "completions/slowest_share",
        }
        assert generation_metrics(GenerationFigures(), 1) == {}


class TestSteps:
    def test_of_verifiers_and_of_reward_models_are_told_apart(self, model, tmp_path, open_task):
        judge = tmp_path / "judge"
        size = write_words(judge)
        torch.manual_seed(1)
        LlamaForSequenceClassification(LlamaConfig(**{**llama(size).to_dict(), "num_labels": 1})).save_pretrained(judge)
        verified = open_task(write_job(tmp_path, model, {}, {})).prepare(0)
        assert verified.phase_seconds["verify"] > 0
        assert "score" not in verified.phase_seconds
        assert "sync" not in verified.phase_seconds

        learned = {"name": "liked", "verifier": {"rewardModel": {"source": {"path": {"path": str(judge)}}}}}
        config = write_job(tmp_path, model, {"rewards": [learned]}, {})
        document = json.loads(config.model_dump_json(by_alias=True, exclude_none=True))
        document["paths"]["rewardModels"] = {"liked": str(judge)}
        judged = open_task(TrainerConfig.model_validate(document)).prepare(0)
        assert judged.phase_seconds["score"] > 0
        assert judged.phase_seconds["verify"] >= 0

    def test_figures_are_of_one_rollout(self, model, tmp_path, open_task):
        task = open_task(write_job(tmp_path, model, {}, {}))
        batch = task.prepare(0)
        lengths = batch.metrics["completions/length"]
        assert batch.metrics["tokens_per_second/decode"].total == lengths.total
        assert batch.metrics["tokens_per_second/prefill"].total == 4 * 2, "a prompt of a group is computed once"
        again = task.prepare(1)
        assert again.metrics["tokens_per_second/decode"].total == again.metrics["completions/length"].total
        assert batch.trained_tokens == sum(one.sequences.tokens for one in batch.micro_batches)


def test_a_checkpoint_is_a_phase_after_its_step():
    board = StatusBoard()
    board.begin(0, 2, "accuracy")
    board.step_done(1, 2.0, 10, {}, {"generate": 1.5, "update": 0.5})
    board.checkpointed(checkpoint(1), 0.25)
    assert board.report().phase_seconds == {"generate": 1.5, "update": 0.5, "checkpoint": 0.25}
    board.step_done(2, 1.0, 10, {}, {"generate": 0.5, "update": 0.5})
    assert board.report().phase_seconds == {"generate": 0.5, "update": 0.5}
    board.checkpointed(checkpoint(2), 0.5)
    assert board.totals().phase_seconds == {"generate": 2.0, "update": 1.0, "checkpoint": 0.75}


def test_a_checkpoint_that_was_found_took_no_time():
    board = StatusBoard()
    board.checkpointed(checkpoint(1))
    assert "checkpoint" not in board.totals().phase_seconds


def checkpoint(step):
    return CheckpointStatus(step=step, uri=f"file:///{step}", time=datetime.now(UTC), digest="0", verified=True)


def test_a_job_shows_them_in_status_and_metrics():
    names = ["tokens_per_second/prefill", "tokens_per_second/decode", "tokens_per_second/update"]
    values = {name: float(number) for number, name in enumerate([*names, "completions/slowest_share"], 1)}
    board = StatusBoard()
    board.begin(0, 2, "accuracy")
    board.step_done(1, 2.0, 10, values, {"sync": 0.5, "generate": 1.0})
    assert {metric.name: metric.value for metric in board.report().metrics} == values
    registry = registry_of(board)
    none = {"job_kind": "", "job_namespace": "", "job_name": ""}
    for phase, value in (("prefill", 1.0), ("decode", 2.0), ("update", 3.0)):
        labels = {**none, "split": "training", "phase": phase}
        assert registry.get_sample_value("plumbline_trainer_phase_tokens_per_second", labels) == value
    labels = {**none, "split": "training"}
    assert registry.get_sample_value("plumbline_trainer_completion_slowest_ratio", labels) == 4.0
    assert registry.get_sample_value("plumbline_trainer_phase_seconds_total", {**none, "phase": "sync"}) == 0.5


def test_a_whole_job_reports_the_rate_of_its_updates(model, tmp_path):
    config = write_job(tmp_path, model, {}, {"steps": 2})
    path = tmp_path / "config.json"
    path.write_text(config.model_dump_json(by_alias=True, exclude_none=True))
    child = Child(path, build=build_task)
    assert child.wait() == 0, child.log.read_text()
    for line in (line for line in child.lines() if line["event"] == "step"):
        assert line["tokens_per_second/update"] > 0
        assert line["tokens_per_second/decode"] > 0
        assert 0 <= line["completions/slowest_share"] <= 1
