"""A record's conversation, checked: alternating human and gpt turns, an `<image>` in the text for each image.

Source: LLaVA's data format (`conversations: [{from, value}]`, `image`: a path or a list of them; `images`, as
LLaMA-Factory and ms-swift write the list, is read too); a leading turn that is not the human's is dropped, as LLaVA's
own training code does.
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
    """Turns in order, human first, speakers alternating.

    `images` are the record's paths, relative to the image folder; the n-th IMAGE_TAG in the turns stands for the n-th.
    """

    turns: tuple[Turn, ...]
    images: tuple[str, ...]


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
    images = _image_paths(record)
    _require_tags(turns, len(images))
    return Conversation(tuple(turns), images)


def _parse_turn(index: int, turn: Any) -> Turn:
    if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
        raise BadRecordError(f"turn {index} has no text; expected {{'from': ..., 'value': ...}}")
    if turn.get("from") not in ("human", "gpt"):
        raise BadRecordError(f"unknown speaker {turn.get('from')!r} in turn {index}; expected 'human' or 'gpt'")
    _require_text(turn["value"], f"the text of turn {index}")
    return Turn(turn["from"], turn["value"])


def _image_paths(record: dict[str, Any]) -> tuple[str, ...]:
    images = record.get("image") if record.get("image") is not None else record.get("images")
    if images is None:
        return ()
    paths = images if isinstance(images, list) else [images]
    for path in paths:
        if not isinstance(path, str) or not path:
            raise BadRecordError(
                f"image is {images!r}; expected a path relative to the image folder, or a list of them"
            )
        _require_text(path, "the image path")
    return tuple(paths)


def _require_text(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRecordError(f"{what} holds half a character (a lone surrogate at position {error.start})") from None


def _require_tags(turns: list[Turn], images: int) -> None:
    tags = sum(turn.text.count(IMAGE_TAG) for turn in turns)
    if tags and not images:
        raise BadRecordError(f"{tags} {IMAGE_TAG} in the text but no image in the record")
    if tags != images:
        rule = "one image; expected exactly one" if images == 1 else f"{images} images; expected as many"
        raise BadRecordError(f"{tags or 'no'} {IMAGE_TAG} in the text for {rule}")
    if any(IMAGE_TAG in turn.text for turn in turns if turn.speaker == "gpt"):
        raise BadRecordError(f"{IMAGE_TAG} stands in a gpt turn; expected it in a human turn")
