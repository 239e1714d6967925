"""One selection method a file; `selection.method` is the file's name, with dashes."""

from __future__ import annotations

from pathlib import Path


def built_in() -> list[str]:
    """Their names; none of the files is imported."""
    return sorted(path.stem.replace("_", "-") for path in Path(__file__).parent.glob("[a-z]*.py"))
