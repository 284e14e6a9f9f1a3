"""The sides by name; and one real comparison, each side in its own process, on a model that takes no time."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest

from bench.machine import describe_machine
from bench.preference import main
from bench.sides.launching import Side, trl_path, trl_side


def test_a_version_names_its_side() -> None:
    assert trl_side("1.13.0") == Side("trl-1.13.0", "bench.sides.trl_dpo", trl="1.13.0")
    assert trl_side("1.13.0+precomputed").precompute_reference
    assert trl_side("1.13.0+precomputed").name == "trl-1.13.0-precomputed"


@pytest.mark.parametrize("text", ["latest", "1.13.0+fast", ""])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="TRL"):
        trl_side(text)


def test_the_version_of_the_environment_is_used_where_it_is(tmp_path: Path) -> None:
    assert trl_path(importlib.metadata.version("trl"), tmp_path) is None
    folder = tmp_path / "trl-1.2.3"
    folder.mkdir()
    assert trl_path("1.2.3", tmp_path) == folder


def test_the_machine_has_a_name() -> None:
    machine = describe_machine()
    assert machine.processor
    assert machine.cores >= 1
    assert machine.memory_bytes > 2**28


@pytest.mark.slow
def test_both_sides_train_the_same_model_to_the_same_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    version = importlib.metadata.version("trl")
    arguments = "--model tiny --threads 1 --steps 2 --pairs 3 --epochs 2 --repeats 1 --learning-rate 1e-3 --name result"
    code = main([*arguments.split(), "--opponents", version, f"{version}+precomputed", "--output", str(tmp_path)])
    assert code == 0, capsys.readouterr().err
    [result] = json.loads((tmp_path / "result.json").read_text())["results"]
    losses = result["figures"]["plumbline"]["losses"]
    assert len(losses) == 4
    assert losses[0] == pytest.approx(0.6931, abs=1e-4)
    assert abs(losses[2] - losses[0]) > 1e-2, "the model must have learnt, or equal losses say nothing"
    for opponent in (f"trl-{version}", f"trl-{version}-precomputed"):
        assert result["ratios"][opponent]["losses_agree"]
        assert result["runs"][opponent][0]["versions"]["trl"] == version
    assert f"| trl-{version} |" in (tmp_path / "result.md").read_text()
