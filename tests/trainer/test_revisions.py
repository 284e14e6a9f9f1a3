"""Prompts that ask for a revision, and the sequences of a pair's four revisions."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from plumbline_api.methods.preference.self_improving import Srpo
from plumbline_trainer.data.rendering import Renderer
from plumbline_trainer.data.revisions import (
    REVISIONS,
    RevisionTemplate,
    revision_prompt,
    revision_prompts,
    revision_sequences,
)
from plumbline_trainer.data.rows import PairRow
from plumbline_trainer.failures import DataError

TEXT = RevisionTemplate("{prompt}|{answer}|improve", "improve", chat=False)
CHAT = RevisionTemplate("{prompt}|{answer}|improve", "improve", chat=True)
ROW = PairRow("train.jsonl:7", "what is 2+2?", "4", "it is five")


def test_without_a_chat_template_the_text_is_filled_in() -> None:
    assert revision_prompts(ROW, TEXT) == ("what is 2+2?|it is five|improve", "what is 2+2?|4|improve")


def test_braces_in_prompts_and_answers_are_left_alone() -> None:
    assert revision_prompt("say {answer}", "{prompt} {x}", TEXT) == "say {answer}|{prompt} {x}|improve"


def test_with_a_chat_template_the_answer_is_a_turn_of_the_assistant() -> None:
    expected = [
        {"role": "user", "content": "what is 2+2?"},
        {"role": "assistant", "content": "it is five"},
        {"role": "user", "content": "improve"},
    ]
    assert revision_prompts(ROW, CHAT)[0] == expected
    conversation = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "what is 2+2?"}]
    assert revision_prompt(conversation, "it is five", CHAT) == [conversation[0], *expected]


def test_sequences_follow_the_order_of_their_names(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    renderer = Renderer(chat_tokenizer)
    (sequences,) = revision_sequences([ROW], CHAT, renderer)
    texts = [
        (chat_tokenizer.decode(sequence.prompt_ids), chat_tokenizer.decode(sequence.completion_ids))
        for sequence in sequences
    ]
    shown = {"rejected": ROW.rejected, "chosen": ROW.chosen}
    for name, (prompt, completion) in zip(REVISIONS, texts, strict=True):
        written, answer = name.split("_given_")
        asked = f"<bos><user>what is 2+2?\n<assistant>{shown[answer]}<eos>\n<user>improve\n<assistant>"
        assert prompt.replace(" ", "") == asked.replace(" ", "")
        assert completion.replace(" ", "") == f"{shown[written]}<eos>".replace(" ", "")


def test_a_step_is_revised_within_the_answer_that_it_continues(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    step = PairRow("train.jsonl:2", "add", "so 4", "so 5", prefix="2+2 ", final=False)
    (sequences,) = revision_sequences([step], CHAT, Renderer(chat_tokenizer))
    prompt = chat_tokenizer.decode(sequences[0].prompt_ids).replace(" ", "")
    assert prompt == "<bos><user>add\n<assistant>2+2so5<eos>\n<user>improve\n<assistant>2+2"
    assert chat_tokenizer.decode(sequences[0].completion_ids).replace(" ", "") == "so4"


def test_a_row_whose_revision_cannot_be_rendered_is_named(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    conversation = PairRow("train.jsonl:3", [{"role": "user", "content": "hello"}], "yes", "no")
    plain = Renderer(chat_tokenizer)
    plain.has_template = False
    with pytest.raises(DataError, match=r"train\.jsonl:3: prompt is a list of chat messages"):
        revision_sequences([conversation], TEXT, plain)


def test_the_template_of_a_job_names_prompt_and_answer() -> None:
    assert Srpo().revision_template.startswith("{prompt}")
    with pytest.raises(ValueError, match="pattern"):
        Srpo(revision_template="Improve: {answer}")
