"""Which training rows each voter approves: those with which its gradient has its highest cosines.

One reading of the blocks, in memory for a few rows a voter: a row is kept while it is among the best so far.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from icons.selection.voters import Int32, Int64, Voters

PIECE = 1024
"""Rows of a block that are looked at in one go."""


@dataclass(frozen=True)
class TopLists:
    """`rows` [M, k]: every voter's rows, the best first; of equal cosines the lower row first."""

    rows: Int32

    @property
    def depth(self) -> int:
        return int(self.rows.shape[1])

    def first_places(self, num_rows: int) -> Int64:
        """[N]: the best place (from 0) that a row has in any list; `depth` for a row that is in none."""
        places_N = np.full(num_rows, self.depth, np.int64)
        for place in range(self.depth - 1, -1, -1):
            places_N[self.rows[:, place]] = place
        return places_N

    def cut(self, depth: int) -> TopLists:
        return TopLists(self.rows[:, :depth])


def top_lists(voters: Voters, depth: int) -> TopLists:
    """Every voter's `depth` best rows (all rows, where there are fewer), from one reading."""
    best: _Best | None = None
    for block in voters.blocks(1):
        for start in range(0, len(block.rows), PIECE):
            piece = slice(start, start + PIECE)
            if best is None:
                best = _Best(len(voters), depth, block.influence.device)
            best.add(block.influence[:, piece], torch.from_numpy(block.rows[piece]))
    if best is None:
        raise ValueError("no valid training row")
    return TopLists(best.finish())


class _Best:
    """A buffer of candidates for each voter; when it is full, all but the `depth` best are dropped.

    Candidates stand in the order of their rows, so that a stable sort prefers the lower of equal ones.
    """

    def __init__(self, voters: int, depth: int, device: torch.device) -> None:
        self._depth = depth
        room = depth + max(depth, PIECE)
        self._values = torch.full((voters, room), -torch.inf, device=device)
        self._rows = torch.zeros((voters, room), dtype=torch.int32, device=device)
        self._counts = torch.zeros(voters, dtype=torch.int64, device=device)
        self._bar = torch.full((voters, 1), -torch.inf, device=device)  # to be beaten: later rows lose a tie

    def add(self, influence_Mn: torch.Tensor, rows_n: torch.Tensor) -> None:
        full = (self._counts + influence_Mn.shape[1] > self._values.shape[1]).nonzero().flatten()
        if len(full):
            self._drop(full)
        voter_C, at_C = (influence_Mn > self._bar).nonzero(as_tuple=True)
        counts_M = torch.bincount(voter_C, minlength=len(self._counts))
        begins_M = counts_M.cumsum(0) - counts_M
        place_C = torch.arange(len(voter_C), device=voter_C.device) - begins_M[voter_C] + self._counts[voter_C]
        self._values[voter_C, place_C] = influence_Mn[voter_C, at_C]
        self._rows[voter_C, place_C] = rows_n.to(at_C.device, torch.int32)[at_C]
        self._counts += counts_M

    def _drop(self, voters: torch.Tensor) -> None:
        """Keeps the best of these voters, in the order of their rows."""
        values = self._values[voters]
        kept = values.sort(dim=1, descending=True, stable=True).indices[:, : self._depth].sort(dim=1).values
        self._values[voters, : self._depth] = values.gather(1, kept)
        self._values[voters, self._depth :] = -torch.inf
        self._rows[voters, : self._depth] = self._rows[voters].gather(1, kept)
        self._counts[voters] = self._counts[voters].clamp(max=self._depth)
        whole = self._counts[voters] == self._depth
        lowest = self._values[voters, : self._depth].min(dim=1, keepdim=True).values
        self._bar[voters] = torch.where(whole[:, None], lowest, -torch.inf)

    def finish(self) -> Int32:
        depth = min(self._depth, int(self._counts.max()))
        order = self._values.sort(dim=1, descending=True, stable=True).indices[:, :depth]
        rows: Int32 = self._rows.gather(1, order).cpu().numpy()
        return rows


@dataclass(frozen=True)
class Approvals:
    """Row i is approved by `voters[starts[i] : starts[i + 1]]`, ascending."""

    starts: Int64
    voters: Int32

    @property
    def approved(self) -> Int64:
        """The rows that anybody approves, ascending."""
        return np.flatnonzero(np.diff(self.starts))


def by_row(lists: TopLists, num_rows: int) -> Approvals:
    """The lists turned round."""
    flat = lists.rows.ravel()
    order = np.argsort(flat, kind="stable")  # voters ascend within a row
    starts = np.r_[0, np.cumsum(np.bincount(flat, minlength=num_rows))]
    return Approvals(starts, (order // lists.depth).astype(np.int32))
