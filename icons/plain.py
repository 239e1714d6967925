"""A user's text where it is shown: in a page, on a terminal, in a log."""

from __future__ import annotations

import json

MOST = 120
"""Characters of a name or a text in a message."""


def plain(text: str, most: int | None = None) -> str:
    """A user's text as it may stand in a UTF-8 page or an SVG: no half characters, no control characters.

    At most `most` characters of it, where that is given.
    """
    return "".join("\N{REPLACEMENT CHARACTER}" if _strikes(c) and c not in "\n\t" else c for c in clipped(text, most))


def in_line(text: object, most: int = MOST) -> str:
    """A user's text within a line of ours: shortened, its control characters and line breaks as escapes."""
    return "".join(_escaped(c) if _strikes(c) else c for c in clipped(str(text), most))


def quoted(value: object, most: int = MOST) -> str:
    """`repr` of a user's value within a line of ours, shortened."""
    if isinstance(value, str):
        value = clipped(value, most)
    return in_line(repr(value), most + 40)


def for_terminal(text: str) -> str:
    """Whole lines for a person: what a terminal would act on is written out, line breaks and tabs stay."""
    return "".join(_escaped(c) if _strikes(c) and c not in "\n\t" else c for c in text)


def json_for_terminal(value: object, indent: int | None = None) -> str:
    """JSON that no terminal acts on; within its strings what would strike is escaped as JSON has it."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return "".join(f"\\u{ord(c):04x}" if _strikes(c) and c != "\n" else c for c in text)


def clipped(text: str, most: int | None) -> str:
    return text if most is None or len(text) <= most else f"{text[: most - 1]}…"


_TURNS = {chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def _strikes(c: str) -> bool:
    """Control characters (a terminal's commands), line breaks, half characters, changes of the writing's direction."""
    return c < " " or "\x7f" <= c <= "\x9f" or "\ud800" <= c <= "\udfff" or c in "\u2028\u2029" or c in _TURNS


def _escaped(c: str) -> str:
    return c.encode("unicode_escape").decode("ascii")
