"""Jobs whose rows are scored in ways of their own: revisions, masked copies, degraded copies."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from plumbline_api.contract import TrainerConfig
from plumbline_trainer.data.rendering import Renderer
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.stopping import StopRequest
from plumbline_trainer.tasks.build import build_task
from plumbline_trainer.tasks.preference import PreferenceTask

PAIRS = [
    {"prompt": f"{a}+{b}=", "chosen": "a" * (1 + a) + "b", "rejected": "c" * (1 + b) + "d"}
    for a in range(4)
    for b in range(2)
]
TRAINING = {"batchSize": 8, "steps": 8, "maxPromptTokens": 64}


@pytest.fixture
def job(preference_config: Any, write_rows: Any) -> Any:
    """`job(objective, **spec)`: a job on `PAIRS`, with other prompts held out."""

    def make(objective: dict[str, Any], training: dict[str, Any] | None = None, **spec: Any) -> TrainerConfig:
        held_out = [row | {"prompt": row["prompt"].replace("+", "-")} for row in PAIRS]
        config: TrainerConfig = preference_config(
            objective,
            write_rows(PAIRS),
            write_rows(held_out, "held-out.jsonl"),
            training=TRAINING | (training or {}),
            **spec,
        )
        return config

    return make


@pytest.fixture(scope="module")
def bert_directory(chat_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer masked language model with random weights, and a tokenizer that knows its mask token."""
    directory = tmp_path_factory.mktemp("bert")
    tokenizer = copy.deepcopy(chat_tokenizer)
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertForMaskedLM(
            BertConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=48,
                max_position_embeddings=128,
                initializer_range=0.2,
                pad_token_id=0,
            )
        )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def task_of(config: TrainerConfig) -> PreferenceTask:
    stop = StopRequest()
    task = build_task(config, Ranks(stop, torch.device("cpu")), stop)
    assert isinstance(task, PreferenceTask)
    return task


def disturb(task: PreferenceTask) -> None:
    """Moves the policy away from its reference, so that no term of a loss vanishes."""
    with torch.no_grad():
        for index, parameter in enumerate(p for p in task.model.parameters() if p.requires_grad):
            generator = torch.Generator().manual_seed(index)
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def loss_and_gradient(task: PreferenceTask, step: int = 0) -> tuple[float, torch.Tensor]:
    loss = torch.stack([task.loss(micro_batch)[0] for micro_batch in task.prepare(step).micro_batches]).sum()
    trained = [parameter for parameter in task.model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, trained, allow_unused=True)
    return loss.item(), torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])


def train(task: PreferenceTask, learning_rate: float) -> None:
    optimizer = torch.optim.AdamW([p for p in task.model.parameters() if p.requires_grad], lr=learning_rate)
    for step in range(task.max_steps):
        for micro_batch in task.prepare(step).micro_batches:
            task.loss(micro_batch)[0].backward()
        optimizer.step()
        optimizer.zero_grad()


# --- revisions --------------------------------------------------------------------------------------------------------


def test_srpo_starts_at_one_quarter_and_learns_to_answer_and_to_revise(job: Any) -> None:
    """All log-ratios are 0 at the start, so that every residual is 1/2."""
    task = task_of(job({"srpo": {"beta": 0.1}}))
    assert loss_and_gradient(task)[0] == pytest.approx(0.25, abs=1e-6)
    before = task.evaluate()
    train(task, 3e-3)
    after = task.evaluate()
    assert before["improver/accuracy"] == 0.5
    assert after["improver/accuracy"] > 0.9
    assert after["loss"] < 0.8 * before["loss"]


def test_the_improver_sees_the_answer(job: Any, chat_tokenizer: PreTrainedTokenizerFast) -> None:
    task = task_of(job({"srpo": {"revisionRequest": "now better"}}))
    sequences = task.train.sequences[0]
    row = task.train.data.rows[0]
    answers = [row.rejected, row.rejected, row.chosen, row.chosen]
    written = [row.chosen, row.rejected, row.chosen, row.rejected]
    renderer = Renderer(chat_tokenizer)
    assert len(sequences) == 6
    for sequence, answer, text in zip(sequences[2:], answers, written, strict=True):
        asked = [
            {"role": "user", "content": row.prompt},
            {"role": "assistant", "content": answer},
            {"role": "user", "content": "now better"},
        ]
        assert [sequence.prompt_ids] == renderer.prompt_ids([asked])
        assert [sequence.completion_ids] == renderer.completion_ids([asked], [text])


# --- masked copies ----------------------------------------------------------------------------------------------------


def test_vrpo_starts_at_log_2_exactly_when_masks_are_shared_and_not_otherwise(job: Any, bert_directory: Path) -> None:
    shared = task_of(job({"vrpo": {"samples": 2}}, model=str(bert_directory)))
    assert loss_and_gradient(shared)[0] == pytest.approx(math.log(2), abs=1e-6)
    separate = task_of(job({"vrpo": {"samples": 2, "sharedNoise": False}}, model=str(bert_directory)))
    assert abs(loss_and_gradient(separate)[0] - math.log(2)) > 0.01


def test_vrpo_draws_other_masks_in_every_step_and_the_same_ones_when_it_comes_again(
    job: Any, bert_directory: Path
) -> None:
    task = task_of(job({"vrpo": {"samples": 2}}, model=str(bert_directory)))
    disturb(task)
    first, second, again = (loss_and_gradient(task, step)[0] for step in (0, 1, 0))
    assert first == again
    assert first != second, "both steps hold all rows"


def test_vrpo_widens_the_margin_of_held_out_prompts(job: Any, bert_directory: Path) -> None:
    task = task_of(job({"vrpo": {"samples": 4}}, model=str(bert_directory)))
    assert task.evaluate()["rewards/accuracy"] == 0.5
    train(task, 3e-3)
    after = task.evaluate()
    assert after["rewards/accuracy"] > 0.9
    assert after == task.evaluate(), "evaluations draw the same masks"


# --- degraded copies --------------------------------------------------------------------------------------------------


def test_the_preference_degree_is_added_to_the_objective(job: Any) -> None:
    plain, gradient = loss_and_gradient(task_of(job({"dpo": {}})))
    nothing = task_of(job({"dpo": {}}, auxiliary={"preferenceDegree": {"weight": 0}}))
    loss, with_head = loss_and_gradient(nothing)
    assert loss == plain
    assert torch.equal(with_head[: len(gradient)], gradient)
    assert not with_head[len(gradient) :].any()
    added = task_of(job({"dpo": {}}, auxiliary={"preferenceDegree": {"weight": 1, "levels": 4}}))
    assert loss_and_gradient(added)[0] > plain + 1
    assert added.evaluate()["degree/loss"] > 0


# --- one loss whatever the split --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["srpo", "vrpo", "preferenceDegree"])
def test_micro_batches_change_neither_loss_nor_gradient(job: Any, bert_directory: Path, method: str) -> None:
    specs: dict[str, dict[str, Any]] = {
        "srpo": {"objective": {"srpo": {"beta": 0.1}}},
        "vrpo": {"objective": {"vrpo": {"samples": 2, "masksPerStep": 2}}, "model": str(bert_directory)},
        "preferenceDegree": {"objective": {"dpo": {}}, "auxiliary": {"preferenceDegree": {"weight": 1}}},
    }
    results = []
    for size in (1, 3, None):
        task = task_of(job(**specs[method], training={"microBatchSize": size} if size else {}))
        disturb(task)
        results.append(loss_and_gradient(task))
    for loss, gradient in results[:-1]:
        assert loss == pytest.approx(results[-1][0], rel=1e-5)
        torch.testing.assert_close(gradient, results[-1][1], rtol=1e-3, atol=1e-5)
