"""What is applied reaches the API server as it is, whatever a log or a library says: the server reads it as YAML."""

from __future__ import annotations

import pytest
import yaml

from plumbline_operator.api import yaml_text

TEXTS = {
    "gloo's greeting": "GLHF! \U0001f3d6\ufe0f",
    "quotes, backslashes, line breaks": 'a "b" \\ud83c\\n c\n\td\r\n',
    "an escape sequence of a terminal": "\x1b[31mred\x1b[0m \x00\x07\x7f\x85\x9b",
    "line breaks of YAML": "one\x85two\u2028three\u2029four",
    "a byte order mark, and no characters": "\ufeff\ufffe\uffff",
    "other scripts": "\u65e5\u672c\u8a9e \u0645\u0631\u062d\u0628\u0627",
}


@pytest.mark.parametrize("name", TEXTS)
def test_every_text_is_read_back_as_it_was(name: str) -> None:
    manifest = {"status": {"lastFailure": {"logTail": TEXTS[name]}, name: [1, True, None, 2.5]}}
    assert yaml.safe_load(yaml_text(manifest)) == manifest


def test_half_of_a_character_is_replaced() -> None:
    assert yaml.safe_load(yaml_text({"text": "a\ud83cb"})) == {"text": "a\ufffdb"}
