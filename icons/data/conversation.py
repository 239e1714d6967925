"""A record's conversation, checked: alternating human and gpt turns, and the images that they speak of.

Source: LLaVA's data format (`conversations: [{from, value}]`, `image`: a path or a list of them; `images`, as
LLaMA-Factory and ms-swift write the list, is read too); a leading gpt turn is dropped, as LLaVA's own training code
does. What would change a row and is not read, such as a video, makes the record a bad one: nothing is ignored silently.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from icons.errors import BadRecordError
from icons.plain import quoted

IMAGE_TAG = "<image>"
MOST_CHARACTERS = 1_000_000
"""Of a conversation; some hundred times what LLaVA-1.5 reads of one."""

_LOSS_KEYS = ("loss", "train", "weight", "loss_mask")
"""How data formats mark a turn that is to be predicted (1, true) or not (0, false)."""
_OTHER_MEDIA = re.compile(r"video|audio|speech|sound|frames")
_IMAGE_WORDS = re.compile(r"image|img|picture|photo|^(media_?)?(file|path)(_?name|_?path|s)?$")
_MEDIA_FILE = re.compile(r"(?i)\.(jpe?g|png|gif|bmp|webp|tiff?|mp4|avi|mkv|mov|webm|wav|mp3|flac|m4a|ogg)$")


@dataclass(frozen=True)
class Turn:
    """`predicted` is whether a gpt turn is learnt from."""

    speaker: str  # "human" or "gpt"
    text: str
    predicted: bool = True


@dataclass(frozen=True)
class Conversation:
    """Turns in order, human first, speakers alternating.

    `images` are the record's paths, relative to the image folder. How many IMAGE_TAGs the turns have to hold for them
    is the template's business.
    `system` is the record's own system text, None without one.
    """

    turns: tuple[Turn, ...]
    images: tuple[str, ...]
    system: str | None = None


def parse_record(record: dict[str, Any]) -> Conversation:
    """Raises BadRecordError (without the record's place; the caller knows it) for anything LLaVA's format forbids."""
    raw = record.get("conversations")
    if not isinstance(raw, list) or not raw:
        raise BadRecordError("no conversations; expected a list of {from, value} turns")
    _require_moderate(raw)
    system, raw = _system(record, raw)
    turns = [_parse_turn(index, turn) for index, turn in enumerate(raw)]
    if turns and turns[0].speaker != "human":
        turns = turns[1:]
    if not turns:
        raise BadRecordError("no conversations left after the leading gpt turn; expected a human turn and its answer")
    for index, turn in enumerate(turns):
        if turn.speaker != ("human", "gpt")[index % 2]:
            raise BadRecordError(f"two {turn.speaker} turns in a row; human and gpt must alternate")
    if len(turns) < 2:
        raise BadRecordError("no gpt turn; there is no answer to learn from")
    if not any(turn.predicted for turn in turns if turn.speaker == "gpt"):
        raise BadRecordError("no gpt turn is to be predicted; nothing is left to learn from")
    images = _image_paths(record)
    _refuse_other_media(record, turns, bool(images))
    return Conversation(tuple(turns), images, system)


def _require_moderate(raw: list[Any]) -> None:
    characters = sum(
        len(turn["value"]) for turn in raw if isinstance(turn, dict) and isinstance(turn.get("value"), str)
    )
    if characters > MOST_CHARACTERS:
        raise BadRecordError(f"a conversation of {characters:,} characters; the most is {MOST_CHARACTERS:,}")


def _system(record: dict[str, Any], raw: list[Any]) -> tuple[str | None, list[Any]]:
    """The record's system text, under `system` or as its first turn, and the turns behind it."""
    system = record.get("system") or None
    if isinstance(raw[0], dict) and raw[0].get("from") == "system":
        if system is not None:
            raise BadRecordError("a system text and a system turn; expected one of them")
        system, raw = raw[0].get("value") or None, raw[1:]
    if system is None:
        return None, raw
    if not isinstance(system, str):
        raise BadRecordError(f"system is {quoted(system)}; expected a text")
    _require_text(system, "the system text")
    return system, raw


def _parse_turn(index: int, turn: Any) -> Turn:
    if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
        raise BadRecordError(f"turn {index} has no text; expected {{'from': ..., 'value': ...}}")
    speaker = turn.get("from")
    if speaker not in ("human", "gpt"):
        raise BadRecordError(f"unknown speaker {quoted(speaker)} in turn {index}; expected 'human' or 'gpt'")
    _require_text(turn["value"], f"the text of turn {index}")
    return Turn(speaker, turn["value"], _is_predicted(index, speaker, turn))


def _is_predicted(index: int, speaker: str, turn: dict[str, Any]) -> bool:
    """By the turn's mark, where it has one; a human turn never is, and may not ask for it."""
    marks = {key: turn[key] for key in _LOSS_KEYS if turn.get(key) is not None}
    for key, value in marks.items():
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            raise BadRecordError(f"turn {index} has {key} {quoted(value)}; expected true or false")
        if value and speaker == "human":
            raise BadRecordError(f"turn {index}, a human one, asks with {key} to be predicted; gpt turns alone can be")
    if len({bool(value) for value in marks.values()}) > 1:
        raise BadRecordError(f"turn {index} is and is not to be predicted, by its {' and '.join(marks)}")
    return all(bool(value) for value in marks.values())


def _image_paths(record: dict[str, Any]) -> tuple[str, ...]:
    if record.get("image") is not None and record.get("images"):
        raise BadRecordError("both image and images; expected one of them")
    images = record.get("image") if record.get("image") is not None else record.get("images")
    if images is None:
        return ()
    paths = images if isinstance(images, list) else [images]
    for path in paths:
        if not isinstance(path, str) or not path:
            raise BadRecordError(
                f"image is {quoted(images)}; expected a path relative to the image folder, or a list of them"
            )
        _require_text(path, "the image path")
    return tuple(paths)


def _refuse_other_media(record: dict[str, Any], turns: list[Turn], has_images: bool) -> None:
    """A video, a sound or an image under a key that is not read would otherwise pass as text alone."""
    for key, value in record.items():
        name = key.lower()
        if key in ("image", "images") or not value or isinstance(value, bool | int | float):
            continue
        if _OTHER_MEDIA.search(name) and (isinstance(value, list | dict) or _MEDIA_FILE.search(str(value))):
            raise BadRecordError(f"{quoted(key)} is {quoted(value)}; images are read, other media are not supported")
        if not has_images and _IMAGE_WORDS.search(name) and _names_media(value):
            raise BadRecordError(f"an image under {quoted(key)}; expected it under image or images")
    for index, turn in enumerate(turns):
        for tag in ("<video>", "<audio>"):
            if tag in turn.text:
                raise BadRecordError(f"{tag} in turn {index}; images are read, other media are not supported")


def _names_media(value: Any) -> bool:
    if isinstance(value, list):
        return any(_names_media(each) for each in value)
    return isinstance(value, dict) or (isinstance(value, str) and _is_path(value))


def _is_path(value: str) -> bool:
    return len(value) < 1000 and "\n" not in value and bool(_MEDIA_FILE.search(value))


def _require_text(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRecordError(f"{what} holds half a character (a lone surrogate at position {error.start})") from None


def require_tags(conversation: Conversation) -> None:
    """Raises BadRecordError unless human turns hold one IMAGE_TAG for each image."""
    turns, images = conversation.turns, len(conversation.images)
    tags = sum(turn.text.count(IMAGE_TAG) for turn in turns)
    if tags and not images:
        raise BadRecordError(f"{tags} {IMAGE_TAG} in the text but no image in the record")
    if tags != images:
        rule = "one image; expected exactly one" if images == 1 else f"{images} images; expected as many"
        raise BadRecordError(f"{tags or 'no'} {IMAGE_TAG} in the text for {rule}")
    if any(IMAGE_TAG in turn.text for turn in turns if turn.speaker == "gpt"):
        raise BadRecordError(f"{IMAGE_TAG} stands in a gpt turn; expected it in a human turn")
