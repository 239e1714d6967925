"""Images small enough for a page that carries them itself, and large enough to be looked at.

One picture serves both: the page shows it small, and large when it is opened.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass

from icons.data.images import ImageSource, load_image
from icons.errors import BadRecordError
from icons.plain import plain
from icons.report.traits import NAME

LONGEST = 512
"""Pixels of a picture's longer side at most."""
_STEPS = ((LONGEST, 75), (LONGEST, 55), (384, 50), (256, 45), (160, 40), (96, 40))  # side and quality, tried in turn
_SMALL = 160  # below it every pixel is seen when the picture is opened, and costs little
_ALL_BYTES, _MOST_BYTES, _LEAST_BYTES = 4_000_000, 40_000, 10_000


def bytes_each(pictures: int) -> int:
    """What each of so many pictures of a page may take, for 4 MB in all where there are up to 400."""
    return max(_LEAST_BYTES, min(_MOST_BYTES, _ALL_BYTES // max(1, pictures)))


@dataclass(frozen=True)
class Thumbnail:
    """`source` is a data URI, empty with an `error`; `name` as the record has it, width and height as the image has."""

    name: str
    source: str = ""
    width: int = 0
    height: int = 0
    error: str = ""


def thumbnail(find: Callable[[str], ImageSource], name: object, most: int) -> Thumbnail:
    """Of an image of a record, which `find` says the place of, in at most `most` bytes.

    One that is missing or cannot be decoded says so.
    """
    if not isinstance(name, str) or not name:
        return Thumbnail(plain(str(name), NAME), error="not a path")
    shown = plain(name, NAME)
    try:
        return _encoded(find(name), shown, most)
    except (BadRecordError, OSError, ValueError) as error:
        return Thumbnail(shown, error=plain(str(error), 4 * NAME))


def _encoded(path: ImageSource, name: str, most: int) -> Thumbnail:
    from PIL import features

    image = load_image(path)
    size = image.size
    image.thumbnail((LONGEST, LONGEST))
    kind = "webp" if features.check("webp") else "jpeg"
    content = b""
    small_first = ((LONGEST, 95),) if max(size) <= _SMALL else ()
    for side, quality in (*small_first, *_STEPS):
        small = image.copy()
        small.thumbnail((side, side))
        file = io.BytesIO()
        small.save(file, kind, quality=quality)
        content = file.getvalue()
        if len(content) <= most:
            break
    return Thumbnail(name, f"data:image/{kind};base64,{base64.b64encode(content).decode()}", *size)
