"""LLaVA records: what is accepted, what is refused and in which words."""

from __future__ import annotations

from typing import Any

import pytest

from icons.data.conversation import parse_record, require_tags
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
        ({"image": ["a.png", 3], "conversations": [SHOWN, GPT]}, "expected a path"),
        ({"image": "a.png", "images": ["b.png"], "conversations": [SHOWN, GPT]}, "both image and images"),
        ({"video": "a.mp4", "conversations": [HUMAN, GPT]}, "'video' is 'a.mp4'"),
        ({"videos": ["x"], "conversations": [HUMAN, GPT]}, "other media are not supported"),
        ({"audio": {"path": "x", "array": [0]}, "conversations": [HUMAN, GPT]}, "other media are not supported"),
        ({"image_path": "a.png", "conversations": [HUMAN, GPT]}, "an image under 'image_path'"),
        ({"img": {"bytes": "x"}, "conversations": [HUMAN, GPT]}, "an image under 'img'"),
        ({"file_name": "a.JPG", "conversations": [HUMAN, GPT]}, "an image under 'file_name'"),
        ({"conversations": [{"from": "human", "value": "<video>\nWhat?"}, GPT]}, "<video> in turn 0"),
        ({"conversations": [HUMAN, {**GPT, "loss": False}]}, "no gpt turn is to be predicted"),
        ({"conversations": [HUMAN, {**GPT, "weight": 0.5}]}, "turn 1 has weight 0.5; expected true or false"),
        ({"conversations": [{**HUMAN, "train": True}, GPT]}, "turn 0, a human one, asks with train"),
        ({"conversations": [HUMAN, {**GPT, "loss": True, "train": 0}]}, "by its loss and train"),
        ({"system": 3, "conversations": [HUMAN, GPT]}, "system is 3"),
        ({"conversations": [HUMAN, {"from": "gpt", "value": "x" * 1_000_001}]}, "of 1,000,012 characters; the most"),
    ],
)
def test_a_record_that_cannot_be_used_is_refused(record: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRecordError, match=words):
        parse_record(record)


@pytest.mark.parametrize(
    "extra",
    [
        {"image_id": 5, "image_source": "coco", "model": "", "source": "x/y", "audio": None, "video": "", "videos": []},
        {"image": "a.png", "image_url": "http://host/a.png"},
    ],
)
def test_what_tells_about_an_image_is_none(extra: dict[str, Any]) -> None:
    parse_record({**extra, "conversations": [SHOWN if "image" in extra else HUMAN, GPT]})


def test_marks_on_turns_are_honoured() -> None:
    turns = [{**HUMAN, "loss": False}, {**GPT, "loss": 0}, HUMAN, {**GPT, "loss_mask": 1, "weight": 1.0}]
    assert [turn.predicted for turn in parse_record({"conversations": turns}).turns] == [False, False, True, True]


@pytest.mark.parametrize("record", [{"system": "Be brief."}, {}])
def test_a_system_text_is_kept(record: dict[str, Any]) -> None:
    first = [] if record else [{"from": "system", "value": "Be brief."}]
    assert parse_record({**record, "conversations": [*first, HUMAN, GPT]}).system == "Be brief."


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"conversations": [SHOWN, GPT]}, "1 <image> in the text but no image"),
        ({"image": "a.png", "conversations": [HUMAN, GPT]}, "no <image> in the text"),
        ({"image": "a.png", "conversations": [SHOWN, GPT, SHOWN, GPT]}, "2 <image> in the text"),
        ({"image": "a.png", "conversations": [HUMAN, {"from": "gpt", "value": "<image>"}]}, "in a gpt turn"),
        ({"image": ["a.png", "b.png"], "conversations": [SHOWN, GPT]}, "1 <image> in the text for 2 images"),
    ],
)
def test_one_tag_for_each_image(record: dict[str, Any], words: str) -> None:
    """What a chat template asks for."""
    with pytest.raises(BadRecordError, match=words):
        require_tags(parse_record(record))
