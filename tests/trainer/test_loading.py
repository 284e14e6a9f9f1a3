"""Loading: what is missing is named, nothing random is trained by accident, nothing of the directory is run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BloomConfig, GPT2Config, GPT2LMHeadModel

from plumbline_trainer.failures import ConfigError, ModelError
from plumbline_trainer.modeling.loading import (
    check_context,
    check_directory,
    load_configuration,
    load_model,
    load_policy,
    load_tokenizer,
    resolve_directory,
    select_device,
    select_dtype,
    weight_files,
)

CPU = torch.device("cpu")


@pytest.fixture
def directory(llama_directory: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama_directory, tmp_path / "model"))


def test_a_directory_loads_as_transformers_loads_it(directory: Path) -> None:
    model = load_policy(str(directory), device=CPU)
    expected = AutoModelForCausalLM.from_pretrained(directory)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))
    assert model.training
    tokenizer = load_tokenizer(directory)
    assert tokenizer.chat_template and tokenizer.pad_token == "<pad>"
    assert check_directory(directory).model_type == "llama"


def remove(*names: str) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        for name in names:
            (directory / name).unlink(missing_ok=True)

    return damage


def pickled(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def shard_missing(directory: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "model.safetensors").rename(directory / "model-00001-of-00002.safetensors")


def unknown_architecture(directory: Path) -> None:
    (directory / "config.json").write_text(json.dumps({"model_type": "nonesuch"}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("config.json"), "config.json is missing"),
        (unknown_architecture, "config.json cannot be used: .*nonesuch"),
        (remove("model.safetensors"), r"weights are missing \(model.safetensors\)"),
        (pickled, "weights are pickled .* convert them to safetensors"),
        (shard_missing, "model-00002-of-00002.safetensors is missing, model.safetensors.index.json names it"),
        (remove("tokenizer.json", "tokenizer_config.json"), r"the tokenizer is missing \(tokenizer.json\)"),
    ],
)
def test_what_is_missing_is_named_with_the_directory_before_weights_are_read(
    directory: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(directory)
    with pytest.raises(ModelError, match=f"model directory {directory}: {message}"):
        check_directory(directory)


def test_a_location_that_is_no_directory_is_refused(directory: Path) -> None:
    with pytest.raises(ModelError, match="model directory /nonesuch does not exist"):
        load_policy("/nonesuch", device=CPU)
    with pytest.raises(ModelError, match="is a file, not a directory"):
        load_policy(str(directory / "config.json"), device=CPU)


def test_damaged_weights_are_refused_with_the_directory(directory: Path) -> None:
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match=f"model directory {directory}: the weights cannot be loaded"):
        load_policy(str(directory), device=CPU)


def test_parameters_that_the_weights_lack_are_refused_and_not_made_up(directory: Path) -> None:
    weights = load_file(directory / "model.safetensors")
    del weights["model.norm.weight"], weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"missing from the weights: .*\.0\.mlp\.up_proj\.weight, model\.norm"):
        load_policy(str(directory), device=CPU)


@pytest.mark.parametrize("content", ["{}", "[", '{"version": "1.0", "model": {"type": "BPE", "vocab": 3}}'])
def test_a_tokenizer_that_does_not_parse_is_refused(content: str, directory: Path) -> None:
    (directory / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match=f"model directory {directory}: the tokenizer cannot be loaded"):
        load_tokenizer(directory)


@pytest.mark.parametrize("fields", [{"hidden_size": "wide"}, {"num_attention_heads": 5}, {"rope_parameters": 3}])
def test_a_configuration_with_impossible_fields_is_refused(fields: dict[str, Any], directory: Path) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.raises(ModelError, match=f"model directory {directory}: "):
        load_policy(str(directory), device=CPU)


def test_sequences_need_positions_in_the_model(directory: Path) -> None:
    configuration = load_configuration(directory)
    check_context(configuration, "base", 2040, 8)
    message = (
        r"training.maxPromptTokens \+ training.maxCompletionTokens is 2040 \+ 9 = 2049, "
        "but the model base has 2048 positions"
    )
    with pytest.raises(ConfigError, match=message):
        check_context(configuration, "base", 2040, 9)
    check_context(BloomConfig(), "relative positions only", 2040, 9)


def test_a_missing_pad_token_leaves_vocabulary_and_embeddings_as_they_are(directory: Path) -> None:
    configuration = json.loads((directory / "tokenizer_config.json").read_text())
    del configuration["pad_token"]
    (directory / "tokenizer_config.json").write_text(json.dumps(configuration))
    before = json.loads((directory / "config.json").read_text())["vocab_size"]
    tokenizer = load_tokenizer(directory)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert len(tokenizer) == before


def test_a_tokenizer_without_end_of_sequence_is_refused(directory: Path) -> None:
    configuration = json.loads((directory / "tokenizer_config.json").read_text())
    del configuration["eos_token"]
    (directory / "tokenizer_config.json").write_text(json.dumps(configuration))
    with pytest.raises(ModelError, match="the tokenizer has no end-of-sequence token"):
        load_tokenizer(directory)


def test_the_job_s_chat_template_replaces_the_tokenizer_s_own(directory: Path) -> None:
    assert load_tokenizer(directory, "{{ 1 }}").chat_template == "{{ 1 }}"


def test_dropout_is_off_although_the_model_is_in_training_mode(tmp_path: Path) -> None:
    configuration = GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0.5, attn_pdrop=0.5)
    GPT2LMHeadModel(configuration).save_pretrained(tmp_path)
    model = load_policy(str(tmp_path), device=CPU)
    ids = torch.tensor([[1, 2, 3]])
    assert model.training
    assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
    assert model.config.resid_pdrop == 0.5, "the exported configuration stays the model's own"


def test_attention_dropout_kept_as_a_number_is_off_too(directory: Path) -> None:
    configuration = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(configuration | {"attention_dropout": 0.5}))
    model = load_policy(str(directory), device=CPU)
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)


def test_activation_checkpointing_changes_no_gradient(directory: Path) -> None:
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    gradients = []
    for checkpointing in (False, True):
        model = load_policy(str(directory), device=CPU, activation_checkpointing=checkpointing)
        assert model.is_activation_checkpointing == checkpointing
        model(input_ids=ids).logits.square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-5) for a, b in zip(*gradients, strict=True))


def test_auto_dtype_goes_by_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert select_dtype("auto", CPU) == torch.float32
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert select_dtype("auto", CPU) == torch.bfloat16
    assert select_dtype("float16", CPU) == torch.float16


def test_the_dtype_is_that_of_all_weights(directory: Path) -> None:
    model = load_policy(str(directory), dtype="bfloat16", device=CPU)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_the_device_is_a_gpu_only_where_there_is_one() -> None:
    assert select_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_uri_is_downloaded_once_and_completely(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLUMBLINE_CACHE", str(tmp_path / "cache"))
    uri = f"file://{directory}"
    local = resolve_directory(uri)
    assert {file.name for file in local.iterdir()} == {file.name for file in directory.iterdir()}
    assert check_directory(local).model_type == "llama"
    shutil.rmtree(directory)
    assert resolve_directory(uri) == local
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [local.name], "no partial download is left"


def test_a_uri_without_a_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUMBLINE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="does not exist"):
        resolve_directory(f"file://{tmp_path}/absent")
    with pytest.raises(ModelError, match="holds no model files"):
        resolve_directory(f"file://{tmp_path}/empty")
    with pytest.raises(ModelError, match="Protocol not known"):
        resolve_directory("nosuchscheme://bucket/model")
    assert not list((tmp_path / "cache").iterdir())


def test_weight_files_are_in_name_order(directory: Path) -> None:
    assert [file.name for file in weight_files(directory)] == ["model.safetensors"]


def test_a_new_head_is_allowed_only_where_it_is_named(directory: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    options: dict[str, Any] = {"dtype": torch.float32, "device": CPU, "model_class": AutoModelForSequenceClassification}
    with pytest.raises(ModelError, match=r"missing from the weights: score\.weight"):
        load_model(directory, num_labels=1, **options)
    assert load_model(directory, num_labels=1, may_be_new=("score.",), **options).score.weight.shape == (1, 32)
