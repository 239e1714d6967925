"""SPICE (arXiv 2601.23155) over the whole data: every pool gives its share of the budget.

Pools are drawn, by seed, among the rows of one training shard, so that the gradients are read once and in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import ceil

import numpy as np
import torch

from icons.cores import torch_on_one_thread
from icons.selection.registry import CannotAnswerError, Evidence, GradientShard, Int64, Ranking, method
from icons.selection.spice import Picks, Settings, conflicts, information, pick


@dataclass
class _Measured:
    """Of a choice, summed over the pools: log-determinants, conflicts, rows."""

    logdet: float = 0.0
    conflict: float = 0.0
    rows: int = 0

    def add(self, chosen_CD: torch.Tensor, alpha: float) -> None:
        if len(chosen_CD):
            self.logdet += information(chosen_CD, alpha)
            self.conflict += float(conflicts(chosen_CD).sum())
            self.rows += len(chosen_CD)

    def as_json(self) -> dict[str, float]:
        return {"log_determinant": self.logdet, "mean_conflict": self.conflict / max(1, self.rows), "rows": self.rows}


@dataclass
class _Choice:
    values: np.ndarray[tuple[int], np.dtype[np.float64]]
    own: _Measured = field(default_factory=_Measured)
    random: _Measured = field(default_factory=_Measured)


@method("spice", keys=("seed", "spice"))
def spice(evidence: Evidence) -> Ranking:
    """Value 1 for what a pool picks; below that, in case that all pools stop early, what the others would still add.

    Behind every pool as large a part of the budget is picked as of the valid rows is seen, so what an early stop leaves
    passes on to the pools behind it. `keep` bounds what one pool gives, unless the budget asks for a larger part.
    """
    if evidence.gradients is None:
        raise CannotAnswerError("spice needs projected gradients, and gradients.projection: none stores scores alone")
    section = evidence.options["spice"]
    settings = Settings(section["alpha"], section["penalty"], section["stop"])
    valid, pool = int(evidence.valid.sum()), section["pool"]
    most = max(section["keep"], ceil(pool * evidence.count / max(1, valid)))
    choice = _Choice(np.zeros(len(evidence.valid)))
    seen = 0
    with torch_on_one_thread():  # a pool is too small to share, and more threads may round sums otherwise
        for shard in evidence.gradients():
            lottery = np.random.PCG64([evidence.seed, int(shard.rows[0])])
            for positions in _pools(shard, pool, lottery):
                seen += len(positions)
                allowed = min(most, round(evidence.count * seen / valid) - choice.own.rows)
                _choose(choice, shard, positions, max(0, allowed), settings, lottery)
    notes = {"spice": choice.own.as_json(), "random": choice.random.as_json()}
    measures, other = notes["spice"], notes["random"]
    return Ranking(
        choice.values,
        notes,
        f"log-determinant {measures['log_determinant']:.4g} (a random choice: {other['log_determinant']:.4g}), "
        f"mean conflict {measures['mean_conflict']:.2g} (random: {other['mean_conflict']:.2g})",
    )


def _pools(shard: GradientShard, size: int, lottery: np.random.PCG64) -> Iterator[Int64]:
    """Positions of the shard's valid rows in a random order, `size` at a time."""
    positions = np.flatnonzero(shard.valid)
    drawn: Int64 = positions[np.argsort(lottery.random_raw(len(positions)), kind="stable")]
    for start in range(0, len(drawn), size):
        yield drawn[start : start + size]


def _choose(
    choice: _Choice, shard: GradientShard, positions: Int64, allowed: int, settings: Settings, lottery: np.random.PCG64
) -> None:
    # Scaled back: SPICE's information is of the gradients themselves, and the store keeps unit rows and norms.
    pool_BD = torch.from_numpy(shard.unit[positions]).float()
    pool_BD *= torch.from_numpy(shard.norms[positions])[:, None]
    picks: Picks = pick(pool_BD, allowed, settings)
    scores_B = picks.scores.double().numpy()
    rows = shard.rows[positions]
    choice.values[rows] = scores_B / (1 + np.abs(np.where(np.isfinite(scores_B), scores_B, 0)))
    choice.values[rows[picks.positions]] = 1.0
    drawn = np.argsort(lottery.random_raw(len(positions)), kind="stable")[: len(picks.positions)]
    choice.own.add(pool_BD[picks.positions], settings.alpha)
    choice.random.add(pool_BD[torch.from_numpy(drawn.copy())], settings.alpha)
