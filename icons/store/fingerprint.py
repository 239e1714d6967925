"""What gradients were made of, field by field, so that two things that do not belong together are never mixed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from icons.errors import UserError

Fingerprint = dict[str, str | int | float | bool | None]

_SAMPLES, _SAMPLE_BYTES = 64, 1 << 16


def digest(fingerprint: Mapping[str, object]) -> str:
    """16 hex digits for the whole fingerprint."""
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:16]


def require_same(found: Mapping[str, object], expected: Mapping[str, object], what: str, advice: str) -> None:
    """Raises UserError naming the first field that differs, with both values, and what to do."""
    for field in sorted(found.keys() | expected.keys()):
        if found.get(field) != expected.get(field):
            raise UserError(f"{what}: {field} is {found.get(field)!r}, expected {expected.get(field)!r}; {advice}")


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            total.update(block)
    return total.hexdigest()


def sampled_digest(path: Path) -> str:
    """A digest of a big file's size and 64 blocks of 64 KiB spread over it, the first and the last among them."""
    size = path.stat().st_size
    if size <= _SAMPLES * _SAMPLE_BYTES:
        return file_digest(path)
    total = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for index in range(_SAMPLES):
            file.seek(index * (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
            total.update(file.read(_SAMPLE_BYTES))
    return total.hexdigest()


def model_digest(folder: Path) -> str:
    """A digest of a model folder: config, tokenizer and processor files whole, weights sampled."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix == ".safetensors":
            total.update(f"{path.name} {sampled_digest(path)}".encode())
        elif path.suffix in {".json", ".model"} and not path.name.startswith("generation_config"):
            total.update(f"{path.name} {file_digest(path)}".encode())
    return total.hexdigest()[:16]
