"""A seeded random draw, the baseline: `selection.seed` chooses it."""

from __future__ import annotations

import numpy as np

from icons.selection.registry import Evidence, Float64, method


@method("random", keys=("seed",))
def random(evidence: Evidence) -> Float64:
    # The raw stream of PCG64 is the same in every NumPy; the methods of Generator need not be.
    values: Float64 = np.random.PCG64(evidence.seed).random_raw(len(evidence.valid)) / 2.0**64
    return values
