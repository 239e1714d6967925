"""Images small enough for a page that carries them itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass

from icons.data.images import ImageSource, load_image
from icons.errors import BadRecordError
from icons.plain import plain
from icons.report.traits import NAME

_STEPS = ((192, 78), (192, 55), (144, 50), (96, 45), (64, 35))  # longest side and quality, tried until it is small
_MOST_BYTES = 12_000


@dataclass(frozen=True)
class Thumbnail:
    """`source` is a data URI, empty with an `error`; `name` as the record has it."""

    name: str
    source: str = ""
    width: int = 0
    height: int = 0
    error: str = ""


def thumbnail(find: Callable[[str], ImageSource], name: object) -> Thumbnail:
    """Of an image of a record, which `find` says the place of; one that is missing or cannot be decoded says so."""
    if not isinstance(name, str) or not name:
        return Thumbnail(plain(str(name), NAME), error="not a path")
    shown = plain(name, NAME)
    try:
        return _encoded(find(name), shown)
    except (BadRecordError, OSError, ValueError) as error:
        return Thumbnail(shown, error=plain(str(error), 4 * NAME))


def _encoded(path: ImageSource, name: str) -> Thumbnail:
    from PIL import features

    image = load_image(path)
    size = image.size
    kind = "webp" if features.check("webp") else "jpeg"
    content = b""
    for side, quality in _STEPS:
        small = image.copy()
        small.thumbnail((side, side))
        file = io.BytesIO()
        small.save(file, kind, quality=quality)
        content = file.getvalue()
        if len(content) <= _MOST_BYTES:
            break
    return Thumbnail(name, f"data:image/{kind};base64,{base64.b64encode(content).decode()}", *size)
