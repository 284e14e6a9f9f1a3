"""What a job gathers for its shaping: gradients of single components, and forced answers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from plumbline_trainer.failures import ConfigError
from plumbline_trainer.rollout.experience import Rollout
from plumbline_trainer.tasks.judging import Candidate
from plumbline_trainer.tasks.sampling import Sampler, Wanted
from plumbline_trainer.tasks.updating import Updates
from tests.trainer.rlvr_jobs import write_job
from tests.trainer.test_rlvr_methods import Run, kept_pools  # noqa: F401  (a fixture of every test here)

RIGHT = {"exactMatch": {"extract": "[0-3]"}}
SHORT = {"regex": {"pattern": r"\S+( \S+)?", "mode": "fullMatch"}}


def rewards(right: float, short: float) -> list[dict[str, Any]]:
    return [
        {"name": "right", "weight": right, "verifier": RIGHT},
        {"name": "short", "weight": short, "verifier": SHORT},
    ]


@pytest.mark.parametrize("objective", ["grpo", "gvpo", "gpg", "klCov", "raft", "redDrop", "returnConditioned"])
def test_the_gradient_of_a_component_is_that_of_a_job_with_this_reward_alone(
    objective: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[torch.Tensor] = []
    measure = Updates.objective_gradient

    def recorded(self: Updates, rollout: Rollout) -> torch.Tensor:
        found.append(measure(self, rollout))
        return found[-1]

    def gradient(name: str, patch: dict[str, Any]) -> torch.Tensor:
        folder = tmp_path / name
        folder.mkdir()
        with closing(Run(write_job(folder, model, {"objective": {objective: {}}, **patch}, {"steps": 1}))) as run:
            run.accumulate(0)
            return run.gradient()

    expected = [gradient("right", {"rewards": rewards(1, 0)}), gradient("short", {"rewards": rewards(0, 1)})]
    monkeypatch.setattr(Updates, "objective_gradient", recorded)
    weighting = {"gradientWeighting": {"components": ["right", "short"]}}
    gradient("both", {"rewards": rewards(0, 0), "shaping": [weighting]})
    assert all(bool((one != 0).any()) for one in expected)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_answers_forced_at_the_end_of_the_longest_completions_have_room(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Wanted] = []
    forced: list[Candidate] = []
    sample = Sampler.sample

    def recorded(self: Sampler, wanted: Sequence[Wanted], purpose: str, *rest: Any, **options: Any) -> list[Candidate]:
        found = sample(self, wanted, purpose, *rest, **options)
        if purpose == "progress":
            asked.extend(wanted)
            forced.extend(found)
        return found

    monkeypatch.setattr(Sampler, "sample", recorded)
    shaping = [{"progress": {"maxProbeTokens": 4, "forcedAnswer": "answer is"}}]
    with closing(Run(write_job(tmp_path, model, {"shaping": shaping}, {"steps": 1}))) as run:
        run.accumulate(0)
    # what forces the answer has two tokens, and completions have at most six
    begun = min(len(one.prompt_ids) for one in asked)
    longest = [place for place, one in enumerate(asked) if len(one.prompt_ids) > begun + 3]
    assert longest, "a text of four tokens and what forces the answer leave no room for one in a completion"
    assert max(len(one.completion.tokens) for one in forced if one.slot in longest) == 4


def test_forced_answers_that_outgrow_the_models_positions_are_refused(model: Path, tmp_path: Path) -> None:
    shaping = [{"progress": {"maxProbeTokens": 6, "forcedAnswer": "answer is"}}]
    training = {"steps": 1, "maxPromptTokens": 51}
    with pytest.raises(
        ConfigError, match=r"51 \+ 6 \+ 8 \(the forced answer of shaping progress\) = 65, but the model"
    ):
        Run(write_job(tmp_path, model, {"shaping": shaping}, training))
