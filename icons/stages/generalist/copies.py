"""Whether records that read alike have gradients that are alike too."""

from __future__ import annotations

import numpy as np

from icons.config import Config
from icons.errors import UserError
from icons.selection.copies import Copies
from icons.store.files import Array
from icons.store.index import read_index, recompute
from icons.store.layout import RunFolder
from icons.store.tensors import Memory

SAME = 0.99
"""Cosine above which two gradients are one direction."""


def alike(config: Config, copies: Copies) -> dict[str, int]:
    """`gradients_alike`: of how many copies the gradient has a cosine above 0.99 with that of the row they repeat.

    Empty where there are none, or no gradient rows (exact influence, or a run whose rows are gone).
    """
    path = RunFolder(config.output_dir).index(config.gradients.checkpoints[-1])
    if not copies.of or config.gradients.exact or not path.is_file():
        return {}
    wanted = np.array(sorted({*copies.of, *copies.of.values()}), np.int64)
    index, memory, kept = read_index(path), Memory(), dict[int, Array]()
    for shard in index.shards:
        here = wanted[(wanted >= shard.start) & (wanted < shard.stop)]
        if len(here):
            try:
                grads = shard.read(index.folder, recompute(shard), ["grads"], memory)["grads"]
            except UserError:
                return {}  # damaged or gone; the scores have their own seal, and the count by content stands
            kept |= {int(row): grads[row - shard.start].astype(np.float32) for row in here}
    same = sum(float(kept[row] @ kept[first]) > SAME for row, first in copies.of.items())
    return {"gradients_alike": same}
