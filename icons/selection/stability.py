"""How far selections agree that differ in their evidence alone: halves of the validation rows, another run."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from icons.selection.compare import Agreement, Int64

Float32 = npt.NDArray[np.float32]


def halves(matrix_NM: npt.NDArray[np.float16], valid_M: npt.NDArray[np.bool_]) -> Float32:
    """Mean cosines [2, n] with the even and with the odd ones of the valid validation rows; at least two are valid."""
    kept = np.flatnonzero(valid_M)
    return np.stack([matrix_NM[:, kept[start::2]].mean(axis=1, dtype=np.float32) for start in (0, 1)])


def agreement(first: Int64, second: Int64, num_rows: int) -> dict[str, Any]:
    """Sizes of two selections of `num_rows` rows and of what both have; `overlap` is its share of the first."""
    shared = Agreement(len(first), len(second), len(np.intersect1d(first, second)), num_rows)
    return asdict(shared) | {
        "overlap": shared.share_a,
        "jaccard": shared.jaccard,
        "expected_by_chance": shared.expected,
    }
