"""The result: a Hugging Face directory that `transformers` loads, with a model card that says where it came from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from plumbline_api.contract import TrainerConfig
from plumbline_api.status import Inputs, MetricValue, OutputStatus
from plumbline_trainer.checkpoint.durable import disk_errors, equalize_permissions, flush, flush_tree
from plumbline_trainer.checkpoint.manifest import sha256_of
from plumbline_trainer.inputs import combined_digest
from plumbline_trainer.modeling.adapters import merged
from plumbline_trainer.stopping import StopRequest
from plumbline_trainer.tasks.task import Task

RECORD_NAME = "plumbline.json"
"""Beside the model: its files with their digests. A later export replaces exactly the files that it lists."""

_TEMPORARY = ".export.partial"


def export(
    task: Task,
    config: TrainerConfig,
    step: int,
    inputs: Inputs | None,
    metrics: list[MetricValue],
    stop: StopRequest,
) -> OutputStatus:
    """Writes model, tokenizer, chat template and model card to `config.paths.output`.

    Everything is written and flushed in a hidden folder there and then moved into place, the record last, so that a
    directory with a record is complete. An adapter is merged into its base unless the job says otherwise; the model
    object is used up by that. Raises `DiskFull`, `InfrastructureError`, `StopRequested`.
    """
    output = Path(config.paths.output)
    temporary = output / _TEMPORARY
    with disk_errors(f"writing the model to {output}"):
        output.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            _save_model(task, config, temporary)
            stop.raise_if_requested()
            (temporary / "README.md").write_text(model_card(config, step, inputs, metrics), encoding="utf-8")
            files = {path.name: sha256_of(path) for path in sorted(temporary.iterdir()) if path.is_file()}
            digest = combined_digest(files.items())
            record = {"job": config.name, "kind": config.kind, "step": step, "digest": digest, "files": files}
            (temporary / RECORD_NAME).write_text(json.dumps(record, indent=2) + "\n")
            equalize_permissions(temporary, temporary / RECORD_NAME)
            flush_tree(temporary)
            stop.raise_if_requested()
            _move_into_place(temporary, output)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return OutputStatus(uri=config.paths.output_uri or str(output), digest=digest)


def model_card(config: TrainerConfig, step: int, inputs: Inputs | None, metrics: list[MetricValue]) -> str:
    """The README of the model: how it was made, from what, and what it reached."""
    spec = config.spec
    objective = spec.objective.key
    adapter = spec.peft is not None and not spec.peft.value.merge_on_export
    header: dict[str, Any] = {
        "library_name": "peft" if adapter else "transformers",
        "tags": ["plumbline", config.kind, objective],
    }
    scores = getattr(spec.objective.value, "trains_scalar_head", False)
    header["pipeline_tag"] = "text-classification" if scores else "text-generation"
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {config.name}",
        f"Trained by Plumbline as a {config.kind} with the objective `{objective}`, {step} optimizer steps.",
    ]
    if metrics:
        rows = [
            f"| {metric.name} | {'' if metric.first is None else f'{metric.first:.6g}'} | {metric.value:.6g} |"
            for metric in metrics
        ]
        parts += ["## Metrics", "\n".join(["| metric | at the start | at the end |", "|---|---|---|", *rows])]
    if inputs is not None:
        digests = [f"| {name} | `{digest}` |" for name, digest in inputs.to_document().items()]
        parts += ["## Inputs", "\n".join(["| input | digest |", "|---|---|", *digests])]
    method = {
        key: value
        for key, value in spec.to_document().items()
        if key in ("objective", "advantage", "optimizer", "schedule", "peft", "training", "rollout", "rewards")
    }
    parts += ["## Configuration", f"```yaml\n{yaml.safe_dump(method, sort_keys=False)}```"]
    return "\n\n".join(parts) + "\n"


def _save_model(task: Task, config: TrainerConfig, directory: Path) -> None:
    from plumbline_trainer.modeling.degree_head import detach_degree_head
    from plumbline_trainer.modeling.success_head import detach_success_head, save_success_head
    from plumbline_trainer.tasks.guidance import guidance_settings

    model: Any = task.model
    detach_degree_head(model)
    head = detach_success_head(model)
    if head is not None and config.rlvr is not None:
        save_success_head(head, guidance_settings(config.rlvr), directory)
    if config.spec.peft is None or config.spec.peft.value.merge_on_export:
        model = merged(model)
    model.save_pretrained(directory)
    task.tokenizer.save_pretrained(directory)


def _move_into_place(temporary: Path, output: Path) -> None:
    """Replaces the files of a former export. The record goes first and comes back last."""
    record = output / RECORD_NAME
    former: set[str] = set()
    if record.exists():
        try:
            former = set(json.loads(record.read_bytes())["files"])
        except (ValueError, KeyError, TypeError):
            former = set()
        record.unlink()
    fresh = {path.name for path in temporary.iterdir()}
    for name in former - fresh:
        if Path(name).name == name:
            (output / name).unlink(missing_ok=True)
    for name in sorted(fresh - {RECORD_NAME}):
        (temporary / name).replace(output / name)
    flush(output)
    (temporary / RECORD_NAME).replace(record)
    flush(output)
