"""The checkpoints of a training: which folders are, which of them are whole, which icons may remove.

A folder called checkpoint-<step> that icons began has UNFINISHED in it until it is marked whole. Any other folder, such
as a user's checkpoint-best or a copy of a checkpoint, is left alone.
"""

from __future__ import annotations

import re
from pathlib import Path

from icons.store.whole import MARKER, is_marked, mark_whole

UNFINISHED = ".icons-unfinished"


def checkpoint_step(folder: Path) -> int | None:
    """The step in the folder's name, None for another name."""
    match = re.fullmatch(r"checkpoint-([1-9]\d{0,17})", folder.name)
    return int(match[1]) if match and folder.is_dir() else None


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints in order of their step; those without their marker were cut off and do not count."""
    steps = {path: checkpoint_step(path) for path in folder.glob("checkpoint-*") if is_marked(path)}
    return sorted((path for path, step in steps.items() if step is not None), key=lambda path: steps[path] or 0)


def our_checkpoints(folder: Path) -> list[Path]:
    """Every checkpoint that icons wrote or began to write."""
    marked = (path for path in folder.glob("checkpoint-*") if is_marked(path) or (path / UNFINISHED).is_file())
    return [path for path in marked if checkpoint_step(path) is not None]


def begin_checkpoint(folder: Path) -> None:
    """Marks a folder, made where it is missing, as one that icons is writing."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).unlink(missing_ok=True)
    (folder / UNFINISHED).touch()


def finish_checkpoint(folder: Path) -> None:
    """Marks the folder whole; everything in it has to be on the disk."""
    (folder / UNFINISHED).unlink(missing_ok=True)
    mark_whole(folder)
