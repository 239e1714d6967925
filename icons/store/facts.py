"""The small numbers beside the gradients, of all training rows: read without the gradients themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from icons.errors import UserError
from icons.store.files import read_tensors
from icons.store.index import Index, recompute

_TENSORS = {"norms": np.float32, "losses": np.float32, "target_tokens": np.int32, "valid": np.bool_}


@dataclass(frozen=True)
class RowFacts:
    """`norms` and `losses` [N] float32, `target_tokens` [N] int32, `valid` [N] bool, as in the shards."""

    norms: npt.NDArray[np.float32]
    losses: npt.NDArray[np.float32]
    target_tokens: npt.NDArray[np.int32]
    valid: npt.NDArray[np.bool_]


def read_facts(index: Index) -> RowFacts | None:
    """None when a shard is no longer there: gradients may be deleted once they are scored.

    A few bytes of each file are read and its SHA-256 is therefore not checked. Raises UserError when a file is damaged
    so far that these numbers cannot be read.
    """
    arrays: dict[str, npt.NDArray[Any]] = {name: np.zeros(index.num_rows, dtype) for name, dtype in _TENSORS.items()}
    for shard in index.shards:
        path = index.path(shard)
        if not path.is_file():
            return None
        tensors = read_tensors(path, list(_TENSORS))
        for name, array in arrays.items():
            if tensors[name].shape != (shard.stop - shard.start,):
                raise UserError(f"{path} is damaged ({name} has another number of rows); {recompute(shard)}")
            array[shard.start : shard.stop] = tensors[name]
    return RowFacts(**arrays)
