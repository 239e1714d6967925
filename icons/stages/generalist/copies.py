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

MOST_COPIES, MOST_SHARDS = 500, 16
"""What is compared: enough to tell, and little to hold (20 KB a row). To read all rows takes longer than to select."""


def alike(config: Config, copies: Copies) -> dict[str, int]:
    """`gradients_compared` copies, of a few shards, and `gradients_alike` of them.

    Alike are those with a cosine above 0.99 with the row that they repeat.

    Empty where there are none, or no gradient rows (exact influence, or a run whose rows are gone).
    """
    path = RunFolder(config.output_dir).index(config.gradients.checkpoints[-1])
    if not copies.of or config.gradients.exact or not path.is_file():
        return {}
    index, memory, kept = read_index(path), Memory(), dict[int, Array]()
    pairs = of_few_shards(sorted(copies.of.items()), np.array([shard.start for shard in index.shards]))
    rows = np.array(sorted({row for pair in pairs for row in pair}), np.int64)
    for shard in index.shards:
        here = rows[(rows >= shard.start) & (rows < shard.stop)]
        if len(here):
            try:
                grads = shard.read(index.folder, recompute(shard), ["grads"], memory)["grads"]
            except UserError:
                return {}  # damaged or gone; the scores have their own seal, and the count by content stands
            kept |= {int(row): grads[row - shard.start].astype(np.float32) for row in here}
    same = sum(float(kept[row] @ kept[first]) > SAME for row, first in pairs)
    return {"gradients_compared": len(pairs), "gradients_alike": same}


def of_few_shards(pairs: list[tuple[int, int]], starts: Array) -> list[tuple[int, int]]:
    """At most MOST_COPIES of the pairs, whose rows lie in at most MOST_SHARDS of the shards that begin at `starts`.

    The shards are those of pairs spread evenly over all.
    """
    lie_in = np.searchsorted(starts, np.array(pairs), side="right") - 1
    read: set[int] = set()
    for number in range(0, len(pairs), -(-len(pairs) // MOST_SHARDS)):
        more = read | set(lie_in[number].tolist())
        read = more if len(more) <= MOST_SHARDS else read
    inside = np.flatnonzero(np.isin(lie_in, list(read)).all(axis=1))
    return [pairs[number] for number in inside[:: -(-len(inside) // MOST_COPIES)]]
