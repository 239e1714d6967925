"""A user's text where it is shown."""

from __future__ import annotations


def plain(text: str, most: int | None = None) -> str:
    """A user's text as it may stand in a UTF-8 page or an SVG: no half characters, no control characters.

    At most `most` characters of it, where that is given.
    """
    if most is not None and len(text) > most:
        text = f"{text[: most - 1]}…"
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if "\ud800" <= c <= "\udfff" or (c < " " and c not in "\n\t") or c == "\x7f" else c
        for c in text
    )
