"""The preference task: one loss whatever the split, the same bits whenever asked, and models that learn."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumbline_api.contract import TrainerConfig
from plumbline_api.methods.preference.family import DataShape, PreferenceObjective
from plumbline_trainer.data.batches import TokenSequence
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.failures import DataError, ModelError
from plumbline_trainer.modeling.logprobs import completion_logprobs
from plumbline_trainer.reporting.metrics import merge
from plumbline_trainer.stopping import StopRequest, StopRequested
from plumbline_trainer.tasks.build import build_task, check_inputs
from plumbline_trainer.tasks.preference import PreferenceTask
from plumbline_trainer.tasks.preference_data import PreferenceData, mismatched_sequences
from tests.trainer.objective_rows import COMPLETIONS, OBJECTIVES, PAIRS, PARAMETERS, rows_for

LORA = {"lora": {"rank": 4}}

every_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: next(iter(objective)))


@pytest.fixture
def config_for(preference_config: Any, write_rows: Any) -> Any:
    """`config_for(objective, **spec)`: a job on rows of the objective's shape, with other prompts held out."""

    def make(objective: dict[str, Any], **spec: Any) -> TrainerConfig:
        rows = rows_for(next(iter(objective)))
        held_out = [row | {"prompt": row["prompt"].replace("+", "-")} for row in rows]
        return preference_config(objective, write_rows(rows), write_rows(held_out, "held-out.jsonl"), **spec)

    return make


def task_of(config: TrainerConfig) -> PreferenceTask:
    stop = StopRequest()
    task = build_task(config, Ranks(stop, torch.device("cpu")), stop)
    assert isinstance(task, PreferenceTask)
    return task


def disturb(task: PreferenceTask) -> None:
    """Moves the policy away from its reference, as a few updates would, so that no term of a loss vanishes."""
    with torch.no_grad():
        for index, parameter in enumerate(p for p in task.model.parameters() if p.requires_grad):
            generator = torch.Generator().manual_seed(index)
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def loss_of(task: PreferenceTask, step: int) -> torch.Tensor:
    return torch.stack([task.loss(micro_batch)[0] for micro_batch in task.prepare(step).micro_batches]).sum()


def loss_and_gradient(task: PreferenceTask, step: int) -> tuple[float, torch.Tensor]:
    loss = loss_of(task, step)
    trained = [parameter for parameter in task.model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, trained, allow_unused=True)
    return loss.item(), torch.cat([g.flatten() for g in gradients if g is not None])


def train(task: PreferenceTask, learning_rate: float) -> None:
    optimizer = torch.optim.AdamW([p for p in task.model.parameters() if p.requires_grad], lr=learning_rate)
    for step in range(task.max_steps):
        for micro_batch in task.prepare(step).micro_batches:
            task.loss(micro_batch)[0].backward()
        optimizer.step()
        optimizer.zero_grad()


# --- the loss does not depend on how the step is split ----------------------------------------------------------------


@every_objective
def test_micro_batches_change_neither_loss_nor_gradient(objective: dict[str, Any], config_for: Any) -> None:
    results = []
    for size in (1, 3, None):
        training = {"batchSize": 8} | ({"microBatchSize": size} if size else {})
        task = task_of(config_for(objective, training=training))
        disturb(task)
        assert len(task.prepare(0).micro_batches) == {1: 8, 3: 3, None: 1}[size]
        results.append(loss_and_gradient(task, 0))
    for loss, gradient in results[:-1]:
        assert loss == pytest.approx(results[-1][0], rel=1e-5)
        torch.testing.assert_close(gradient, results[-1][1], rtol=1e-3, atol=1e-5)


@every_objective
def test_metrics_do_not_depend_on_micro_batches(objective: dict[str, Any], config_for: Any) -> None:
    values = []
    for size in (1, 8):
        task = task_of(config_for(objective, training={"batchSize": 8, "microBatchSize": size}))
        disturb(task)
        merged = merge(task.loss(micro_batch)[1] for micro_batch in task.prepare(0).micro_batches)
        values.append({name: metric.value for name, metric in merged.items()})
    assert values[0] == pytest.approx(values[1], rel=1e-4, abs=1e-5, nan_ok=True)


def test_a_supervised_step_is_the_mean_over_all_its_tokens(config_for: Any) -> None:
    task = task_of(config_for({"sft": {}}, training={"batchSize": 5, "microBatchSize": 2}))
    total, tokens = 0.0, 0
    for row in task.order.rows_of(0):
        (sequence,) = task.train.data.sequences[row]
        ids = torch.tensor([[*sequence.prompt_ids, *sequence.completion_ids]])
        logprobs = task.model(input_ids=ids).logits[0].log_softmax(-1)
        for offset, token in enumerate(sequence.completion_ids):
            total -= logprobs[len(sequence.prompt_ids) - 1 + offset, token].item()
            tokens += 1
    assert loss_of(task, 0).item() == pytest.approx(total / tokens, rel=1e-5)


def test_kto_s_reference_point_covers_the_whole_step(config_for: Any) -> None:
    task = task_of(config_for({"kto": {}}, training={"batchSize": 8, "microBatchSize": 2}))
    disturb(task)
    rows = task.order.rows_of(0)
    ratios = []
    for row in rows:
        assert task.train.mismatched is not None
        sequences, reference = task.train.mismatched
        ratios.append(task._score([sequences[row]]).item() - reference[row].item())
    points = {float(micro_batch.facts.reference_point) for micro_batch in task.prepare(0).micro_batches}
    assert len(points) == 1
    assert points.pop() == pytest.approx(max(0.0, sum(ratios) / len(rows)), abs=1e-5)


# --- the same step is the same, whenever it is asked for --------------------------------------------------------------


def test_every_shape_of_rows_is_tried() -> None:
    tried = {next(iter(objective)) for objective in OBJECTIVES}
    shapes = {member.data_shape for member in PreferenceObjective.members() if member.member_key in tried}
    assert shapes == set(get_args(DataShape))


@pytest.mark.parametrize(
    ("objective", "spec"),
    [
        *((objective, {}) for objective in OBJECTIVES),
        *(({key: PARAMETERS.get(key, {})}, {"peft": LORA}) for key in ("dpo", "kto", "trDpo", "pmpo", "rewardModel")),
        ({"dpo": {}}, {"aggregation": {"resilientFeasible": {"epsilon": 0.5}}}),
        ({"ipo": {}}, {"weighting": {"wpo": {}}}),
        ({"dpo": {}}, {"auxiliary": {"preferenceDegree": {}}}),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else None,
)
def test_a_resumed_run_gets_the_same_bits_for_a_step(
    objective: dict[str, Any], spec: dict[str, Any], config_for: Any
) -> None:
    first, second = (task_of(config_for(objective, **spec)) for _ in range(2))
    disturb(first)
    for step in range(3):
        loss_of(first, step)
        first.step_done(step)
    disturb(second)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    second.load_tensors({name: tensor.clone() for name, tensor in first.tensors().items()})
    loss, gradient = loss_and_gradient(first, 3)
    resumed_loss, resumed_gradient = loss_and_gradient(second, 3)
    assert loss == resumed_loss
    assert gradient.any()
    assert torch.equal(gradient, resumed_gradient)
    assert first.evaluate() == pytest.approx(second.evaluate(), nan_ok=True, rel=0, abs=0)


def test_a_checkpoint_of_other_rows_is_refused(config_for: Any, write_rows: Any) -> None:
    config = config_for({"dpo": {}})
    state = task_of(config).state_dict()
    task_of(config).load_state_dict(state)
    write_rows(PAIRS[1:])
    with pytest.raises(DataError, match=r"training data has changed since the checkpoint was saved: it has 11 rows"):
        task_of(config).load_state_dict(state)


# --- the reference ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("peft", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("objective", [{"dpo": {}}, {"ipo": {}}, {"kto": {}}], ids=lambda o: next(iter(o)))
def test_before_the_first_update_policy_and_reference_are_the_same_to_the_bit(
    objective: dict[str, Any], peft: dict[str, Any] | None, config_for: Any
) -> None:
    task = task_of(config_for(objective, **({"peft": peft} if peft else {})))
    metrics = task.evaluate()
    expected = {"dpo": math.log(2), "ipo": 25.0, "kto": 0.5}[next(iter(objective))]
    assert metrics["loss"] == pytest.approx(expected, rel=1e-6)
    assert metrics["rewards/accuracy"] == 0.5, "all are ties"
    rewards = {name: value for name, value in metrics.items() if name.startswith("rewards/") and "accuracy" not in name}
    assert set(rewards.values()) == {0.0}


def test_log_ratios_are_taken_against_the_model_at_the_start(config_for: Any) -> None:
    task = task_of(config_for({"dpo": {"beta": 1}}))
    start = task._score(task.evaluation.sequences).view(-1, 2)  # type: ignore[union-attr]
    disturb(task)
    now = task._score(task.evaluation.sequences).view(-1, 2)  # type: ignore[union-attr]
    metrics = task.evaluate()
    assert metrics["rewards/chosen"] == pytest.approx((now - start)[:, 0].mean().item(), rel=1e-5)
    assert metrics["rewards/rejected"] == pytest.approx((now - start)[:, 1].mean().item(), rel=1e-5)


def test_another_model_can_be_the_reference(config_for: Any, llama_directory: Path, tmp_path: Path) -> None:
    other = task_of(config_for({"dpo": {}}))
    disturb(other)
    other.model.save_pretrained(tmp_path / "other")  # type: ignore[operator]
    other.tokenizer.save_pretrained(tmp_path / "other")
    task = task_of(config_for({"dpo": {}}, reference=str(tmp_path / "other")))
    expected = other._score(task.train.sequences)
    assert task.train.reference is not None
    torch.testing.assert_close(task.train.reference, expected)


# --- evaluation and learning ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "peft", "rate"),
    [
        ({"dpo": {}}, None, 1e-3),
        ({"dpo": {}}, LORA, 1e-2),
        ({"ipo": {}}, None, 1e-3),
        ({"simpo": {}}, None, 1e-3),
        ({"kto": {}}, None, 3e-3),
        ({"rewardModel": {}}, None, 3e-3),
        ({"rewardModel": {}}, LORA, 1e-2),
        ({"sft": {}}, None, 3e-3),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_held_out_rows_are_learnt(
    objective: dict[str, Any], peft: dict[str, Any] | None, rate: float, config_for: Any
) -> None:
    """The rule "a's and b's over c's and d's" holds for prompts that training never saw."""
    options = {"peft": peft} if peft else {}
    task = task_of(config_for(objective, training={"steps": 24, "batchSize": 12}, **options))
    before = task.evaluate()
    train(task, rate)
    after = task.evaluate()
    assert task.model.training, "evaluation leaves the model in training mode"
    assert after["loss"] < 0.8 * before["loss"]
    assert set(after) == set(before)
    if task.score_name == "rewards/accuracy":
        assert after["rewards/accuracy"] >= 0.9
        assert before["rewards/accuracy"] <= 0.75
    else:
        assert (task.score_name, next(iter(objective))) == ("loss", "sft")


def test_without_held_out_rows_nothing_is_evaluated(preference_config: Any, write_rows: Any) -> None:
    task = task_of(preference_config({"dpo": {}}, write_rows(PAIRS)))
    assert task.evaluate() == {}
    assert task.evaluation_digest is None


def test_evaluation_uses_as_many_rows_as_it_may(config_for: Any) -> None:
    task = task_of(config_for({"dpo": {}}, evaluation={"maxRows": 3}))
    assert task.evaluation is not None
    assert len(task.evaluation.data.rows) == 3


def test_evaluation_stops_when_asked(config_for: Any) -> None:
    task = task_of(config_for({"dpo": {}}))
    task.stop.request("SIGTERM")
    with pytest.raises(StopRequested):
        task.evaluate()
    assert task.model.training


# --- batches ----------------------------------------------------------------------------------------------------------


def test_epochs_become_steps_and_the_last_step_holds_what_is_left(config_for: Any) -> None:
    task = task_of(config_for({"dpo": {}}, training={"steps": None, "epochs": 2, "batchSize": 5}))
    assert task.max_steps == 6
    assert [sum(len(m.rows) for m in task.prepare(step).micro_batches) for step in range(3)] == [5, 5, 2]
    assert {m.total_rows for m in task.prepare(2).micro_batches} == {2}


def test_a_batch_counts_the_tokens_that_are_no_padding_and_shared_prompts_once(config_for: Any) -> None:
    task = task_of(config_for({"dpo": {}}, training={"batchSize": 5, "microBatchSize": 2}))
    batch = task.prepare(0)
    pairs = [task.train.sequences[row] for row in task.order.rows_of(0)]
    expected = sum(len(chosen) + len(rejected.completion_ids) for chosen, rejected in pairs)
    assert (batch.tokens, batch.padded_tokens) == (expected, expected), "nothing is padded on a CPU"


@given(st.lists(st.integers(0, 4), min_size=1, max_size=20))
def test_mismatched_completions_are_all_completions_under_other_prompts(prompts: list[int]) -> None:
    rows = [[TokenSequence([prompt], [100 + index])] for index, prompt in enumerate(prompts)]
    sequences = mismatched_sequences(PreferenceData([None] * len(rows), rows, len(rows), "", []))
    assert [sequence.prompt_ids[0] for sequence in sequences] == prompts
    partners = [sequence.completion_ids[0] - 100 for sequence in sequences]
    assert sorted(partners) == list(range(len(rows))), "each completion once: their distribution is kept"
    largest = max(prompts.count(prompt) for prompt in prompts)
    still_matched = sum(prompts[partner] == prompt for partner, prompt in zip(partners, prompts, strict=True))
    assert still_matched == max(0, 2 * largest - len(rows)), "no more than one dominant prompt makes unavoidable"


# --- what bad input gets, in pre-flight -------------------------------------------------------------------------------


def test_preflight_counts_rows_and_reads_no_weights(config_for: Any, llama_directory: Path, tmp_path: Path) -> None:
    model = shutil.copytree(llama_directory, tmp_path / "model")
    (model / "model.safetensors").write_bytes(b"not weights")
    report = check_inputs(config_for({"dpo": {}}, model=str(model)))
    assert (report.training_rows, report.evaluation_rows, report.warnings) == (12, 12, [])


@pytest.mark.parametrize("refuse", [check_inputs, task_of], ids=["preflight", "start"])
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*PAIRS[:2], {"prompt": "p", "rejected": "b"}], r"train\.jsonl:3: chosen is missing"),
        ([PAIRS[0], {"prompt": "p", "chosen": "b", "rejected": "b"}], r"train\.jsonl:2: chosen and rejected are equal"),
        ([], r"train\.jsonl is empty"),
        (
            [PAIRS[0], {"prompt": "p" * 40, "chosen": "a", "rejected": "b"}],
            r"train\.jsonl:2: prompt has 44 tokens, training\.maxPromptTokens is 32",
        ),
        (
            [PAIRS[0], {"prompt": "p", "chosen": "a" * 16, "rejected": "b"}],
            r"train\.jsonl:2: completion has 17 tokens, training\.maxCompletionTokens is 16",
        ),
    ],
)
def test_bad_rows_are_refused_by_file_and_line(
    refuse: Any, rows: list[dict[str, Any]], message: str, preference_config: Any, write_rows: Any
) -> None:
    with pytest.raises(DataError, match=message):
        refuse(preference_config({"dpo": {}}, write_rows(rows)))


@pytest.mark.parametrize("refuse", [check_inputs, task_of], ids=["preflight", "start"])
def test_a_missing_file_and_a_missing_tokenizer_are_refused(
    refuse: Any, preference_config: Any, write_rows: Any, llama_directory: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"absent\.jsonl does not exist"):
        refuse(preference_config({"dpo": {}}, str(tmp_path / "absent.jsonl")))
    model = shutil.copytree(llama_directory, tmp_path / "model")
    (model / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=f"model directory {model}: the tokenizer is missing"):
        refuse(preference_config({"dpo": {}}, write_rows(PAIRS), model=str(model)))


def test_dropped_rows_are_reported(preference_config: Any, write_rows: Any) -> None:
    rows = [*PAIRS, {"prompt": "p" * 40, "chosen": "a", "rejected": "b"}]
    config = preference_config({"dpo": {}}, write_rows(rows), data={"overlong": "drop"})
    warning = "data.train: 1 of 13 rows are too long and were dropped"
    assert check_inputs(config).warnings == [warning]
    task = task_of(config)
    assert task.warnings == [warning]
    assert len(task.train.data.rows) == 12


def test_columns_can_have_other_names(preference_config: Any, write_rows: Any) -> None:
    path = write_rows([{"q": row["prompt"], "good": row["chosen"], "rejected": row["rejected"]} for row in PAIRS])
    train_set = {"source": {"path": {"path": path}}, "columns": {"prompt": "q", "chosen": "good"}}
    task = task_of(preference_config({"dpo": {}}, path, data={"train": train_set}))
    assert task.train.data.rows[0].chosen == PAIRS[0]["chosen"]


def test_training_goes_through_completions_only(config_for: Any) -> None:
    """The prompt's tokens are conditions: no loss falls on them."""
    task = task_of(config_for({"sft": {}}, training={"batchSize": 1}))
    (micro_batch,) = task.prepare(0).micro_batches
    (row,) = task.order.rows_of(0)
    logprobs = completion_logprobs(task.model, micro_batch.sequences)
    assert logprobs.counts.item() == len(COMPLETIONS[row]["completion"]) + 1, "the completion and the end of the turn"
