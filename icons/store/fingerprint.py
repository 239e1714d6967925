"""What gradients were made of, field by field, so that two things that do not belong together are never mixed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icons.data.index import known_sha256
from icons.data.open_file import OpenFile
from icons.errors import UserError
from icons.store.files import read_sealed

Fingerprint = dict[str, str | int | float | bool | None]

LATER: Fingerprint = {"layers": "all", "quantization": None}
"""Fields that came later: what a fingerprint without them means, so that what was made before them stays valid."""

_PIECE = 4096  # bytes


def digest(fingerprint: Mapping[str, object]) -> str:
    """16 hex digits for the whole fingerprint."""
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:16]


def require_same(actual: Mapping[str, object], expected: Mapping[str, object], what: str, advice: str) -> None:
    """Raises UserError naming the first field that differs, with both values, and what to do."""
    actual, expected = LATER | dict(actual), LATER | dict(expected)
    for field in sorted(actual.keys() | expected.keys()):
        if actual.get(field) != expected.get(field):
            raise UserError(f"{what}: {field} is {actual.get(field)!r}, expected {expected.get(field)!r}; {advice}")


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex; of a data file with an offset index as that has it, without reading it."""
    if sha256 := known_sha256(path):
        return sha256
    return OpenFile.at(path).sha256()


def as_written(marker: Path, fingerprint: str) -> dict[str, Any] | None:
    """The sealed file that marks others complete, when it has this fingerprint and they are as they were written.

    `files` in it has their SHA-256 by name. None when anything is missing, damaged or of another fingerprint.
    """
    try:
        content = read_sealed(marker, "")
        whole = all(file_digest(marker.parent / name) == sha256 for name, sha256 in content["files"].items())
        return content if whole and content["fingerprint"] == fingerprint else None
    except (UserError, OSError, AttributeError, KeyError):
        return None


def tensors_digest(path: Path) -> str:
    """A digest of a safetensors file: its header whole, and of every tensor the first and the last 4 KiB.

    Raises UserError when the file has no readable header.
    """
    total = hashlib.sha256()
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = file.read(min(size, path.stat().st_size))
        total.update(header)
        try:
            tensors = json.loads(header)
            spans = sorted(entry["data_offsets"] for name, entry in tensors.items() if name != "__metadata__")
            for start, stop in spans:
                for begin in sorted({start, max(start, stop - _PIECE)}):
                    file.seek(8 + size + begin)
                    total.update(file.read(max(0, min(_PIECE, stop - begin))))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, OSError, RecursionError):
            raise UserError(f"{path} cannot be loaded: not a safetensors file, or a damaged one") from None
    return total.hexdigest()


def model_digest(folder: Path) -> str:
    """A digest of a model folder: config, tokenizer and processor files whole, of each weight tensor its ends."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix == ".safetensors":
            total.update(f"{path.name} {tensors_digest(path)}".encode())
        elif path.suffix in {".json", ".jinja", ".model", ".txt"} and not path.name.startswith("generation_config"):
            total.update(f"{path.name} {file_digest(path)}".encode())
    return total.hexdigest()[:16]
