"""The trainer's own program on a task made for tests: a real two-layer Llama that learns to count in threes.

Everything but the task is the trainer's, run in processes of its own. The task uses dropout, keeps a count that enters
its batches and a moving average of the weights that pulls at them, so that a resume which forgets any of it gives other
weights.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from plumbline_api.contract import TrainerConfig
from plumbline_api.status import DataStatus
from plumbline_trainer.data.order import derive_seed
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.reporting.metrics import Metric, Metrics
from plumbline_trainer.run import Builder, Options, run
from plumbline_trainer.stopping import StopRequest

FORKING = multiprocessing.get_context("forkserver")
"""Starts processes that have imported all that a job may need."""
FORKING.set_forkserver_preload([__name__, "plumbline_trainer.tasks.preference", "plumbline_trainer.tasks.rlvr", "peft"])

VOCABULARY = 64
TOKENS = 16


@dataclass
class ToyBatch:
    micro_batches: list[torch.Tensor]
    tokens: int
    metrics: Metrics = field(default_factory=dict)
    phase_seconds: dict[str, float] = field(default_factory=lambda: {"draw": 0.0})
    padded_tokens: int = 0
    trained_tokens: int | None = None


class ToyTask:
    """Next-token prediction on rows drawn from (seed, step)."""

    score_name = "nll"
    warnings: ClassVar[list[str]] = []
    data_status: DataStatus | None = None

    def __init__(self, config: TrainerConfig, ranks: Ranks, stop: StopRequest) -> None:
        spec = config.spec
        dtype = {"auto": torch.float32}.get(spec.model.dtype) or getattr(torch, spec.model.dtype)
        self.model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(config.paths.model, dtype=dtype)
        self.model.to(ranks.device).train()
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(config.paths.model)
        self.max_steps = spec.training.steps or 1
        self._spec = spec
        self._ranks = ranks
        self._stop = stop
        self._seed = spec.training.seed if config.order_seed is None else config.order_seed
        self._first_order = config.order_seed is None
        self._steps_prepared = 0
        self._average = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        self._faults = json.loads(os.environ.get("TOY_FAULTS", "{}"))

    def prepare(self, step: int) -> ToyBatch:
        self._steps_prepared += 1
        if self._faults.get("raise_at") == step:
            raise RuntimeError("the toy broke")
        rows = self._rows(step, self._spec.training.batch_size)
        if step % 2:
            # depends on the task's own state, as a curriculum would
            rows = rows.roll(self._steps_prepared, 0)
        mine = rows[self._ranks.rank :: self._ranks.world_size]
        micro_batches = list(mine.split(self._spec.training.micro_batch_size or len(mine)))
        return ToyBatch(micro_batches, mine.numel(), padded_tokens=2 * mine.numel())

    def loss(self, micro_batch: torch.Tensor) -> tuple[torch.Tensor, Metrics]:
        logits = self.model(micro_batch).logits[:, :-1].float()
        summed = torch.nn.functional.cross_entropy(
            logits.reshape(-1, VOCABULARY), micro_batch[:, 1:].reshape(-1), reduction="sum"
        )
        count = self._spec.training.batch_size * (TOKENS - 1)
        if self._faults.get("nan_at") == self._steps_prepared - 1:
            summed = summed * math.nan
        if self._first_order and self._faults.get("spike_at") == self._steps_prepared - 1:
            # rows that only the first order brings together
            summed = summed * 1000
        local = micro_batch.shape[0] * (TOKENS - 1)
        metrics = {"nll": Metric(summed.detach().double(), float(local))}
        distances = [(value - self._average[name]).square().sum() for name, value in self.model.named_parameters()]
        pull = torch.stack(distances).sum() * local / count
        # a gradient but no value, so that the loss stays the mean over tokens
        return summed / count + pull - pull.detach(), metrics

    def evaluate(self) -> dict[str, float]:
        if self._faults.get("stop_in_evaluation"):
            signal.raise_signal(signal.SIGTERM)
        self._stop.raise_if_requested()
        self.model.eval()
        with torch.no_grad():
            rows = self._rows(10**6, 8)
            logits = self.model(rows).logits[:, :-1].float()
            nll = torch.nn.functional.cross_entropy(logits.reshape(-1, VOCABULARY), rows[:, 1:].reshape(-1))
            nll += max(0, self._steps_prepared - self._faults.get("worse_after", math.inf))
        self.model.train()
        return {"nll": float(nll)}

    def step_done(self, step: int) -> None:
        if self._faults.get("stop_in_step_done") == step:
            signal.raise_signal(signal.SIGTERM)
        self._ranks.barrier()
        with torch.no_grad():
            for name, value in self.model.named_parameters():
                self._average[name].lerp_(value, 0.5)

    def tensors(self) -> dict[str, torch.Tensor]:
        return self._average

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        for name, average in self._average.items():
            average.copy_(tensors[name])

    def state_dict(self) -> dict[str, Any]:
        return {"steps_prepared": self._steps_prepared}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._steps_prepared = state["steps_prepared"]

    def close(self) -> None:
        return

    def _rows(self, step: int, count: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "toy", step))
        start = torch.randint(0, VOCABULARY, (count, 1), generator=generator)
        return (start + 3 * torch.arange(TOKENS)).remainder(VOCABULARY).to(self._ranks.device)


def make_model(directory: Path, dropout: float = 0.1) -> Path:
    """A random two-layer Llama with a tokenizer of one word per id, as a Hugging Face directory."""
    torch.manual_seed(1)
    configuration = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        attention_dropout=dropout,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(configuration).save_pretrained(directory)
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{number}": number for number in range(3, VOCABULARY)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<pad>"
    )
    fast.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    fast.save_pretrained(directory)
    return directory


def make_config(folder: Path, directory: Path, /, **spec: Any) -> Path:
    """A snapshot for the toy in `folder`; keywords replace blocks of the spec."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = folder / "rows.jsonl"
    rows.write_text('{"prompt": "w3", "completion": "w4"}\n')
    data = {"source": {"path": {"path": str(rows)}}}
    document = {
        "kind": "PreferenceJob",
        "name": "toy",
        "uid": "toy-uid",
        "preference": {
            "runtimeRef": {"name": "torch-cpu"},
            "model": {"source": {"path": {"path": str(directory)}}},
            "data": {"train": data, "evaluation": data},
            "objective": {"sft": {}},
            "optimizer": {"adamw": {"learningRate": 0.01, "weightDecay": 0.1}},
            "schedule": {"cosine": {"warmupFraction": 0.25}},
            "training": {"steps": 8, "batchSize": 8, "microBatchSize": 4, "seed": 7},
            "checkpoint": {"everySteps": 1},
            "output": {"path": str(folder / "model")},
            **spec,
        },
        "paths": {
            "model": str(directory),
            "train": str(rows),
            "evaluation": str(rows),
            "checkpoints": str(folder / "checkpoints"),
            "output": str(folder / "model"),
        },
    }
    path = folder / "config.json"
    path.write_text(json.dumps(document))
    return path


class Child:
    """A trainer in a process of its own, forked from a server that has imported everything already.

    It trains the toy, or with `build=build_task` whatever the configuration says.
    """

    def __init__(self, config: Path, rank: int = 0, build: Builder = ToyTask, **variables: str) -> None:
        self.log = config.parent / f"output-{rank}-{time.monotonic_ns()}.jsonl"
        self.termination_log = config.parent / f"termination-log-{rank}"
        self.termination_log.unlink(missing_ok=True)
        self._process = FORKING.Process(
            target=_run_in_child, args=(config, self.log, self.termination_log, build, {"RANK": str(rank), **variables})
        )
        self._process.start()

    def wait_for(self, event: str, step: int = 0, deadline: float = 120) -> None:
        """Returns once the process has logged `event`, for steps the step number `step` or a later one."""
        end = time.monotonic() + deadline
        while not any(line["event"] == event and line.get("step", 0) >= step for line in self.lines()):
            assert self._process.is_alive(), f"ended before {event} {step}:\n{self.log.read_text()}"
            assert time.monotonic() < end, f"no {event} {step} within {deadline} s"
            self._process.join(0.002)

    def send(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def wait(self, deadline: float = 120) -> int:
        """The exit code; minus the number of the signal that killed it."""
        self._process.join(deadline)
        if self._process.is_alive():
            self._process.kill()
            raise AssertionError(f"still running after {deadline} s:\n{self.log.read_text()}")
        assert self._process.exitcode is not None
        return self._process.exitcode

    def lines(self) -> list[dict[str, Any]]:
        """The JSON lines that were written completely."""
        if not self.log.exists():
            return []
        return [json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("}\n")]

    def losses(self) -> dict[int, float]:
        return {line["step"]: line["loss"] for line in self.lines() if line["event"] == "step"}

    def last_words(self) -> dict[str, Any]:
        return json.loads(self.termination_log.read_bytes())


def _run_in_child(config: Path, log: Path, termination_log: Path, build: Builder, variables: dict[str, str]) -> None:
    os.environ.update({"OMP_NUM_THREADS": "1", **variables})
    torch.set_num_threads(1)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    request = StopRequest()
    request.listen()
    code = run(Options(config, False, 0, termination_log), request, build)
    sys.stdout.flush()
    sys.exit(code)
