"""Files of row numbers: a selection as icons wrote it, its seal checked, or a list of numbers from anywhere else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from icons.errors import UserError
from icons.store.files import SEAL, seal
from icons.store.fingerprint import file_digest
from icons.store.layout import INDICES

MOST_ROWS = 2**63
RECORD_KEYS = {"id", "image", "images", "conversations", "messages", "texts", "instruction"}


@dataclass(frozen=True)
class IndexFile:
    """Ascending `rows`; of how many records and of which file (16 hex digits) where it says so; `files` -> SHA-256."""

    path: Path
    rows: list[int]
    num_train: int | None = None
    data: str | None = None
    tasks: list[str] = field(default_factory=list)
    files: Mapping[str, str] = field(default_factory=dict)

    def require_file(self, name: str) -> Path:
        """The file of that name beside this one; a UserError when it is not the one that was written with it."""
        path = self.path.parent / name
        if name in self.files and file_digest(path) != self.files[name]:
            raise UserError(f"{path} is not as it was written with {self.path.name}; run `icons generalist` again")
        return path


def read_indices(path: Path) -> IndexFile:
    """Raises UserError when the file is damaged, or holds anything but distinct row numbers."""
    if not path.is_file():
        raise UserError(f"{path} {'is not a regular file' if path.exists() else 'does not exist'}")
    try:
        content: Any = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise UserError(f"{path} line {error.lineno}: {_not_json(path, error)}") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read as a JSON file of row numbers ({reason})") from None
    whole: dict[str, Any] = content if isinstance(content, dict) else {"indices": content}
    _require_sealed(path, whole)
    rows = whole.get("indices")
    if _is_data(content):
        raise UserError(
            f"{path} holds records, not row numbers: it is a data file; name it in train.data and use --everything, "
            f"or give the {INDICES} beside it"
        )
    if not isinstance(rows, list) or not rows:
        raise UserError(f'{path}: expected a list of row numbers, or an object with one under "indices"')
    for row in rows:
        if type(row) is not int or not 0 <= row < MOST_ROWS:
            raise UserError(f"{path}: {row!r:.100} is no row number; expected whole numbers from 0")
    ordered = sorted(rows)
    for first, second in pairwise(ordered):
        if first == second:
            raise UserError(f"{path}: row {first} stands twice; a selection has each record once")
    num_train, data, tasks, files = (whole.get(key) for key in ("num_train", "data", "tasks", "files"))
    if num_train is not None and type(num_train) is not int:
        raise UserError(f"{path}: num_train is {num_train!r:.100}, expected a number of records")
    if num_train is not None and ordered[-1] >= num_train:
        raise UserError(f"{path}: row {ordered[-1]} is not one of {num_train} training records")
    return IndexFile(
        path,
        ordered,
        num_train,
        data if isinstance(data, str) else None,
        [str(task) for task in tasks] if isinstance(tasks, list) else [],
        files if isinstance(files, dict) else {},
    )


def _require_sealed(path: Path, content: dict[str, Any]) -> None:
    """What icons wrote has a seal, and it has to fit; a list of one's own needs none."""
    if not content.keys() & {SEAL, "fingerprint"}:
        return
    if content.get(SEAL) != seal({key: value for key, value in content.items() if key != SEAL}):
        raise UserError(
            f"{path} is damaged or was edited (its SHA-256 does not fit); run `icons generalist` again, or leave "
            'nothing but {"indices": [...]} in a file of your own'
        )


def _is_data(content: Any) -> bool:
    records = content if isinstance(content, list) else [content]
    return bool(records) and isinstance(records[0], dict) and bool(records[0].keys() & RECORD_KEYS)


def _not_json(path: Path, error: json.JSONDecodeError) -> str:
    with path.open("rb") as file:
        try:
            if _is_data(json.loads(file.readline())):
                return "JSON lines of records, a data file; expected a JSON list of row numbers"
        except (ValueError, RecursionError):
            pass
    return f"broken JSON ({error.msg})"
