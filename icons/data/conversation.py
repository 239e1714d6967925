"""A record's conversation, checked: alternating human and gpt turns, at most one image.

Source: LLaVA's data format (`conversations: [{from, value}]`, `image`); a leading turn that is not the human's is
dropped and `<image>` moves to the front of its turn, as LLaVA's own training code does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from icons.errors import BadRecordError

IMAGE_TAG = "<image>"


@dataclass(frozen=True)
class Turn:
    speaker: str  # "human" or "gpt"
    text: str


@dataclass(frozen=True)
class Conversation:
    """Turns in order, human first, speakers alternating; `image` is the path in the record, relative to the folder."""

    turns: tuple[Turn, ...]
    image: str | None


def parse_record(record: dict[str, Any]) -> Conversation:
    """Raises BadRecordError (without the record's place; the caller knows it) for anything LLaVA's format forbids."""
    raw = record.get("conversations")
    if not isinstance(raw, list) or not raw:
        raise BadRecordError("no conversations; expected a list of {from, value} turns")
    turns = [_parse_turn(index, turn) for index, turn in enumerate(raw)]
    if turns[0].speaker != "human":
        turns = turns[1:]
    if not turns:
        raise BadRecordError("no conversations left after the leading gpt turn; expected a human turn and its answer")
    for index, turn in enumerate(turns):
        if turn.speaker != ("human", "gpt")[index % 2]:
            raise BadRecordError(f"two {turn.speaker} turns in a row; human and gpt must alternate")
    if len(turns) < 2:
        raise BadRecordError("no gpt turn; there is no answer to learn from")
    image = _image_path(record)
    return Conversation(_place_image(turns, image), image)


def _parse_turn(index: int, turn: Any) -> Turn:
    if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
        raise BadRecordError(f"turn {index} has no text; expected {{'from': ..., 'value': ...}}")
    if turn.get("from") not in ("human", "gpt"):
        raise BadRecordError(f"unknown speaker {turn.get('from')!r} in turn {index}; expected 'human' or 'gpt'")
    _require_text(turn["value"], f"the text of turn {index}")
    return Turn(turn["from"], turn["value"])


def _image_path(record: dict[str, Any]) -> str | None:
    image = record.get("image")
    if isinstance(image, list) and len(image) == 1:
        image = image[0]
    if image is None:
        return None
    if not isinstance(image, str) or not image:
        raise BadRecordError(f"image is {image!r}; expected one path relative to the image folder")
    _require_text(image, "the image path")
    return image


def _require_text(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRecordError(f"{what} holds half a character (a lone surrogate at position {error.start})") from None


def _place_image(turns: list[Turn], image: str | None) -> tuple[Turn, ...]:
    tags = sum(turn.text.count(IMAGE_TAG) for turn in turns)
    if image is None:
        if tags:
            raise BadRecordError(f"{tags} {IMAGE_TAG} in the text but no image in the record")
        return tuple(turns)
    if tags != 1:
        raise BadRecordError(f"{tags or 'no'} {IMAGE_TAG} in the text for one image; expected exactly one")
    if any(IMAGE_TAG in turn.text for turn in turns if turn.speaker == "gpt"):
        raise BadRecordError(f"{IMAGE_TAG} stands in a gpt turn; expected it in a human turn")
    return tuple(
        Turn(turn.speaker, f"{IMAGE_TAG}\n{turn.text.replace(IMAGE_TAG, '').strip()}".strip())
        if IMAGE_TAG in turn.text
        else turn
        for turn in turns
    )
