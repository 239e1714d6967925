"""What a page calls a run or a model: the last folder of its path, and those above it while that says nothing."""

from __future__ import annotations

import re
from pathlib import Path

_SAYS_NOTHING = re.compile(
    r"(runs?|out(put)?s?|results?|models?|base|final|merged|tmp|checkpoint(-\d+)?|snapshots|[0-9a-f]{40})",
    re.IGNORECASE,
)
_IN_CACHE = "models--"
"""How the Hub's cache begins the folder of a model: models--OWNER--NAME/snapshots/COMMIT."""


def telling_name(path: str) -> str:
    """`path` is absolute, or an id of the Hub, which is a name already."""
    parts = [part for part in Path(path).parts if part != "/"]
    if not Path(path).is_absolute() or not parts:
        return path
    for part in reversed(parts):
        if part.startswith(_IN_CACHE):
            return part.removeprefix(_IN_CACHE).replace("--", "/")
    first = len(parts) - 1
    while first > 0 and _SAYS_NOTHING.fullmatch(parts[first]):
        first -= 1
    return "/".join(parts[first:])
