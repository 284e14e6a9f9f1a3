"""The benchmark of RLVR iterations: workload, arithmetic, and one real comparison on a model that takes no time."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.comparison import NotComparable
from bench.iterations import Helpers, Iteration, Rollout, RolloutAssignment, RolloutReport, iterations_of
from bench.measurement import Recorder, Seconds
from bench.rlvr import OURS, main, opponent, parse
from bench.rollout_comparison import (
    Curve,
    curve,
    curves_table,
    require_same_prompts,
    rollout_figures,
    rollout_figures_table,
    rollout_ratios,
    rollout_ratios_table,
)
from bench.rollout_workload import draw_prompts, ending_model_directory, read_prompts, write_prompts
from bench.sides.word_reward import share_of_words_with_a, verify
from bench.vocabulary import make_vocabulary


def report(
    wall: list[float], *, tokens: int = 1000, rewards: list[float] | None = None, helpers: int = 0
) -> RolloutReport:
    """A run whose iterations took `wall` seconds, a quarter of them generating and a tenth of a second scoring."""
    rewards = rewards or [0.5] * len(wall)
    iterations = [
        Iteration(Seconds(seconds, 2 * seconds), Rollout(tokens, reward, seconds / 4, 0.1))
        for seconds, reward in zip(wall, rewards, strict=True)
    ]
    return RolloutReport({}, 100, 300, helpers, Seconds(1, 1), iterations, "same")


def test_figures_by_hand() -> None:
    side = rollout_figures([report([9.0, 4.0, 8.0], helpers=50), report([7.0, 6.0], helpers=70)])
    assert side.seconds == 6.0  # of 4, 8 and 6: the first iteration of each run is left out
    assert side.iterations_per_hour == 600
    assert side.cpu_seconds == 12.0
    assert side.generate_seconds == 1.5
    assert side.generate_tokens_per_second == pytest.approx(3000 / 4.5)
    assert side.update_seconds == pytest.approx(6 - 1.5 - 0.1)
    assert side.memory_bytes == 200 + 60


def test_a_run_of_one_iteration_is_counted_whole() -> None:
    assert rollout_figures([report([5.0])]).seconds == 5.0


def test_ratios_by_hand() -> None:
    ours, other = rollout_figures([report([1.0, 2.0])]), rollout_figures([report([1.0, 8.0], tokens=2000, helpers=200)])
    ratios = rollout_ratios(ours, other)
    assert ratios.iterations_per_hour == 4
    assert ratios.iterations_per_hour_at_equal_tokens == 2
    assert ratios.cpu == 4
    assert ratios.generation == 2
    assert ratios.memory == 0.5


def test_curves_say_where_the_seeds_of_two_sides_meet() -> None:
    one = curve([report([1, 1, 1], rewards=[0.1, 0.2, 0.3]), report([1, 1, 1], rewards=[0.2, 0.4, 0.5])])
    assert one == Curve([pytest.approx(0.15), pytest.approx(0.3), pytest.approx(0.4)], [0.1, 0.2, 0.3], [0.2, 0.4, 0.5])
    assert one.overlap(Curve([0.0] * 3, [0.2, 0.0, 0.6], [0.3, 0.1, 0.7])) == pytest.approx(1 / 3)
    assert one.overlap(one) == 1


def test_tables_hold_the_figures() -> None:
    ours, other = rollout_figures([report([1.0, 2.0])]), rollout_figures([report([1.0, 8.0])])
    assert "| plumbline | 1800 | 2.00 |" in rollout_figures_table({"plumbline": ours})
    assert "| trl | 4.00x |" in rollout_ratios_table({"trl": rollout_ratios(ours, other)})
    many = curve([report([1.0] * 30, rewards=[index / 30 for index in range(30)])])
    lines = curves_table({"plumbline": many}).splitlines()
    assert len(lines) == 2 + 10
    assert lines[2].startswith("| 1 | 0.000")
    assert lines[-1].startswith("| 30 | 0.967")


def test_other_prompts_and_other_numbers_of_iterations_are_refused() -> None:
    same, other = report([1.0]), report([1.0])
    require_same_prompts({"a": [same], "b": [other]}, 1)
    with pytest.raises(NotComparable, match="another number"):
        require_same_prompts({"a": [same]}, 2)
    other.prompt_digest = "other"
    with pytest.raises(NotComparable, match="other token ids"):
        require_same_prompts({"a": [same], "b": [other]}, 1)


def test_a_report_and_an_assignment_survive_their_files(tmp_path: Path) -> None:
    written = report([1.0, 2.0])
    written.write(tmp_path / "report.json")
    assert RolloutReport.read(tmp_path / "report.json") == written
    assignment = RolloutAssignment("model", "rows", 4, 8, 3, 256, 1e-6, 1.0, 0, "work", "report")
    assignment.write(tmp_path / "assignment.json")
    assert RolloutAssignment.read(tmp_path / "assignment.json") == assignment


def test_processes_that_the_trainer_starts_are_counted() -> None:
    recorder, helpers = Recorder(), Helpers()
    recorder.step_begins()
    busy = "import time\nwhile time.process_time() < 0.2: pass\nprint('done', flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"done\n"
        recorder.step_ended(0.0, 1)
        helpers.iteration_ended()
        child.communicate(b"\n")
    [iteration] = iterations_of(recorder, [Rollout(1, 0.0, 0.0, 0.0)], helpers)
    assert helpers.bytes > 2**20
    assert iteration.seconds.cpu - recorder.steps[0].seconds.cpu >= 0.15


def test_the_reward_is_the_share_of_words_whose_first_vowel_is_an_a() -> None:
    assert share_of_words_with_a(" babo cide dafu Gaga") == 0.75
    assert share_of_words_with_a(" babo b") == 1.0
    assert share_of_words_with_a("") == 0.0
    assert verify("prompt", " babo cide", None, {}) == 0.5


def test_prompts_repeat_and_survive_their_file(tmp_path: Path) -> None:
    vocabulary = make_vocabulary(512)
    prompts = draw_prompts(5, 0, vocabulary, (3, 9))
    assert prompts == draw_prompts(5, 0, vocabulary, (3, 9))
    assert prompts != draw_prompts(5, 1, vocabulary, (3, 9))
    assert all(3 <= len(prompt.split()) <= 9 for prompt in prompts)
    write_prompts(tmp_path / "prompts.jsonl", prompts)
    assert read_prompts(tmp_path / "prompts.jsonl") == prompts


def test_completions_end_with_the_chosen_mean_length(tmp_path: Path) -> None:
    directory = ending_model_directory(tmp_path, "tiny", 0, 32)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    end = AutoTokenizer.from_pretrained(directory).eos_token_id
    ids = torch.randint(100, 512, (32, 64), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        probability = model(ids).logits.softmax(-1)[:, 8:, end]
    assert 1 / 40 < float(probability.mean()) < 1 / 26
    assert ending_model_directory(tmp_path, "tiny", 0, 32) == directory
    assert ending_model_directory(tmp_path, "tiny", 0, 0) != directory


def test_opponents_are_versions_of_trl() -> None:
    assert opponent("1.13.0").module == "bench.sides.trl_grpo"
    assert opponent("1.13.0").name == "trl-1.13.0"
    with pytest.raises(ValueError, match="no reference"):
        opponent("1.13.0+precomputed")
    with pytest.raises(SystemExit):
        parse(["--mean-length", "1"])


@pytest.mark.slow
def test_both_sides_generate_score_and_learn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    version = importlib.metadata.version("trl")
    arguments = (
        "--model tiny --threads 1 --iterations 2 --seeds 1 --prompts 2 --group-size 4 --max-tokens 12 --mean-length 6"
    )
    code = main([*arguments.split(), "--opponents", version, "--name", "result", "--output", str(tmp_path)])
    assert code == 0, capsys.readouterr().err
    [result] = json.loads((tmp_path / "result.json").read_text())["results"]
    for name in (OURS.name, f"trl-{version}"):
        [run] = result["runs"][name]
        for iteration in run["iterations"]:
            assert 8 <= iteration["rollout"]["tokens"] <= 8 * 12
            assert 0 <= iteration["rollout"]["reward"] <= 1
            assert 0 < iteration["rollout"]["generate_seconds"] < iteration["seconds"]["wall"]
        assert run["peak_bytes"] > run["base_bytes"]
    assert result["runs"][OURS.name][0]["helper_bytes"] > 0
    assert f"| trl-{version} |" in (tmp_path / "result.md").read_text()
