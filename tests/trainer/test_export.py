"""The result is a Hugging Face directory that transformers and peft load as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from plumbline_api.contract import TrainerConfig
from plumbline_api.status import Inputs, MetricValue, OutputStatus
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.export import RECORD_NAME, export
from plumbline_trainer.stopping import StopRequest, StopRequested
from plumbline_trainer.tasks import preference

PAIRS = [{"prompt": "1+1=?", "chosen": "2", "rejected": "3"}, {"prompt": "1+2=?", "chosen": "3", "rejected": "4"}]
METRICS = [MetricValue(name="evaluation/rewards/accuracy", value=0.75, first=0.5)]
INPUTS = Inputs.model_validate({"model": "sha256:" + "a" * 64, "data": "sha256:" + "b" * 64})


@pytest.fixture
def task_of(preference_config: Any, write_rows: Any, alone: Ranks) -> Any:
    """`task_of(objective, **spec) -> (task, config)`, with parameters that differ from the base model's."""

    def make(objective: dict[str, Any], **spec: Any) -> tuple[preference.PreferenceTask, TrainerConfig]:
        config = preference_config(objective, write_rows(PAIRS), **spec)
        task = preference.build(config, alone, StopRequest())
        with torch.no_grad():
            for parameter in task.model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
        return task, config

    return make


def exported(task: preference.PreferenceTask, config: TrainerConfig, stop: StopRequest | None = None) -> OutputStatus:
    return export(task, config, 3, INPUTS, METRICS, stop or StopRequest())


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    model.eval()
    return model(torch.arange(5, 15)[None]).logits


def test_a_full_model_loads_with_its_tokenizer_and_chat_template(task_of: Any) -> None:
    task, config = task_of({"dpo": {}})
    expected = logits(task.model)
    status = exported(task, config)
    directory = Path(config.paths.output)
    assert status.uri == str(directory)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(directory)), expected)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    chat = [{"role": "user", "content": "1+1=?"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == task.tokenizer.apply_chat_template(
        chat, tokenize=False
    )
    assert not [path.name for path in directory.iterdir() if path.is_dir()]


def test_an_adapter_is_merged(task_of: Any) -> None:
    task, config = task_of({"dpo": {}}, peft={"lora": {"rank": 4}})
    expected = logits(task.model)
    exported(task, config)
    loaded = AutoModelForCausalLM.from_pretrained(config.paths.output)
    assert not isinstance(loaded, peft.PeftModel)
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-4, atol=1e-4)
    assert not (Path(config.paths.output) / "adapter_config.json").exists()


def test_an_adapter_can_be_exported_alone(task_of: Any, llama_directory: Path) -> None:
    task, config = task_of({"dpo": {}}, peft={"lora": {"rank": 4, "mergeOnExport": False}})
    expected = logits(task.model)
    exported(task, config)
    directory = Path(config.paths.output)
    assert not (directory / "model.safetensors").exists()
    base = AutoModelForCausalLM.from_pretrained(llama_directory)
    torch.testing.assert_close(logits(peft.PeftModel.from_pretrained(base, directory)), expected)


@pytest.mark.parametrize("adapter", [None, {"lora": {"rank": 4}}], ids=["full", "lora"])
def test_a_reward_model_loads_with_its_head(adapter: dict[str, Any] | None, task_of: Any) -> None:
    task, config = task_of({"rewardModel": {}}, **({"peft": adapter} if adapter else {}))
    expected = logits(task.model)
    exported(task, config)
    loaded = AutoModelForSequenceClassification.from_pretrained(config.paths.output)
    assert loaded.config.num_labels == 1
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-4, atol=1e-4)


def test_the_model_card_says_how_from_what_and_how_good(task_of: Any) -> None:
    task, config = task_of({"dpo": {"beta": 0.25}})
    exported(task, config)
    card = (Path(config.paths.output) / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header == {
        "library_name": "transformers",
        "tags": ["plumbline", "PreferenceJob", "dpo"],
        "pipeline_tag": "text-generation",
    }
    assert "| evaluation/rewards/accuracy | 0.5 | 0.75 |" in card
    assert f"| data | `{INPUTS.data}` |" in card
    settings = yaml.safe_load(card.split("```yaml")[1].split("```")[0])
    assert settings["objective"]["dpo"]["beta"] == 0.25
    assert settings["training"]["batchSize"] == 4


def test_the_digest_follows_the_files(task_of: Any) -> None:
    task, config = task_of({"dpo": {}})
    first = exported(task, config)
    assert exported(task, config).digest == first.digest
    with torch.no_grad():
        next(task.model.parameters()).add_(1.0)
    assert exported(task, config).digest != first.digest
    record = json.loads((Path(config.paths.output) / RECORD_NAME).read_text())
    assert record["files"].keys() == {path.name for path in Path(config.paths.output).iterdir()} - {RECORD_NAME}


def test_a_second_export_removes_what_the_first_wrote_and_nothing_else(task_of: Any) -> None:
    task, config = task_of({"dpo": {}}, peft={"lora": {"rank": 4, "mergeOnExport": False}})
    directory = Path(config.paths.output)
    exported(task, config)
    (directory / "notes.txt").write_text("mine")
    other, config = task_of({"dpo": {}})
    exported(other, config)
    assert not (directory / "adapter_model.safetensors").exists()
    assert (directory / "model.safetensors").exists()
    assert (directory / "notes.txt").read_text() == "mine"


def test_a_stop_during_export_leaves_nothing_half_done(task_of: Any) -> None:
    task, config = task_of({"dpo": {}})
    stop = StopRequest()
    stop.request("SIGTERM")
    with pytest.raises(StopRequested):
        exported(task, config, stop)
    assert list(Path(config.paths.output).iterdir()) == []
