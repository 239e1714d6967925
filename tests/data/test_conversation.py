"""LLaVA records: what is accepted, what is refused and in which words."""

from __future__ import annotations

from typing import Any

import pytest

from icons.data.conversation import parse_record
from icons.errors import BadRecordError

HUMAN = {"from": "human", "value": "What is it?"}
GPT = {"from": "gpt", "value": "A cat."}
SHOWN = {"from": "human", "value": "What is it?\n<image>"}


@pytest.mark.parametrize(
    ("given", "tags", "paths"),
    [
        ({"image": "a.png"}, 1, ("a.png",)),
        ({"image": ["a.png", "b.png"]}, 2, ("a.png", "b.png")),
        ({"images": ["a.png", "a.png"]}, 2, ("a.png", "a.png")),
        ({"image": []}, 0, ()),
        ({"image": None}, 0, ()),
    ],
)
def test_a_record_shows_as_many_images_as_it_names(given: dict[str, Any], tags: int, paths: tuple[str, ...]) -> None:
    shown = {"from": "human", "value": "<image>" * tags + "What is it?"}
    assert parse_record({**given, "conversations": [shown, GPT]}).images == paths


def test_a_leading_gpt_turn_is_dropped() -> None:
    assert [turn.speaker for turn in parse_record({"conversations": [GPT, HUMAN, GPT]}).turns] == ["human", "gpt"]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({}, "no conversations"),
        ({"conversations": []}, "no conversations"),
        ({"conversations": [HUMAN]}, "no gpt turn"),
        ({"conversations": [GPT]}, "no conversations left"),
        ({"conversations": [HUMAN, {"from": "user", "value": "x"}]}, "unknown speaker 'user' in turn 1"),
        ({"conversations": [HUMAN, {"from": "gpt"}]}, "turn 1 has no text"),
        ({"conversations": [HUMAN, HUMAN, GPT]}, "two human turns in a row"),
        ({"conversations": [SHOWN, GPT]}, "1 <image> in the text but no image"),
        ({"image": "a.png", "conversations": [HUMAN, GPT]}, "no <image> in the text"),
        ({"image": "a.png", "conversations": [SHOWN, GPT, SHOWN, GPT]}, "2 <image> in the text"),
        ({"image": "a.png", "conversations": [HUMAN, {"from": "gpt", "value": "<image>"}]}, "in a gpt turn"),
        ({"image": ["a.png", "b.png"], "conversations": [SHOWN, GPT]}, "1 <image> in the text for 2 images"),
        ({"image": ["a.png", 3], "conversations": [SHOWN, GPT]}, "expected a path"),
    ],
)
def test_a_record_that_cannot_be_used_is_refused(record: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRecordError, match=words):
        parse_record(record)
