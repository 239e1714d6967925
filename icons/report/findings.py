"""A finding: whether to trust something, in one sentence."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Whether to trust it, in one sentence; `sound` False asks for a second look, None is neither."""

    label: str
    text: str
    sound: bool | None = None
