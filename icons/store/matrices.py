"""The cosines of a training shard's rows with a task's validation rows, as `influence.save_matrix` keeps them.

A safetensors file with `influence` [rows, M] float16; its metadata says which rows, of which scores, and has the
SHA-256 of the numbers, which every reader of them compares.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from icons.errors import UserError
from icons.store.files import Array, read_tensors, write_tensors


@dataclass(frozen=True)
class MatrixFacts:
    first_row: int
    rows: int
    columns: int
    fingerprint: str
    sha256: str


def write_matrix(path: Path, matrix: Array, first_row: int, fingerprint: str) -> None:
    """`fingerprint` is that of the scores."""
    facts = {"first_row": str(first_row), "fingerprint": fingerprint, "sha256": _sha256(matrix)}
    write_tensors(path, {"influence": matrix}, facts)


def matrix_facts(path: Path) -> MatrixFacts | None:
    """What the file's header says; None without a readable one."""
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            rows, columns = file.get_slice("influence").get_shape()
        return MatrixFacts(int(metadata["first_row"]), rows, columns, metadata["fingerprint"], metadata["sha256"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def is_matrix(path: Path) -> bool:
    return matrix_facts(path) is not None


def read_matrix(path: Path) -> Array:
    """[rows, M] float16; a UserError when the numbers are not those that were written."""
    facts, again = matrix_facts(path), f"delete {path} and run `icons specialist` again"
    if facts is None:
        raise UserError(f"{path} is damaged (it has no readable header); {again}")
    matrix = read_tensors(path, ["influence"])["influence"]
    if _sha256(matrix) != facts.sha256:
        raise UserError(f"{path} is damaged (its SHA-256 does not fit); {again}")
    return matrix


def _sha256(matrix: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(matrix).data).hexdigest()
