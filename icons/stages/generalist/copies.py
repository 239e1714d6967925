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

MOST = 500
"""Copies that are compared: enough to tell, and little to hold (20 KB a row) and to read."""


def alike(config: Config, copies: Copies) -> dict[str, int]:
    """`gradients_compared` copies, spread evenly over all, and `gradients_alike`: how many have a cosine above 0.99
    with the row that they repeat.

    Empty where there are none, or no gradient rows (exact influence, or a run whose rows are gone).
    """
    path = RunFolder(config.output_dir).index(config.gradients.checkpoints[-1])
    if not copies.of or config.gradients.exact or not path.is_file():
        return {}
    every = -(-len(copies.of) // MOST)
    pairs = sorted(copies.of.items())[::every]
    wanted = np.array(sorted({row for pair in pairs for row in pair}), np.int64)
    index, memory, kept = read_index(path), Memory(), dict[int, Array]()
    for shard in index.shards:
        here = wanted[(wanted >= shard.start) & (wanted < shard.stop)]
        if len(here):
            try:
                grads = shard.read(index.folder, recompute(shard), ["grads"], memory)["grads"]
            except UserError:
                return {}  # damaged or gone; the scores have their own seal, and the count by content stands
            kept |= {int(row): grads[row - shard.start].astype(np.float32) for row in here}
    same = sum(float(kept[row] @ kept[first]) > SAME for row, first in pairs)
    return {"gradients_compared": len(pairs), "gradients_alike": same}
