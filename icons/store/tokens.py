"""How many tokens of each training row are predicted: read from the shards without their gradients."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from icons.errors import UserError
from icons.store.files import read_tensors
from icons.store.index import Index, recompute


def read_target_tokens(index: Index) -> npt.NDArray[np.int32] | None:
    """[N]; None when a shard is no longer there: gradients may be deleted once they are scored.

    Of a file that is as the merge found it, by time and size, a few bytes are read; others are read and checked whole.
    Raises UserError when a file is damaged.
    """
    tokens_N = np.zeros(index.num_rows, np.int32)
    for shard in index.shards:
        path = index.path(shard)
        if not path.is_file():
            return None
        stat = path.stat()
        if index.checked.get(shard.file) == stat.st_mtime_ns and stat.st_size == shard.bytes:
            tokens = read_tensors(path, ["target_tokens"])["target_tokens"]
        else:
            tokens = shard.read(index.folder, recompute(shard), ["target_tokens"])["target_tokens"]
        if tokens.shape != (shard.stop - shard.start,):
            raise UserError(f"{path} is damaged (target_tokens has another number of rows); {recompute(shard)}")
        tokens_N[shard.start : shard.stop] = tokens
    return tokens_N
