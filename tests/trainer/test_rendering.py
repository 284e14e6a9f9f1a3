"""Rendering: the model sees its own chat format, once, and completions end where the assistant stops."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors

from plumbline_trainer.data.batches import TokenSequence
from plumbline_trainer.data.rendering import Limits, Renderer, fit
from plumbline_trainer.data.rows import CompletionRow
from plumbline_trainer.failures import DataError, ModelError

TURN_END_TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content | trim }}<user>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def tokenizer(chat_tokenizer: Any) -> Any:
    return copy.deepcopy(chat_tokenizer)


def text_of(tokenizer: Any, ids: list[int]) -> str:
    return "".join(tokenizer.convert_ids_to_tokens(ids))


def test_text_is_wrapped_as_one_user_message_and_ends_where_the_assistant_speaks(tokenizer: Any) -> None:
    renderer = Renderer(tokenizer)
    (ids,) = renderer.prompt_ids(["1+1="])
    assert text_of(tokenizer, ids) == "<bos><user>1+1=\n<assistant>"
    assert ids.count(tokenizer.bos_token_id) == 1
    assert renderer.prompt_ids([[{"role": "user", "content": "1+1="}]]) == [ids]


def test_a_completion_ends_with_the_end_of_the_turn_and_not_with_what_follows_it(tokenizer: Any) -> None:
    (ids,) = Renderer(tokenizer).completion_ids(["1+1="], ["2"])
    assert text_of(tokenizer, ids) == "2<eos>"


def test_another_special_token_can_end_the_turn(tokenizer: Any) -> None:
    tokenizer.chat_template = TURN_END_TEMPLATE
    renderer = Renderer(tokenizer)
    (ids,) = renderer.completion_ids(["hi"], [" a b "])
    assert text_of(tokenizer, ids) == "a b<user>", "the template's trimming holds for completions too"


def test_prompt_and_completion_together_are_the_whole_conversation(tokenizer: Any) -> None:
    renderer = Renderer(tokenizer)
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    whole = tokenizer.apply_chat_template(messages, tokenize=False).rstrip("\n")
    (prompt,), (completion,) = renderer.prompt_ids(["hi"]), renderer.completion_ids(["hi"], ["yo"])
    assert text_of(tokenizer, prompt + completion) == whole


def test_a_template_that_rewrites_the_conversation_leaves_the_plain_completion(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ messages | length }}{% if add_generation_prompt %}<assistant>{% endif %}"
    (ids,) = Renderer(tokenizer).completion_ids(["hi"], ["yo"])
    assert text_of(tokenizer, ids) == "yo<eos>"


def test_without_a_template_prompts_are_raw_text_with_one_bos_and_no_eos(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    renderer = Renderer(tokenizer)
    assert [text_of(tokenizer, ids) for ids in renderer.prompt_ids(["1+1=", "a"])] == ["<bos>1+1=", "<bos>a"]
    assert [text_of(tokenizer, ids) for ids in renderer.completion_ids(["1+1="], ["2\n"])] == ["2\n<eos>"]


def test_chat_messages_without_a_template_are_refused_with_the_row(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    with pytest.raises(DataError, match=r"^train\.jsonl:3: prompt is a list of chat messages.*model\.chatTemplate"):
        Renderer(tokenizer).prompt_ids([[{"role": "user", "content": "hi"}]], ["train.jsonl:3"])


def test_a_template_that_refuses_a_conversation_is_reported_with_the_row(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DataError, match=r"^train\.jsonl:3: the chat template refuses .*roles must alternate"):
        Renderer(tokenizer).prompt_ids(["hi"], ["train.jsonl:3"])


def test_a_malformed_template_is_the_model_s_fault(tokenizer: Any) -> None:
    tokenizer.chat_template = "{% for %}"
    with pytest.raises(ModelError, match="the chat template is malformed"):
        Renderer(tokenizer).prompt_ids(["hi"])


def rows_of(*lengths: tuple[int, int]) -> tuple[list[CompletionRow], list[list[TokenSequence]]]:
    rows = [CompletionRow(f"train.jsonl:{number}", "p", "c") for number in range(1, len(lengths) + 1)]
    return rows, [[TokenSequence(list(range(p)), list(range(c)))] for p, c in lengths]


def test_overlong_rows_are_refused_with_both_numbers() -> None:
    with pytest.raises(DataError) as caught:
        fit(*rows_of((4, 3), (5, 1), (1, 4)), Limits(4, 3))
    assert str(caught.value).splitlines() == [
        "train.jsonl:2: prompt has 5 tokens, training.maxPromptTokens is 4",
        "train.jsonl:3: completion has 4 tokens, training.maxCompletionTokens is 3",
    ]


def test_overlong_rows_are_dropped_and_counted() -> None:
    fitted = fit(*rows_of((4, 3), (5, 1), (1, 4)), Limits(4, 3, "drop"))
    assert [row.place for row in fitted.rows] == ["train.jsonl:1"]
    assert (fitted.dropped, fitted.truncated) == (2, 0)
    with pytest.raises(DataError, match=r"no row is left: all 1 are too long.*prompt has 5 tokens"):
        fit(*rows_of((5, 1)), Limits(4, 3, "drop"))


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.integers(1, 12))
def test_truncation_keeps_the_prompt_s_end_and_the_completion_s_beginning(p: int, c: int, mp: int, mc: int) -> None:
    fitted = fit(*rows_of((p, c)), Limits(mp, mc, "truncate"))
    (sequence,) = fitted.sequences[0]
    assert list(sequence.prompt_ids) == list(range(p))[max(0, p - mp) :]
    assert list(sequence.completion_ids) == list(range(c))[:mc]
    assert fitted.truncated == int(p > mp or c > mc)
