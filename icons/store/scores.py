"""The specialist's result: what is known about each training row, its scores for all tasks first."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from icons.errors import UserError
from icons.store.files import write_tensors
from icons.store.fingerprint import Fingerprint


@dataclass(frozen=True)
class Scores:
    """`scores` [N, K] float32, one column per task (a group is one).

    `merged` [N] float32 is the score with all validation rows as one task; `losses` and `norms` [N] float32 are those
    of the shards, at the last of the checkpoints. All of them are 0 where `valid` [N] is false.

    `fingerprint` (16 hex digits) stands for the training rows, the validation rows and all that made them; `data` is
    the digest of the training data file; `asked` is what the config asked for, field by field.
    """

    scores: npt.NDArray[np.float32]
    valid: npt.NDArray[np.bool_]
    merged: npt.NDArray[np.float32]
    losses: npt.NDArray[np.float32]
    norms: npt.NDArray[np.float32]
    columns: list[str]
    fingerprint: str
    data: str
    asked: Fingerprint

    def table(self) -> Any:
        """A pandas DataFrame with a row for each of N: valid, a column for each of K, merged, loss and norm.

        What is known of a row that is not valid is missing (NaN). Raises UserError where pandas is not installed.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError:
            raise UserError("scores.table() needs the package pandas; pip install pandas") from None
        numbers = {f"score_{name}": self.scores[:, k] for k, name in enumerate(self.columns)}
        numbers |= {"merged": self.merged, "loss": self.losses, "norm": self.norms}
        known = {name: np.where(self.valid, array, np.float32(np.nan)) for name, array in numbers.items()}
        return pd.DataFrame({"valid": self.valid, **known}, index=pd.RangeIndex(len(self.valid), name="row"))


TENSORS = ("scores", "valid", "merged", "losses", "norms")


def write_scores(path: Path, scores: Scores) -> None:
    metadata = {"columns": json.dumps(scores.columns), "fingerprint": scores.fingerprint, "data": scores.data}
    metadata |= {"asked": json.dumps(scores.asked, sort_keys=True), "sha256": _digest(scores)}
    write_tensors(path, {name: getattr(scores, name) for name in TENSORS}, metadata)


def _digest(scores: Scores) -> str:
    """Hex SHA-256 of everything in the table."""
    total = hashlib.sha256(_head(scores).encode())
    for name in TENSORS:
        total.update(np.ascontiguousarray(getattr(scores, name)).data)
    return total.hexdigest()


def _head(scores: Scores) -> str:
    return "\n".join([*scores.columns, scores.fingerprint, scores.data, json.dumps(scores.asked, sort_keys=True)])


def is_written(path: Path, fingerprint: str) -> bool:
    """Whether the scores of this fingerprint are there, whole."""
    if read_scores_header(path).get("fingerprint") != fingerprint:
        return False
    try:
        return read_scores(path).fingerprint == fingerprint
    except UserError:
        return False


def read_scores_header(path: Path) -> dict[str, str]:
    """Columns (JSON), fingerprint and data digest without the numbers; empty when there is no readable file."""
    try:
        with safe_open(path, framework="np") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError):
        return {}


def read_scores(path: Path) -> Scores:
    """Raises UserError when the file is missing or damaged."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; run `icons specialist` first")
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            if "asked" not in metadata:
                raise UserError(f"{path} was made by an earlier version; run `icons specialist` again")
            scores = Scores(
                **{name: file.get_tensor(name) for name in TENSORS},
                columns=json.loads(metadata["columns"]),
                fingerprint=metadata["fingerprint"],
                data=metadata["data"],
                asked=json.loads(metadata["asked"]),
            )
            if _digest(scores) != metadata["sha256"]:
                raise ValueError("its SHA-256 does not fit")
            return scores
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it and run `icons specialist` again") from None
