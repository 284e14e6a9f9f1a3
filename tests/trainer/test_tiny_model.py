"""The tiny model's data and tokenizer: deterministic, honest splits, lossless text."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "tiny-model"


def load(name: str) -> ModuleType:
    """A script of the folder as a module; the folder's name is no package's. Scripts import each other by name."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    spec = importlib.util.spec_from_file_location(f"tiny_model_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def make_data() -> ModuleType:
    return load("make_data")


@pytest.fixture(scope="module")
def rows(make_data: ModuleType) -> dict[str, list[dict[str, object]]]:
    return make_data.make_rows(seed=0)


@pytest.fixture(scope="module")
def untrained(make_data: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-model")
    make_data.write_rows(folder / "data", seed=0)
    load("make_tokenizer").write_untrained_model(folder / "data" / "sft-train.jsonl", folder / "untrained", seed=0)
    return folder / "untrained"


def true_answer(prompt: str) -> str:
    """What Python makes of `What is 12 + 34?`."""
    left, right = prompt.removeprefix("What is ").removesuffix("?").split(" + ")
    return str(int(left) + int(right))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(make_data: ModuleType, tmp_path: Path) -> None:
    def contents(folder: Path, seed: int) -> list[bytes]:
        return [path.read_bytes() for path in make_data.write_rows(folder, seed)]

    first = contents(tmp_path / "first", 0)
    assert contents(tmp_path / "second", 0) == first
    assert contents(tmp_path / "third", 1) != first


def test_nothing_that_is_measured_was_learned_from(rows: dict[str, list[dict[str, object]]]) -> None:
    prompts = {name: {str(row["prompt"]) for row in found} for name, found in rows.items()}
    for held_out in (name for name in prompts if name.endswith("-heldout")):
        for train in (name for name in prompts if name.endswith("-train")):
            assert not prompts[held_out] & prompts[train], (held_out, train)
    assert not prompts["sft-train"] & prompts["prompts-train"]
    assert not prompts["sft-train"] & prompts["pairs-train"]
    for name in ("prompts-train", "prompts-heldout", "pairs-train", "pairs-heldout"):
        assert len(prompts[name]) == len(rows[name]), f"{name} repeats a prompt"


def test_answers_of_problems_are_right(rows: dict[str, list[dict[str, object]]]) -> None:
    for name in ("prompts-train", "prompts-heldout"):
        for row in rows[name]:
            assert row["answer"] == true_answer(str(row["prompt"]))


def test_demonstrations_are_right_as_often_as_they_say(
    make_data: ModuleType, rows: dict[str, list[dict[str, object]]]
) -> None:
    shown = [row for row in rows["sft-train"] if " + " in str(row["prompt"])]
    right = sum(row["completion"] == true_answer(str(row["prompt"])) for row in shown) / len(shown)
    expected = 1 - make_data.CARRYING_SHARE * make_data.CARELESS_SHARE
    assert right == pytest.approx(expected, abs=0.03)


def test_careless_answers_are_those_of_columns_without_carry(make_data: ModuleType) -> None:
    forgetful = make_data.sum_problem(47, 38)
    assert (forgetful.answer, forgetful.careless) == ("85", "75")
    assert forgetful.carries
    assert not make_data.sum_problem(41, 38).carries
    assert not make_data.sum_problem(81, 72).carries, "a sum above 100 may have no carry to forget"


def test_tone_cannot_be_told_from_the_supervised_data(
    rows: dict[str, list[dict[str, object]]], make_data: ModuleType
) -> None:
    """Both tones are demonstrated equally often, so preference training starts from indifference."""
    openings = {tone.format("")[:3] for tone in make_data.FRIENDLY}
    instructions = [row for row in rows["sft-train"] if " + " not in str(row["prompt"])]
    tones = Counter(str(row["completion"])[:3] in openings for row in instructions)
    assert tones[True] / tones.total() == pytest.approx(0.5, abs=0.05)


def test_pairs_state_a_preference(rows: dict[str, list[dict[str, object]]]) -> None:
    for name in ("pairs", "sums", "steps"):
        for split in ("train", "heldout"):
            assert all(row["chosen"] != row["rejected"] for row in rows[f"{name}-{split}"])


def test_lists_rank_four_different_answers_in_no_fixed_order(rows: dict[str, list[dict[str, Any]]]) -> None:
    places = Counter()
    for row in rows["lists-train"]:
        assert sorted(row["scores"]) == [0.0, 0.4, 0.6, 1.0]
        assert len(set(row["completions"])) == 4
        places[row["scores"].index(1.0)] += 1
    assert len(places) == 4


def test_traces_go_through_several_answers_and_the_last_one_counts(rows: dict[str, list[dict[str, Any]]]) -> None:
    lengths = Counter()
    for row in rows["traces-train"]:
        right = true_answer(row["prompt"])
        for trace, score in zip(row["completions"], row["scores"], strict=True):
            answers = [part.removesuffix(".") for part in trace.split(" Check: ")]
            lengths[len(answers)] += 1
            assert score == (answers[-1] == right)
    assert sorted(lengths) == [2, 3, 4]


def holds(step: str) -> bool:
    """Whether the equation of a step such as `4 + 3 + 1 = 8` is true."""
    left, right = step.split(" = ")
    return sum(int(number) for number in left.split(" + ")) == int(right)


def test_worked_sums_lead_to_the_answer_and_mistakes_do_not(rows: dict[str, list[dict[str, Any]]]) -> None:
    for row in rows["trees-heldout"]:
        units, wrong_units, tens, wrong_tens, answer, wrong_answer = (node["text"] for node in row["nodes"])
        assert answer == true_answer(row["prompt"]) != wrong_answer
        assert holds(units) and holds(tens) and not holds(wrong_units)
        assert answer == str(int(tens.split(" = ")[1]) * 10 + int(units.split(" = ")[1]) % 10)
        assert wrong_tens != tens and wrong_answer == str(
            int(wrong_tens.split(" = ")[1]) * 10 + int(units.split(" = ")[1]) % 10
        )


def test_hints_and_beginnings_are_lines_of_the_solution(rows: dict[str, list[dict[str, Any]]]) -> None:
    assert all(holds(row["hint"]) for row in rows["prompts-train"])
    assert Counter(row["level"] for row in rows["prompts-train"]).keys() == {"carry", "plain"}
    for row in rows["prefixes-heldout"]:
        assert row["prompt"].startswith(row["tree"])
        assert all(holds(line) and line.strip() in row["prompt"] for line in row["prefix"])
        assert row["answer"] == true_answer(row["tree"])
    beginnings = Counter(row["tree"] for row in rows["prefixes-train"])
    assert set(beginnings.values()) == {3}


def test_programs_are_tested_for_the_answer(rows: dict[str, list[dict[str, Any]]]) -> None:
    for row in rows["programs-train"]:
        assert row["tests"] == [{"input": "", "output": true_answer(row["prompt"])}]


def test_bandits_are_won_as_often_as_their_arms_say(rows: dict[str, list[dict[str, Any]]]) -> None:
    pulls = Counter()
    for row in rows["bandits-train"]:
        assert len(row["means"]) == len(set(row["means"])) == row["arms"]
        assert row["means"][int(row["answer"])] == max(row["means"])
        assert row["prompt"].count("+") + row["prompt"].count("-") == len(row["history"]) + 2
        for arm, won in row["history"]:
            pulls[row["means"][arm], won] += 1
    for mean in (0.1, 0.5, 0.9):
        assert pulls[mean, 1.0] / (pulls[mean, 0.0] + pulls[mean, 1.0]) == pytest.approx(mean, abs=0.06)


def test_step_values_fall_at_the_mistake(rows: dict[str, list[dict[str, Any]]]) -> None:
    faulty = [row for row in rows["values-train"] if "alternatives" in row]
    assert len(faulty) / len(rows["values-train"]) == pytest.approx(0.75, abs=0.06)
    for row in faulty:
        assert row["values"][2] < row["values"][1] - 0.2
        assert row["alternatives"][1][0]["value"] > row["values"][1] + 0.3


def test_the_tokenizer_writes_any_text_and_keeps_digits_apart(untrained: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(untrained)
    for text in ("What is 12 + 34?", "Größe 5 €, déjà vu\n\ttab", "Write moon three times."):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert len(tokenizer("1234567890", add_special_tokens=False)["input_ids"]) == 10
    chat = [{"role": "user", "content": "What is 12 + 34?"}, {"role": "assistant", "content": "46"}]
    whole = tokenizer.apply_chat_template(chat, tokenize=False)
    prompt = tokenizer.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
    assert prompt == "<|user|>What is 12 + 34?<|end|><|assistant|>"
    assert whole == f"{prompt}46<|end|>"


def test_initial_weights_follow_from_the_seed(untrained: Path, tmp_path: Path) -> None:
    make_tokenizer = load("make_tokenizer")
    rows_file = untrained.parent / "data" / "sft-train.jsonl"
    parameters = make_tokenizer.write_untrained_model(rows_file, tmp_path / "again", seed=0)
    assert parameters < 1_000_000
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (untrained / name).read_bytes()
    assert json.loads((untrained / "config.json").read_text())["model_type"] == "llama"


def test_the_output_link_replaces_links_and_nothing_else(tmp_path: Path) -> None:
    build = load("build")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        build.link(tmp_path / name, tmp_path / "output")
        assert (tmp_path / "output").resolve() == tmp_path / name
    (tmp_path / "precious").mkdir()
    with pytest.raises(SystemExit, match="precious exists and is not a link"):
        build.link(tmp_path / "one", tmp_path / "precious")
