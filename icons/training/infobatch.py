"""InfoBatch (Qin et al., arXiv 2303.04947, section 3): which samples of an epoch are left out, without a bias.

A sample's score is its last loss. Those below the mean are well learned: each is dropped with probability `ratio`, and
the loss of those kept is scaled by 1 / (1 - ratio), so that an epoch's expected gradient is that of all samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]

PRUNING_STREAM = 1
"""Sets the draws of the pruning apart from those of the epoch's order, which have the same seed and epoch."""


@dataclass(frozen=True)
class InfoBatch:
    """`ratio` in (0, 1), published 0.5; `delta` in (0, 1], published 0.875: from there on an epoch is whole."""

    ratio: float
    delta: float

    def pruned_epochs(self, epochs: int) -> range:
        """Numbers from 0 of the epochs that are pruned.

        The first is whole, as nothing has a score yet, and so are those from floor(delta x epochs) on, as in the
        published code, and in any case the last.
        """
        # 0.29 x 100 is 28.999999999999996 in floating point.
        return range(1, max(1, min(math.floor(round(self.delta * epochs, 9)), epochs - 1)))

    def weights(self, scores_N: Float32, epoch: int, seed: int) -> Float32:
        """Factors [N] of the samples' losses in a pruned epoch: 0 (dropped), 1 / (1 - ratio) or 1.

        `scores_N`: last loss, NaN where there is none yet; such a sample is neither dropped nor counted in the mean.
        """
        seen_N = ~np.isnan(scores_N)
        weights_N = np.ones(len(scores_N), np.float32)
        if not seen_N.any():
            return weights_N
        well_learned_N = seen_N & (scores_N < scores_N[seen_N].mean(dtype=np.float64))
        # Raw draws, one a sample: the same in every version of NumPy.
        draws_N = np.random.PCG64([seed, epoch, PRUNING_STREAM]).random_raw(len(scores_N)) >> np.uint64(11)
        dropped_N = draws_N * 2.0**-53 < self.ratio
        weights_N[well_learned_N] = 1.0 / (1.0 - self.ratio)
        weights_N[well_learned_N & dropped_N] = 0.0
        return weights_N


@dataclass(frozen=True)
class SamplePasses:
    """Forward and backward passes of a sample: `done`, and `full`, what the same training without pruning takes."""

    done: int
    full: int

    @property
    def saved(self) -> int:
        return self.full - self.done

    def as_json(self) -> dict[str, int]:
        return {"done": self.done, "full": self.full, "saved": self.saved}
