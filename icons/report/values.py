"""Why: the values that a method without votes ranked the samples by, and where the cut falls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from icons.report.drawing import ALL, CHOSEN, CUT, Shown, Table, axes_in, bare, new_figure
from icons.report.legend import box, line
from icons.selection.compare import Bool
from icons.selection.cut import Cut

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BINS = 60


def values_figure(
    value_N: npt.NDArray[np.float64], chosen_N: Bool, valid_N: Bool, method: str, cut: Cut
) -> Shown | None:
    """The values that a method without votes ranked by; None where they are not finite numbers."""
    finite_N = valid_N & np.isfinite(value_N)
    values = value_N[finite_N]
    if not len(values) or values.min() == values.max():
        return None
    low, high = (float(end) for end in np.percentile(values, [0.1, 99.9]))
    if low == high:
        low, high = float(values.min()), float(values.max())
    edges = np.linspace(low, high, _BINS + 1)
    inside = np.clip(value_N, edges[0], edges[-1])
    counts = np.histogram(inside[finite_N], edges)[0]
    selected = np.histogram(inside[finite_N & chosen_N], edges)[0]
    of_selected = value_N[finite_N & chosen_N]
    rows = [
        [name, f"{part.min():.5g}", f"{np.median(part):.5g}", f"{part.max():.5g}", f"{len(part):,}"]
        for name, part in (("Data", values), ("Selection", of_selected))
        if len(part)
    ]
    text = f"What {method} gave each sample: blue what was selected. "
    text += f"The cut is at {cut.value:.5g}: {cut.above:,} samples are above it"
    text += f", of {cut.tie_class:,} with just this value {cut.taken:,} are in."
    return Shown(
        "values",
        f"What {method} ranked by",
        text,
        Table(["", "Lowest", "Median", "Highest", "Samples"], rows),
        lambda width: _draw_values(counts, selected, edges, cut, width),
        (box("selected", color=CHOSEN), box("not selected", color=ALL), line("the cut", color=CUT, linewidth=1.4)),
    )


def _draw_values(
    counts: npt.NDArray[np.int64], selected: npt.NDArray[np.int64], edges: npt.NDArray[np.float64], cut: Cut,
    width: float,
) -> Figure:  # fmt: skip
    figure = new_figure(width, 2.3)
    axes = axes_in(figure, 0.55, 0.1, 0.15, 0.45)
    bare(axes, grid="y")
    axes.stairs(counts, edges, fill=True, color=ALL, linewidth=0)
    axes.stairs(selected, edges, fill=True, color=CHOSEN, linewidth=0)
    if edges[0] <= cut.value <= edges[-1]:
        axes.axvline(cut.value, color=CUT, linewidth=1.4)
    axes.set_xlim(edges[0], edges[-1])
    axes.locator_params(nbins=4)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("value")
    return figure
