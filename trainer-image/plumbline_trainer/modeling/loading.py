"""Loads a Hugging Face directory (configuration, safetensors weights, tokenizer) onto a device.

Only local files are read and no code of the directory is run. Everything that can be missing is reported as a
`ModelError` that names the directory and the missing part, most of it before any weight is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.utils import logging

from plumbline_trainer.failures import ConfigError, InfrastructureError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
"""A directory with none of these has no tokenizer that transformers could load."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_DOWNLOADED = (".json", ".safetensors", ".model", ".txt", ".jinja")


def resolve_directory(location: str) -> Path:
    """The local directory of `location`: itself, or a cached download where it is an fsspec URI.

    A download is complete or absent: it is written beside its final name and renamed last. The cache is in
    `PLUMBLINE_CACHE`, or in the system's temporary directory.
    """
    if "://" not in location:
        directory = Path(location)
        if not directory.is_dir():
            problem = "is a file, not a directory" if directory.exists() else "does not exist"
            raise ModelError(f"model directory {location} {problem}")
        return directory
    cache = Path(os.environ.get("PLUMBLINE_CACHE") or Path(tempfile.gettempdir()) / "plumbline-cache")
    target = cache / hashlib.sha256(location.encode()).hexdigest()[:32]
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=cache, prefix="partial-"))
    try:
        _download(location, partial)
        partial.rename(target)
    except ModelError:
        raise
    except FileNotFoundError as error:
        raise ModelError(f"model {location} does not exist: {error}") from error
    except (ImportError, ValueError) as error:
        raise ModelError(f"model {location} cannot be read: {error}") from error
    except OSError as error:
        if target.is_dir():  # another rank on this machine finished the same download first
            return target
        raise InfrastructureError(f"model {location} could not be downloaded: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _download(location: str, directory: Path) -> None:
    filesystem, root = fsspec.core.url_to_fs(location)
    files = [entry for entry in filesystem.ls(root, detail=True) if entry["type"] == "file"]
    wanted = [entry["name"] for entry in files if entry["name"].endswith(_DOWNLOADED)]
    if not wanted:
        raise ModelError(f"model {location} holds no model files")
    for name in wanted:
        filesystem.get_file(name, str(directory / name.rsplit("/", 1)[-1]))


def load_configuration(directory: Path) -> PretrainedConfig:
    """`config.json` of a model directory."""
    if not (directory / "config.json").is_file():
        raise ModelError(f"model directory {directory}: config.json is missing")
    try:
        return AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # every architecture checks its own fields in its own way
        raise ModelError(f"model directory {directory}: config.json cannot be used: {_first_line(error)}") from error


def check_directory(directory: Path) -> PretrainedConfig:
    """Checks that configuration, weights and tokenizer are there, reading no weights; returns the configuration."""
    configuration = load_configuration(directory)
    weight_files(directory)
    _require_tokenizer_files(directory)
    return configuration


def check_context(
    configuration: PretrainedConfig, location: str, prompt_tokens: int, completion_tokens: int, forced_tokens: int = 0
) -> None:
    """Raises `ConfigError` where the longest prompt and completion that the job allows outgrow the model's positions.

    `forced_tokens` come behind the completion: an answer that is forced there.

    Learned positions end there with an index error, rotary ones go on with embeddings that the model has never seen.
    Architectures without such a limit take everything.
    """
    positions = getattr(configuration.get_text_config(), "max_position_embeddings", None)
    wanted = prompt_tokens + completion_tokens + forced_tokens
    if isinstance(positions, int) and wanted > positions > 0:
        forced = f" + {forced_tokens} (the forced answer of shaping progress)" if forced_tokens else ""
        raise ConfigError(
            f"training.maxPromptTokens + training.maxCompletionTokens is {prompt_tokens} + {completion_tokens}"
            f"{forced} = {wanted}, but the model {location} has {positions} positions (max_position_embeddings); "
            "lower the limits"
        )


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a model directory, in name order; all files that an index names must be there."""
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise ModelError(f"model directory {directory}: {index.name} is malformed") from error
        missing = [name for name in names if not (directory / name).is_file()]
        if missing:
            raise ModelError(f"model directory {directory}: {', '.join(missing)} is missing, {index.name} names it")
        return [directory / name for name in names]
    if (directory / "model.safetensors").is_file():
        return [directory / "model.safetensors"]
    if any(directory.glob("pytorch_model*.bin")):
        raise ModelError(
            f"model directory {directory}: weights are pickled (pytorch_model.bin), which can run code; "
            "convert them to safetensors"
        )
    raise ModelError(f"model directory {directory}: weights are missing (model.safetensors)")


def _require_tokenizer_files(directory: Path) -> None:
    if not any((directory / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(f"model directory {directory}: the tokenizer is missing (tokenizer.json)")


def load_tokenizer(directory: Path, chat_template: str | None = None) -> Tokenizer:
    """The directory's tokenizer, with `chat_template` in place of its own template where given.

    A tokenizer without a padding token gets its end-of-sequence token for padding: the vocabulary, and so the
    embeddings, stay as they are, and padding never enters a loss because masks come from lengths, not from token ids.
    """
    _require_tokenizer_files(directory)
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises nothing more special
        problem = f"the tokenizer cannot be loaded: {_first_line(error)}"
        raise ModelError(f"model directory {directory}: {problem}") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(f"model directory {directory}: the tokenizer has no end-of-sequence token (eos_token)")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    return tokenizer


def select_device() -> torch.device:
    """This rank's GPU where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return torch.device("cpu")


def select_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype called `name`; `auto` is bfloat16 where the hardware computes in it, else float32.

    Emulated bfloat16 is several times slower than float32, so hardware without instructions for it counts as none.
    """
    if name != "auto":
        return DTYPES[name]
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def load_model(
    directory: Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    activation_checkpointing: bool = False,
    model_class: Any = AutoModelForCausalLM,
    may_be_new: tuple[str, ...] = (),
    **configuration: Any,
) -> PreTrainedModel:
    """Loads the weights of `directory` into a model of `model_class`, dropout off, in training mode.

    `may_be_new` names parameter prefixes that the directory need not hold, such as a new scalar head; any other
    missing parameter is refused, because transformers would fill it with random numbers. Further keywords override
    fields of the model's configuration. Raises `ModelError`.
    """
    load_configuration(directory)
    weight_files(directory)
    try:
        with _quiet():
            model, loading = model_class.from_pretrained(
                directory,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                attn_implementation=_attention_of(directory),
                **configuration,
            )
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # a damaged file can fail anywhere below; the directory is named either way
        raise ModelError(f"model directory {directory}: the weights cannot be loaded: {_first_line(error)}") from error
    missing = sorted(name for name in loading["missing_keys"] if not name.startswith(may_be_new or ("\0",)))
    mismatched = sorted(str(entry[0]) for entry in loading.get("mismatched_keys", ()))
    if missing or mismatched:
        names = missing or mismatched
        problem = "are missing from" if missing else "have another shape in"
        listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        raise ModelError(f"model directory {directory}: parameters {problem} the weights: {listed}")
    _switch_dropout_off(model)
    if activation_checkpointing:
        if not model.supports_gradient_checkpointing:
            raise ModelError(
                f"model directory {directory}: {type(model).__name__} does not support training.activationCheckpointing"
            )
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    return model.to(device).train()


def _attention_of(directory: Path) -> str | None:
    """The attention that lets completions share their prompt, where the architecture leaves the choice.

    Capped attention scores are made by an architecture's own code only.
    """
    from transformers import MODEL_MAPPING

    from plumbline_trainer.modeling.shared_prefix import IMPLEMENTATION

    configuration = load_configuration(directory)
    architecture = MODEL_MAPPING.get(type(configuration), None)
    capped = getattr(configuration.get_text_config(), "attn_logit_softcapping", None) is not None
    return IMPLEMENTATION if getattr(architecture, "_supports_attention_backend", False) and not capped else None


def load_policy(
    location: str, *, dtype: str = "auto", device: torch.device | None = None, activation_checkpointing: bool = False
) -> PreTrainedModel:
    """Loads the causal language model at `location` (directory or URI); `dtype` as in `spec.model.dtype`."""
    device = device or select_device()
    return load_model(
        resolve_directory(location),
        dtype=select_dtype(dtype, device),
        device=device,
        activation_checkpointing=activation_checkpointing,
    )


def _switch_dropout_off(model: torch.nn.Module) -> None:
    """Sets every dropout rate of a pretrained model to 0.

    Policy and reference must see the same function for their log-ratio to mean anything, and a run without dropout
    repeats exactly whatever the batch split. Attention modules keep their rate as a plain attribute.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if name.endswith("dropout") and isinstance(value, float):
                setattr(module, name, 0.0)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and reports of transformers within: standard output and error are the run's log."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
