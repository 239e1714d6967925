"""Every row of the data in three bytes, deflated into the page: what its search says of a row that is not shown."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass

import numpy as np

from icons.report.material import Material
from icons.selection.compare import Int64

MOST_ROWS = 2_000_000
"""Of data with more rows the page has no index: it would outgrow the page (about 2 bytes a row)."""
MOST_SELECTIONS = 8
STEPS = 200
INVALID = 255
"""In place of votes."""


@dataclass(frozen=True)
class RowIndex:
    """`packed` is base64 of deflated bytes, [rows] three times over: which of `selections` have it, as bits, its
    votes (254 for more, 255 for an invalid row), and its place in the ranking in 1 / STEPS, rounded up, 0 for none."""

    rows: int
    selections: list[str]
    packed: str


def row_index(m: Material, order_V: Int64) -> RowIndex | None:
    """`order_V` are the valid rows, the best first. None for more rows than MOST_ROWS."""
    rows = len(m.valid)
    if rows > MOST_ROWS:
        return None
    selections = (m.focus, *m.others)[:MOST_SELECTIONS]
    member_N = np.zeros(rows, np.uint8)
    for bit, selection in enumerate(selections):
        member_N |= selection.selected.astype(np.uint8) << np.uint8(bit)
    votes_N = np.where(m.valid, np.minimum(m.focus.votes, INVALID - 1), INVALID).astype(np.uint8)
    place_N = np.zeros(rows, np.uint8)
    if m.ranked:
        place_N[order_V] = -(-STEPS * np.arange(1, len(order_V) + 1) // max(1, len(order_V)))
    content = zlib.compress(member_N.tobytes() + votes_N.tobytes() + place_N.tobytes(), 6)
    return RowIndex(rows, [selection.name for selection in selections], base64.b64encode(content).decode())
