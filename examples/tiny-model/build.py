"""Makes the tiny model: data, tokenizer, random weights, and supervised fine-tuning by Plumbline's own trainer.

    python examples/tiny-model/build.py [--output DIR]

The result lies in `${XDG_CACHE_HOME:-~/.cache}/plumbline/tiny-model-<digest of what it is made from>`; DIR becomes a
link to it. What is up to date is not made again, and an interrupted run goes on where it was. The folder holds

    model/            a Hugging Face directory that transformers loads
    data/             the JSONL files of make_data.py
    tiny-model.json   held-out accuracy as measured, number of parameters, digests, seconds
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
INGREDIENTS = ("make_data.py", "make_prompts.py", "make_steps.py", "make_tokenizer.py", "sft.yaml")
SEED = 0
SUMMARY = "tiny-model.json"
STEPS_BETWEEN_LINES = 50
STOPPED_SAVED = 85
"""Exit code of the trainer after a stop request, with a checkpoint from which it goes on."""


def ingredients_digest() -> str:
    """SHA-256 over the files that decide what the model becomes."""
    digest = hashlib.sha256()
    for name in INGREDIENTS:
        content = (HERE / name).read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def cache_directory() -> Path:
    """Where finished models lie."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "plumbline"


def build(cache: Path) -> Path:
    """Makes the model below `cache` unless it is there, and returns its folder."""
    digest = ingredients_digest()
    finished = cache / f"tiny-model-{digest[:12]}"
    if (finished / SUMMARY).exists():
        print(f"tiny model: up to date in {finished}", flush=True)
        return finished
    cache.mkdir(parents=True, exist_ok=True)
    with _only_builder(cache / f"{finished.name}.lock") as lock:
        if not (finished / SUMMARY).exists():
            _make(cache / f"{finished.name}.partial", finished, digest, lock)
    return finished


def _make(work: Path, finished: Path, digest: str, lock: int) -> None:
    started, cpu_before = time.monotonic(), _child_cpu_seconds()
    # imports of torch and transformers take seconds and are not needed when the model is there
    sys.path.insert(0, str(HERE))
    from make_data import write_rows
    from make_tokenizer import write_untrained_model
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    if not (work / "ready").exists():
        print("tiny model: data, tokenizer and random weights", flush=True)
        shutil.rmtree(work, ignore_errors=True)
        write_rows(work / "data", SEED)
        parameters = write_untrained_model(work / "data" / "sft-train.jsonl", work / "untrained", SEED)
        shutil.copy(HERE / "sft.yaml", work / "sft.yaml")
        (work / "ready").write_text(str(parameters))
    else:
        print("tiny model: going on with an interrupted run", flush=True)
    run_trainer(work, "sft.yaml", lock)
    accuracy = greedy_accuracy(work / "model", work / "data" / "prompts-heldout.jsonl")
    summary = {
        "accuracy": accuracy,
        "parameters": int((work / "ready").read_text()),
        "ingredients": f"sha256:{digest}",
        "weights": f"sha256:{hashlib.sha256((work / 'model' / 'model.safetensors').read_bytes()).hexdigest()}",
        "seconds": round(time.monotonic() - started, 1),
        "trainingCpuSeconds": round(_child_cpu_seconds() - cpu_before, 1),
    }
    for leftover in (work / "untrained", work / "model-checkpoints"):
        shutil.rmtree(leftover, ignore_errors=True)
    for leftover in (work / "ready", work / "sft.yaml", work / "last-words.json"):
        leftover.unlink(missing_ok=True)
    (work / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")
    shutil.rmtree(finished, ignore_errors=True)
    work.rename(finished)
    print(
        f"tiny model: right on {accuracy:.1%} of the held-out problems, {summary['parameters']:,} parameters, "
        f"{summary['seconds']:.0f} s, in {finished}",
        flush=True,
    )


def run_trainer(work: Path, config: str, lock: int) -> None:
    """Runs the trainer in `work` and shows its progress; ends the process when the trainer fails or is stopped.

    The trainer inherits the lock's file descriptor: should this process be killed, the folder stays locked until the
    trainer has ended too.
    """
    source_roots = [str(ROOT / "crds"), str(ROOT / "trainer-image")]
    inherited = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    command = [sys.executable, "-m", "plumbline_trainer", "--config", config]
    command += ["--port", "0", "--termination-log", "last-words.json"]
    trainer = subprocess.Popen(
        command,
        cwd=work,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*source_roots, *inherited])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        pass_fds=(lock,),
    )
    assert trainer.stdout is not None
    other_lines: list[str] = []
    try:
        for line in trainer.stdout:
            event = _event(line)
            if event is None:
                other_lines.append(line)
            elif event.get("event") == "step":
                step, steps, loss = event["step"], event["maxSteps"], event["loss"]
                if step % STEPS_BETWEEN_LINES == 0:
                    print(f"tiny model: step {step} of {steps}, loss {loss:.3f}", flush=True)
            elif event.get("message"):
                print(f"tiny model: {event['message']}", flush=True)
    except KeyboardInterrupt:
        trainer.terminate()
    code = trainer.wait()
    if code == STOPPED_SAVED:
        raise SystemExit("tiny model: stopped; the next call goes on from the checkpoint")
    if code:
        sys.stderr.writelines(other_lines)
        raise SystemExit(f"tiny model: the trainer ended with exit code {code}")


def greedy_accuracy(model_directory: Path, problems: Path) -> float:
    """Share of problems that the model answers rightly when it always takes the likeliest token.

    Measured with transformers alone, so that it does not rest on the code that trained the model.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_directory, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(model_directory, dtype=torch.float32).eval()
    rows = [json.loads(line) for line in problems.read_text(encoding="utf-8").splitlines()]
    chats = [[{"role": "user", "content": row["prompt"]}] for row in rows]
    inputs = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    with torch.inference_mode():
        generated = model.generate(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=8, do_sample=False
        )
    texts = tokenizer.batch_decode(generated[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    right = sum(text.strip() == row["answer"] for text, row in zip(texts, rows, strict=True))
    return right / len(rows)


def link(target: Path, output: Path) -> None:
    """Makes `output` a link to `target`; refuses to replace anything but a link."""
    output = output.parent.resolve() / output.name
    if output.exists() and not output.is_symlink():
        raise SystemExit(f"tiny model: {output} exists and is not a link; remove it or choose another --output")
    output.parent.mkdir(parents=True, exist_ok=True)
    fresh = output.with_name(f".{output.name}.{os.getpid()}")
    fresh.symlink_to(target)
    fresh.replace(output)


@contextmanager
def _only_builder(lock: Path) -> Iterator[int]:
    """Waits until no other process builds the same model; gives the descriptor that holds the lock."""
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle.fileno()


def _event(line: str) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except json.JSONDecodeError:
        return None
    return event if isinstance(event, dict) else None


def _child_cpu_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, help="link to make to the finished folder")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: the trainer saves a checkpoint
    finished = build(cache_directory())
    if options.output is not None:
        link(finished, options.output)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("\ntiny model: interrupted; the next call goes on from here") from None
