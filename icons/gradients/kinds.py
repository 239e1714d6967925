"""The kinds of projection, named once; the config asks for one without loading torch."""

from __future__ import annotations

EXACT = "none"
"""No projection: exact scores are computed in the training pass, and no gradient is stored."""

PROJECTIONS = {
    "count_sketch": "icons.gradients.count_sketch:CountSketch",
    "rademacher": "icons.gradients.rademacher:Rademacher",
}
"""Kind -> module:class of its `projection.Projector`, made with (dim, seed)."""

VERSIONS = {"none": 1, "count_sketch": 1, "rademacher": 1}
"""Kind -> version of its numbers, counted up when the same seed gives others; part of the fingerprint of a row."""
