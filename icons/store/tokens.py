"""How many tokens of each training row are predicted: read from the shards without their gradients."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from icons.errors import UserError
from icons.store.files import read_tensors
from icons.store.index import Index, recompute


def read_target_tokens(index: Index) -> npt.NDArray[np.int32] | None:
    """[N]; None when a shard is no longer there: gradients may be deleted once they are scored.

    A few bytes of each file are read and its SHA-256 is therefore not checked. Raises UserError when a file is damaged
    so far that these numbers cannot be read.
    """
    tokens_N = np.zeros(index.num_rows, np.int32)
    for shard in index.shards:
        path = index.path(shard)
        if not path.is_file():
            return None
        tokens = read_tensors(path, ["target_tokens"])["target_tokens"]
        if tokens.shape != (shard.stop - shard.start,):
            raise UserError(f"{path} is damaged (target_tokens has another number of rows); {recompute(shard)}")
        tokens_N[shard.start : shard.stop] = tokens
    return tokens_N
