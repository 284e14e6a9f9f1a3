"""Pre-flight refuses in seconds what would fail later, and touches nothing that is there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from plumbline_api.contract import TrainerConfig
from plumbline_trainer import preflight as module
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.failures import ConfigError, DataError, ModelError, RewardFunctionError
from plumbline_trainer.memory import estimate, host_limit
from plumbline_trainer.modeling.loading import load_configuration
from plumbline_trainer.preflight import models_held, preflight
from plumbline_trainer.rewards import rehearsal
from plumbline_trainer.stopping import StopRequest
from plumbline_trainer.tasks.build import build_task

ALONE = Ranks(StopRequest(), torch.device("cpu"))
PAIRS = [{"prompt": "1+1=?", "chosen": "2", "rejected": "3"}, {"prompt": "1+2=?", "chosen": "3", "rejected": "4"}]


def test_good_inputs_pass_and_are_counted(preference_config: Any, write_rows: Any) -> None:
    config = preference_config({"dpo": {}}, write_rows(PAIRS), write_rows(PAIRS[:1], "held-out.jsonl"))
    report = preflight(config)
    assert (report.training_rows, report.evaluation_rows) == (2, 1)
    assert report.warnings == []
    assert list(Path(config.paths.output).iterdir()) == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([PAIRS[0], {"prompt": "1+2=?", "rejected": "4"}], "train.jsonl:2"),
        ([PAIRS[0], {**PAIRS[1], "rejected": "3"}], "train.jsonl:2"),
        ([PAIRS[0], {**PAIRS[1], "prompt": "1" * 99}], "train.jsonl:2"),
        ([], "empty"),
    ],
    ids=["row-without-chosen", "chosen-equals-rejected", "prompt-too-long", "empty-file"],
)
def test_bad_rows_are_named_by_file_and_line(
    rows: list[dict[str, Any]], message: str, preference_config: Any, write_rows: Any
) -> None:
    with pytest.raises(DataError) as refused:
        preflight(preference_config({"dpo": {}}, write_rows(rows)))
    assert message in str(refused.value)


def test_a_missing_file_is_named(preference_config: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing\.jsonl does not exist"):
        preflight(preference_config({"dpo": {}}, str(tmp_path / "missing.jsonl")))


@pytest.mark.parametrize(
    ("doomed", "message"),
    [
        ("tokenizer.json", "the tokenizer is missing"),
        ("model.safetensors", "weights are missing"),
        ("config.json", "config.json is missing"),
    ],
)
def test_an_incomplete_model_directory_is_refused(
    doomed: str, message: str, preference_config: Any, write_rows: Any, llama_directory: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(llama_directory, model)
    (model / doomed).unlink()
    with pytest.raises(ModelError) as refused:
        preflight(preference_config({"dpo": {}}, write_rows(PAIRS), model=str(model)))
    assert message in str(refused.value)
    assert str(model) in str(refused.value)


@pytest.mark.parametrize("start", [preflight, lambda config: build_task(config, ALONE, ALONE.stop)], ids=["pre", "run"])
@pytest.mark.parametrize("reference", [False, True], ids=["model", "reference"])
def test_sequences_longer_than_the_model_are_refused_before_weights_are_read(
    start: Any, reference: bool, preference_config: Any, write_rows: Any, llama_directory: Path, tmp_path: Path
) -> None:
    short = shutil.copytree(llama_directory, tmp_path / "short")
    fields = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps({**fields, "max_position_embeddings": 47}))
    (short / "model.safetensors").write_bytes(b"not weights")
    where = {"reference": str(short)} if reference else {"model": str(short)}
    with pytest.raises(ConfigError) as refused:
        start(preference_config({"dpo": {}}, write_rows(PAIRS), **where))
    assert "training.maxPromptTokens + training.maxCompletionTokens is 32 + 16 = 48" in str(refused.value)
    assert f"the model {short} has 47 positions" in str(refused.value)


def rlvr_config(folder: Path, model: Path, code: str, **reward: Any) -> TrainerConfig:
    rows, file = folder / "problems.jsonl", folder / "reward.py"
    rows.write_text('{"prompt": "1+1=?", "answer": "2"}\n')
    file.write_text(code)
    spec = {
        "runtimeRef": {"name": "local"},
        "model": {"source": {"path": {"path": str(model)}}},
        "data": {"train": {"source": {"path": {"path": str(rows)}}}},
        "objective": {"grpo": {}},
        "rewards": [{"name": "own", "timeoutSeconds": 1, "verifier": {"python": {"path": str(file)}}, **reward}],
        "training": {"steps": 1, "batchSize": 8, "maxPromptTokens": 32, "maxCompletionTokens": 8},
        "output": {"path": str(folder / "output")},
    }
    paths = {
        "model": str(model),
        "train": str(rows),
        "rewards": {"own": str(file)},
        "checkpoints": str(folder / "checkpoints"),
        "output": str(folder / "output"),
    }
    return TrainerConfig.model_validate({"kind": "RLVRJob", "name": "test", "rlvr": spec, "paths": paths})


def test_reward_code_that_scores_passes(tmp_path: Path, llama_directory: Path) -> None:
    code = "def verify(prompt, completion, answer, row):\n    return 1.0\n"
    assert preflight(rlvr_config(tmp_path, llama_directory, code)).training_rows == 1


@pytest.mark.parametrize(
    "code",
    [
        "import a_module_that_is_not_there\n",
        "def other():\n    pass\n",
        "def verify(prompt, completion, answer, row):\n    raise ValueError('no')\n",
        "def verify(prompt, completion, answer, row):\n    return float('nan')\n",
        "def verify(prompt, completion, answer, row):\n    while True: pass\n",
    ],
    ids=["import-fails", "no-function", "raises", "nan", "hangs"],
)
def test_reward_code_that_cannot_score_is_refused(code: str, tmp_path: Path, llama_directory: Path) -> None:
    with pytest.raises(RewardFunctionError, match="own"):
        preflight(rlvr_config(tmp_path, llama_directory, code))


HANGING = "def verify(prompt, completion, answer, row):\n    while True: pass\n"


def test_code_that_may_take_long_is_not_waited_for(
    tmp_path: Path, llama_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "REHEARSAL_SECONDS", 0.5)
    config = rlvr_config(tmp_path, llama_directory, HANGING, timeoutSeconds=3600)
    [warning] = [text for text in preflight(config).warnings if "own" in text]
    assert "problems.jsonl:1: did not return within 0.5 s; timeoutSeconds 3600 allows it more" in warning


def test_a_verifier_that_hangs_on_an_answer_is_waited_for_once(
    tmp_path: Path, llama_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "REHEARSAL_SECONDS", 0.5)
    config = rlvr_config(
        tmp_path, llama_directory, HANGING, verifier={"regex": {"pattern": "(.*)*x"}}, timeoutSeconds=60
    )
    Path(config.paths.train).write_text(f'{{"prompt": "1+1=?", "answer": "{"2" * 40}"}}\n' * 200)
    with pytest.raises(
        DataError, match=r"problems\.jsonl:\d+: reward own cannot be computed: did not return within 0.5"
    ):
        preflight(config)


def test_a_frozen_reference_counts_as_a_model(tmp_path: Path, llama_directory: Path) -> None:
    config = rlvr_config(tmp_path, llama_directory, HANGING)
    assert models_held(config) == 1
    spec = config.rlvr.to_document() | {"kl": {"loss": {"coefficient": 0.1}}}
    penalized = TrainerConfig.model_validate(config.to_document() | {"rlvr": spec})
    assert models_held(penalized) == 2
    adapted = TrainerConfig.model_validate(config.to_document() | {"rlvr": spec | {"peft": {"lora": {}}}})
    assert models_held(adapted) == 1


def test_a_folder_that_is_a_file_is_refused(preference_config: Any, write_rows: Any) -> None:
    config = preference_config({"dpo": {}}, write_rows(PAIRS))
    Path(config.paths.output).write_text("in the way")
    with pytest.raises(ConfigError, match="the folder for output"):
        preflight(config)


def test_a_foreign_model_in_the_output_is_warned_about(preference_config: Any, write_rows: Any) -> None:
    config = preference_config({"dpo": {}}, write_rows(PAIRS))
    Path(config.paths.output).mkdir()
    (Path(config.paths.output) / "config.json").write_text("{}")
    assert any("holds a model that no job wrote" in warning for warning in preflight(config).warnings)


def test_memory_is_counted_from_the_configuration_alone(preference_config: Any, llama_directory: Path) -> None:
    config = preference_config({"dpo": {}}, "unused")
    count = sum(parameter.numel() for parameter in AutoModelForCausalLM.from_pretrained(llama_directory).parameters())
    configuration = load_configuration(llama_directory)
    full = estimate(configuration, config.spec, torch.float32, copies=1)
    assert (full.parameters, full.gradients, full.optimizer) == (4 * count, 4 * count, 8 * count)
    half = estimate(configuration, config.spec, torch.bfloat16, copies=2)
    assert (half.parameters, half.gradients, half.optimizer) == (4 * count, 4 * count, 12 * count)


def test_an_adapter_s_memory_is_that_of_its_low_rank_updates(
    preference_config: Any, write_rows: Any, llama_directory: Path, alone: Any
) -> None:
    from plumbline_trainer.stopping import StopRequest
    from plumbline_trainer.tasks import preference

    config = preference_config({"dpo": {}}, write_rows(PAIRS), peft={"lora": {"rank": 4}})
    task = preference.build(config, alone, StopRequest())
    trained = sum(parameter.numel() for parameter in task.model.parameters() if parameter.requires_grad)
    estimated = estimate(load_configuration(llama_directory), config.spec, torch.float32, copies=1)
    assert estimated.gradients == 4 * trained


def test_a_model_that_cannot_fit_is_refused(
    preference_config: Any, write_rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "host_limit", lambda: 100_000)
    with pytest.raises(ModelError, match=r"training this model needs about .* GiB"):
        preflight(preference_config({"dpo": {}}, write_rows(PAIRS)))


def test_a_batch_that_may_not_fit_is_a_warning(
    preference_config: Any, write_rows: Any, llama_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = preference_config({"dpo": {}}, write_rows(PAIRS))
    needed = estimate(load_configuration(llama_directory), config.spec, torch.float32, copies=1)
    monkeypatch.setattr(module, "host_limit", lambda: needed.state + 1)
    monkeypatch.setattr(module, "select_dtype", lambda *_: torch.float32)
    assert any("lower the token limits" in warning for warning in preflight(config).warnings)


def test_this_machine_s_limit_is_known() -> None:
    limit = host_limit()
    assert limit is not None
    assert limit > 2**20
