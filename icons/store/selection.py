"""A selection as the generalist left it: which rows, the votes that they have, and how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from icons.errors import UserError
from icons.selection.cut import Cut
from icons.store.files import read_sealed, read_tensors
from icons.store.fingerprint import file_digest
from icons.store.layout import INDICES, STABILITY, VOTES


@dataclass(frozen=True)
class StoredSelection:
    """`selected` [N] bool, `votes` [N] int16, `values` [N] float64 what the method ranked by.

    `head` is everything in selected_indices.json but the rows; `stability` what stability.json holds, None without one
    that belongs to this selection.
    """

    name: str
    selected: npt.NDArray[np.bool_]
    votes: npt.NDArray[np.int16]
    values: npt.NDArray[np.float64]
    cut: Cut
    head: Mapping[str, Any]
    stability: Mapping[str, Any] | None

    @property
    def method(self) -> str:
        return str(self.head["method"])

    @property
    def size(self) -> int:
        return int(np.count_nonzero(self.selected))

    @property
    def by_votes(self) -> bool:
        return self.method == "vote"


def selection_names(folder: Path) -> list[str]:
    """The finished selections under a run's selection/, by name."""
    return sorted(path.parent.name for path in folder.glob(f"*/{INDICES}"))


def read_selection(folder: Path) -> StoredSelection:
    """Raises UserError when a file is missing or not as it was written."""
    again = f"run `icons generalist` with selection.name {folder.name} again"
    head = read_sealed(folder / INDICES, again)
    try:
        rows, count = np.array(head.pop("indices"), np.int64), int(head["num_train"])
        if file_digest(folder / VOTES) != head["files"][VOTES]:
            raise UserError(f"{folder / VOTES} is not as it was written; {again}")
        tensors = read_tensors(folder / VOTES)
        selected = np.zeros(count, np.bool_)
        selected[rows] = True
        votes, values = tensors["votes"], tensors["values"]
        if not votes.shape == values.shape == (count,):
            raise ValueError(f"votes of another number of rows than {count}")
        missing = {"method", "percent", "thresholds", "data", "fingerprint"} - head.keys()
        if missing:
            raise KeyError(*missing)
        cut = Cut(**{key: head["cut"][key] for key in ("value", "above", "tie_class", "taken")})
    except (KeyError, IndexError, TypeError, ValueError, OSError) as error:
        raise UserError(f"{folder} is damaged or was written by another version ({error}); {again}") from None
    stability = None
    if (folder / STABILITY).is_file():
        sealed = read_sealed(folder / STABILITY, again)
        stability = sealed if sealed.get("selection") == head["fingerprint"] else None
    return StoredSelection(folder.name, selected, votes, values, cut, head, stability)
