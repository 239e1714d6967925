"""A record as the page shows it: its turns cut to a readable length, the rest behind an expander."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from icons.plain import plain

_FIRST_TURNS, _FIRST_CHARACTERS = 2, 320
_MOST_CHARACTERS = 6_000  # of one conversation
_SPEAKER = 40


@dataclass(frozen=True)
class Line:
    """What one speaker says, `text` perhaps cut."""

    speaker: str
    text: str


@dataclass(frozen=True)
class Shortened:
    """`first` is always shown; `whole`, when it is not all, in the expander; `missing` characters are on no page."""

    first: Sequence[Line]
    whole: Sequence[Line] = field(default_factory=list)
    turns: int = 0
    characters: int = 0
    missing: int = 0


def shortened(conversations: Any) -> Shortened:
    """Of whatever a record has under `conversations`; what is no turn is shown as it is."""
    turns = conversations if isinstance(conversations, list) else [] if conversations is None else [conversations]
    lines = [_line(turn) for turn in turns]
    characters = sum(len(line.text) for line in lines)
    first = [Line(line.speaker, _cut(line.text, _FIRST_CHARACTERS)) for line in lines[:_FIRST_TURNS]]
    if first == lines:
        return Shortened(first, [], len(lines), characters)
    whole, room = [], _MOST_CHARACTERS
    for line in lines:
        if room <= 0:
            break
        whole.append(Line(line.speaker, _cut(line.text, room)))
        room -= len(line.text)
    return Shortened(first, whole, len(lines), characters, max(0, characters - _MOST_CHARACTERS))


def _line(turn: Any) -> Line:
    if isinstance(turn, dict) and isinstance(turn.get("value"), str):
        speaker = turn.get("from")
        return Line(plain(speaker, _SPEAKER) if isinstance(speaker, str) else "?", plain(turn["value"]))
    return Line("?", plain(str(turn)))


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"
