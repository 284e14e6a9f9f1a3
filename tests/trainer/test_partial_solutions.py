"""Beginnings of wrong programs that are kept as solutions: which ones, as which tokens, and what jobs do with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from plumbline_trainer.distributed import Ranks
from plumbline_trainer.search.beginnings import begins_one, right_beginning, tokens_until
from plumbline_trainer.search.program_states import known_states, normal_form, solution_key, states
from plumbline_trainer.stopping import StopRequest
from plumbline_trainer.tasks.rlvr import RLVRTask, build
from plumbline_trainer.tasks.task import Batch
from tests.trainer.rlvr_jobs import llama, write_job

SOLUTION = "apples = 3 * 4\nleft = apples - 5\nprint(left)"
KNOWN, FORMS = known_states([SOLUTION]), [normal_form(SOLUTION)]

LINES = ["a = 3 * 4\n", "b = a - 5\n", "c = 4 * 3\n", "d = 5 + 5\n", "x = 3 * 4\n", "y = x - 5\n"]
WORDS = ["<bos>", "<eos>", "<unk>", *"abcdefgh", *LINES]
UNKNOWN = 2
"""A token that says nothing in a text."""

RIGHT = r"a = 3 \* 4\nb = a - 5\n|x = 3 \* 4\ny = x - 5\n"
"""Two spellings of one program."""


def characters(tokens: Sequence[int]) -> str:
    return "".join(map(chr, tokens))


def beginning(text: str) -> tuple[str, str] | None:
    """Normal form and text of what a wrong completion of one token a character begins with."""
    found = right_beginning(text, [ord(character) for character in text], KNOWN, FORMS, characters)
    return None if found is None else (found[0], characters(found[1]))


def test_the_beginning_ends_with_the_line_break_of_its_last_line() -> None:
    assert beginning("n = 4 * 3\nm = n + 1\n") == ("v0 = 4 * 3", "n = 4 * 3\n")
    assert beginning("n = 4*3  \n\nm = n - 5\nm = 9") == ("v0 = 4 * 3\nv1 = v0 - 5", "n = 4*3  \n\nm = n - 5\n")


def test_what_stands_before_a_fenced_program_is_part_of_it() -> None:
    text = "So:\n```python\nn = 4 * 3\nprint(n)\n```\nThat is 12."
    assert beginning(text) == ("v0 = 4 * 3", "So:\n```python\nn = 4 * 3\n")
    assert beginning("So:\nn = 4 * 3\nm = 1\n") is None, "without a fence the text is the program"


def test_beginnings_of_a_known_solution_and_whole_programs_are_none() -> None:
    assert beginning("n = 3 * 4\nm = n + 1\n") is None, "the solution begins like that"
    assert beginning("n = 4 * 3\n") is None
    assert beginning("n = 7\nm = 1\n") is None, "no solution has 7 alone"
    assert beginning("print(12)\nn = 4 * 3\nm = 1\n") is None
    assert begins_one("v0 = 3 * 4", FORMS) and not begins_one("v0 = 3", FORMS)


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["n = 12", "\n", "m = 1"], ["n = 12", "\n"]),
        (["n = 1", "2\n", "m = 1"], ["n = 1", "2\n"]),
        (["n = 12", "\n\n", "m = 1"], ["n = 12", "\n\n"]),
        (["n = 12", "\nm", " = 1"], None),
        (["n = 12"], None),
    ],
)
def test_tokens_are_cut_where_the_line_ends_or_nowhere(pieces: list[str], expected: list[str] | None) -> None:
    """A token that says something of the next line, too, cannot be the last one."""
    found = tokens_until("".join(pieces), 6, range(len(pieces)), lambda some: "".join(pieces[one] for one in some))
    assert found == (None if expected is None else list(range(len(expected))))


def test_two_spellings_of_a_program_are_one_solution_and_other_texts_differ() -> None:
    assert solution_key("n = 3*4\nprint(n)") == solution_key("It is\n```\nm = 3 * 4\nprint(m)\n```\n12")
    assert solution_key("n = 3*4\nprint(n)") != solution_key("n = 3*4\nprint(12)")
    assert solution_key(" It is 12\n") == "It is 12" and solution_key("") == ""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokens are lines of programs, with random weights."""
    directory = tmp_path_factory.mktemp("lines")
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_tokens([AddedToken(line, normalized=False) for line in LINES])
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>", unk_token="<unk>"
    ).save_pretrained(directory)
    torch.manual_seed(0)
    LlamaForCausalLM(llama(len(WORDS))).save_pretrained(directory)
    return directory


Open = Callable[..., RLVRTask]


@pytest.fixture
def open_task(tmp_path: Path, model: Path) -> Iterator[Open]:
    opened: list[RLVRTask] = []

    def open_one(objective: dict[str, Any]) -> RLVRTask:
        patch = {
            "objective": objective,
            "rollout.groupSize": 64,
            "rewards": [{"name": "right", "verifier": {"regex": {"pattern": RIGHT, "mode": "fullMatch"}}}],
        }
        stop = StopRequest()
        config = write_job(tmp_path, model, patch, {"steps": 8, "batchSize": 384, "maxCompletionTokens": 3})
        opened.append(build(config, Ranks(stop, torch.device("cpu")), stop))
        return opened[-1]

    yield open_one
    for task in opened:
        task.close()


def marginal(**more: Any) -> dict[str, Any]:
    return {"marginalLikelihood": {"keepSolutions": 4, "partialSolutions": "arithmeticPrograms", **more}}


def imitated(task: RLVRTask, batch: Batch) -> dict[int, list[str]]:
    """What is learnt from, by row; the end token is shown."""
    found: dict[int, list[str]] = {}
    for micro_batch in batch.micro_batches:
        for one in micro_batch.experiences:
            if float(one.prepared["weight"]) > 0:
                text = task.tokenizer.decode([token for token in one.tokens if token != UNKNOWN])
                found.setdefault(one.row, []).append(text)
    return found


A, B, _, _, X, Y = LINES
WHOLE = (A + B, X + Y)
STATES = ({12}, {12, 7})
"""What both solutions, which are one, compute."""


def test_a_job_learns_from_right_programs_and_from_beginnings_of_wrong_ones(open_task: Open) -> None:
    task = open_task(marginal())
    known: set[int] = set()
    seen_partial = 0
    for step in range(4):
        batch = task.prepare(step)
        found = imitated(task, batch)
        assert known <= found.keys(), "a prompt that was solved once is imitated from then on"
        for row, solutions in found.items():
            whole = [text for text in solutions if text.removesuffix("<eos>") in WHOLE]
            partial = [text for text in solutions if text not in whole]
            assert len(whole) == 1, "two spellings are one solution"
            for text in partial:
                assert text.endswith("\n"), "no end token"
                assert states(text)[-1] in STATES
                assert len(text.splitlines()) > 1 or not text.endswith("3 * 4\n"), "the solution itself begins so"
            seen_partial += len(partial)
            known.add(row)
        state = task._collector.state_dict()["solutions"]
        assert batch.metrics["kept_solutions/whole"].value == len(known)
        assert batch.metrics["kept_solutions/partial"].value == sum(map(len, state["partial"].values()))
        loss = sum(task.loss(micro_batch)[0] for micro_batch in batch.micro_batches)
        assert isinstance(loss, torch.Tensor) and loss.isfinite()
    assert known and seen_partial


def test_without_it_solutions_are_texts_and_whole(open_task: Open) -> None:
    task = open_task({"marginalLikelihood": {"keepSolutions": 4}})
    texts = 0
    for step in range(4):
        batch = task.prepare(step)
        for solutions in imitated(task, batch).values():
            assert all(text.removesuffix("<eos>") in WHOLE for text in solutions)
            texts = max(texts, len(solutions))
        assert "kept_solutions/partial" not in batch.metrics
    assert texts == 2, "two spellings are two solutions"


def test_partial_solutions_are_part_of_a_checkpoint(open_task: Open) -> None:
    first, second = open_task(marginal()), open_task(marginal())
    for step in range(3):
        first.prepare(step)
    state = json.loads(json.dumps(first.state_dict()))
    assert any(state["collector"]["solutions"]["partial"].values())
    second.load_state_dict(state)
    assert imitated(second, second.prepare(3)) == imitated(first, first.prepare(3))
    assert second.state_dict() == first.state_dict()
