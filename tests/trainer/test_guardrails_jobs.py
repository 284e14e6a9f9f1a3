"""Real jobs that are made to go wrong are seen to do so by the signal that is about it; healthy ones by none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from plumbline_api.guardrails import SIGNALS
from plumbline_trainer.tasks.build import build_task
from tests.trainer.toy_program import Child

W = 2

PAIRS = [
    {"prompt": f"{a}+{b}=?", "chosen": str(a + b), "rejected": str(a + b + 1 + a % 3)}
    for a in range(5)
    for b in range(4)
]
REVERSED = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in PAIRS]
PROBLEMS = [{"prompt": f"{a}+{b}=?", "answer": str(a + b)} for a in range(5) for b in range(4)]

FAILS_ON_DIGITS = """
def verify(prompt, completion, answer, row):
    if any(character.isdigit() for character in completion):
        raise ValueError("no digits, please")
    return 0.0
"""


def preference(**spec: Any) -> dict[str, Any]:
    base = {
        "objective": {"dpo": {"beta": 0.5}},
        "optimizer": {"adamw": {"learningRate": 0.002}},
        "training": {"steps": 8, "batchSize": 20, "maxPromptTokens": 32, "maxCompletionTokens": 8},
    }
    return {"kind": "PreferenceJob", "spec": base | spec}


def rlvr(**spec: Any) -> dict[str, Any]:
    base = {
        "objective": {"grpo": {}},
        "optimizer": {"adamw": {"learningRate": 0.003}},
        "training": {"steps": 6, "batchSize": 32, "maxPromptTokens": 32, "maxCompletionTokens": 6},
        "rollout": {"groupSize": 8},
        "rewards": [{"name": "digits", "verifier": {"regex": {"pattern": "[0-9]", "mode": "search"}}}],
    }
    return {"kind": "RLVRJob", "spec": base | spec}


def watched(kind: str, **bounds: float) -> list[dict[str, Any]]:
    """Every signal of the kind with a short window, by default at its own bound."""
    found = []
    for name, signal in SIGNALS.items():
        bound = bounds.get(name, signal.defaults.get(kind))  # type: ignore[call-overload]
        if kind in signal.kinds and bound is not None:
            found.append({"signal": name, "bound": bound, "windowSteps": W})
    return found


def unhealthy(
    job: dict[str, Any], folder: Path, model: Path, held_out: list[dict[str, Any]] | None = None, **bounds: float
) -> set[str]:
    """The signals that a run of the job has broken."""
    rows = PAIRS if job["kind"] == "PreferenceJob" else PROBLEMS
    train, evaluation = folder / "train.jsonl", folder / "held-out.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluation.write_text("".join(json.dumps(row) + "\n" for row in held_out or rows))
    document = {
        "apiVersion": "plumbline.dev/v1alpha1",
        "kind": job["kind"],
        "metadata": {"name": "watched"},
        "spec": {
            "runtimeRef": {"name": "torch-cpu"},
            "model": {"source": {"path": {"path": str(model)}}, "dtype": "float32"},
            "data": {
                "train": {"source": {"path": {"path": str(train)}}},
                "evaluation": {"source": {"path": {"path": str(evaluation)}}},
            },
            "evaluation": {"everySteps": W},
            "output": {"path": str(folder / "model")},
            "guardrails": watched(job["kind"], **bounds),
            **job["spec"],
        },
    }
    config = folder / "job.json"
    config.write_text(json.dumps(document))
    child = Child(config, build=build_task)
    assert child.wait() == 0, child.log.read_text()
    return {line["signal"] for line in child.lines() if line["event"] == "unhealthy"}


def test_a_preference_job_that_learns_is_healthy(tmp_path: Path, llama_directory: Path) -> None:
    assert unhealthy(preference(), tmp_path, llama_directory, gradientNorm=1000.0, kl=1000.0) == set()


def test_an_rlvr_job_that_learns_is_healthy(tmp_path: Path, llama_directory: Path) -> None:
    assert unhealthy(rlvr(), tmp_path, llama_directory, gradientNorm=1000.0, truncation=1.0) == set()


def test_rewards_that_nobody_gets_failing_code_and_short_completions(tmp_path: Path, llama_directory: Path) -> None:
    code = tmp_path / "reward.py"
    code.write_text(FAILS_ON_DIGITS)
    verifier = {"python": {"path": str(code)}}
    job = rlvr(
        rewards=[{"name": "own", "verifier": verifier, "maxErrorFraction": 1, "errorValue": 0}],
        training={"steps": 3, "batchSize": 32, "maxPromptTokens": 32, "maxCompletionTokens": 2},
    )
    assert unhealthy(job, tmp_path, llama_directory) == {"verifierErrors", "truncation", "zeroAdvantage"}


def test_a_policy_that_runs_into_one_answer(tmp_path: Path, llama_directory: Path) -> None:
    """The reward is any `a`, and the answer, which counts for nothing, is never right."""
    job = rlvr(
        kl={"loss": {"coefficient": 1e-6}},
        optimizer={"adamw": {"learningRate": 0.1}},
        rewards=[
            {"name": "letter", "verifier": {"regex": {"pattern": "a", "mode": "search"}}},
            {"name": "right", "weight": 0, "verifier": {"exactMatch": {}}},
        ],
        training={"steps": 14, "batchSize": 32, "maxPromptTokens": 32, "maxCompletionTokens": 6},
    )
    found = unhealthy(job, tmp_path, llama_directory, gradientNorm=0.5, entropyCollapse=1.3)
    assert {"kl", "entropyCollapse", "zeroAdvantage", "gradientNorm"} <= found


def test_held_out_preferences_that_are_the_opposite(tmp_path: Path, llama_directory: Path) -> None:
    found = unhealthy(preference(), tmp_path, llama_directory, held_out=REVERSED)
    assert found == {"overOptimisation"}
