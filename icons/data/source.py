"""Where a record comes from, as far as it says so itself."""

from __future__ import annotations

from typing import Any

TEXT_ONLY, NO_FOLDER = "(text only)", "(no folder)"


def record_images(record: dict[str, Any]) -> list[Any]:
    """What stands under `image` or `images`, as a list; unchecked."""
    shown = record.get("image") if record.get("image") is not None else record.get("images")
    return shown if isinstance(shown, list) else [] if shown is None else [shown]


def record_source(record: dict[str, Any]) -> str:
    """The record's `source`, else the first folder of its image path."""
    source = record.get("source")
    if isinstance(source, str) and source:
        return source
    images = record_images(record)
    image = images[0] if images else None
    folders = image.strip("/").split("/")[:-1] if isinstance(image, str) else []
    return TEXT_ONLY if not image else folders[0] if folders else NO_FOLDER
