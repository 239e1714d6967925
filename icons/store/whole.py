"""A folder that others wrote and that is whole: a last file with the SHA-256 of every other one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from icons.errors import UserError
from icons.store.files import read_sealed, write_sealed
from icons.store.fingerprint import file_digest

MARKER = "complete"


def mark_whole(folder: Path) -> None:
    """Written last into a folder; one without it was cut off and does not count."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MARKER)
    write_sealed(folder / MARKER, {"files": {path.name: file_digest(path) for path in files}})


def is_marked(folder: Path) -> bool:
    return (folder / MARKER).is_file()


def damaged(folder: Path, names: Iterable[str] | None = None) -> list[Path]:
    """Files (all, or those named) that are not as they were when the folder was marked, the marker itself included."""
    try:
        files = read_sealed(folder / MARKER, "")["files"]
    except (UserError, KeyError):
        return [folder / MARKER]
    return [
        folder / name
        for name in (files if names is None else names)
        if name not in files or not (folder / name).is_file() or file_digest(folder / name) != files[name]
    ]
