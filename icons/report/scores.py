"""Why: how each task's scores are spread, and where its threshold lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from icons.report.drawing import (
    ALL,
    CHOSEN,
    CUT,
    INK,
    LINE,
    Shown,
    Table,
    axes_in,
    bare,
    beside,
    clip,
    label_width,
    new_figure,
)
from icons.report.legend import Key, box, line
from icons.selection.compare import Bool

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 120
_TAIL = 2  # percent of all scores beyond either end of the axis


@dataclass(frozen=True)
class Spread:
    """One task's scores over the valid rows: quantiles, threshold tau, and counts [BINS] between shared edges.

    `left` and `right` are how many lie off the axis, below the first edge and above the last.
    """

    task: str
    low: float
    median: float
    high: float
    tau: float
    voted: int
    counts: npt.NDArray[np.int64]
    left: int
    right: int


def spreads(
    scores_NK: npt.NDArray[np.float32], valid_N: Bool, tasks: Sequence[str], tau_K: npt.NDArray[np.float64]
) -> tuple[list[Spread], npt.NDArray[np.float64]]:
    """A spread for each task, and the edges [BINS + 1] that their counts share; what lies outside is not counted."""
    columns = [column[valid_N].astype(np.float64) for column in scores_NK.T]
    tails = np.percentile(np.concatenate(columns), [_TAIL, 100 - _TAIL])
    low, high = min(float(tails[0]), float(tau_K.min())), max(float(tails[1]), float(tau_K.max()))
    room = (high - low) * 0.02 or 1e-6
    edges = np.linspace(low - room, high + room, BINS + 1)
    each_task = [
        Spread(
            task,
            float(column.min()),
            float(np.median(column)),
            float(column.max()),
            float(tau),
            int((column >= tau).sum()),
            np.histogram(column, edges)[0],
            int((column < edges[0]).sum()),
            int((column > edges[-1]).sum()),
        )
        for task, column, tau in zip(tasks, columns, tau_K, strict=True)
    ]
    return each_task, edges


def scores_figure(
    each_task: list[Spread],
    edges: npt.NDArray[np.float64],
    percent: float,
    noise: Sequence[float] = (),
    *,
    cast: bool,
) -> Shown:
    """`cast`: these thresholds cast the votes that made the selection; `noise`: the error of a score, for each task."""
    rows = [
        [s.task, f"{s.low:.4f}", f"{s.median:.4f}", f"{s.high:.4f}", f"{s.tau:.4f}", f"{s.voted:,}",
         f"{s.left + s.right:,}"]
        for s in each_task
    ]  # fmt: skip
    head = ["Task", "Lowest", "Median", "Highest", "Threshold", "At or above it", "Off the axis"]
    if any(noise):
        head.append("Noise")
        rows = [[*row, f"± {size:.4f}"] for row, size in zip(rows, noise, strict=True)]
    caption = _caption(each_task, percent, cast)
    if any(noise):
        caption += " Shaded: as far as the projection’s noise reaches on either side of the threshold."
    return Shown(
        "scores",
        "Each task’s scores and its threshold",
        caption,
        Table(head, rows),
        lambda width: _draw(each_task, edges, noise, width),
        _keys(cast, any(noise)),
    )


def _caption(each_task: list[Spread], percent: float, cast: bool) -> str:
    what = "votes for" if cast else "has as its own top"
    text = f"A task {what} the {percent:g}% of samples right of its threshold (blue). {_off_axis(each_task)} "
    if len(each_task) == 1:
        only = each_task[0]
        return f"{text}The threshold of “{only.task}” is {only.tau:.4f}, its median score {only.median:.4f}."
    strictest = max(each_task, key=lambda s: s.tau)
    mildest = min(each_task, key=lambda s: s.tau)
    below = [s.task for s in each_task if s.tau <= 0]
    text += (
        f"“{strictest.task}” asks for most, a mean cosine of {strictest.tau:.4f}; “{mildest.task}” for least, "
        f"{mildest.tau:.4f}."
    )
    if below:
        text += f" Below zero, where a sample points away from the task: the threshold of “{'”, “'.join(below)}”."
    return text


def _off_axis(each_task: list[Spread]) -> str:
    left, right = sum(s.left for s in each_task), sum(s.right for s in each_task)
    if not left + right:
        return "No score lies off the axis."
    total = left + right + sum(int(s.counts.sum()) for s in each_task)
    return f"Of {total:,} scores {left + right:,} lie off the axis: {left:,} to the left, {right:,} to the right."


def _keys(cast: bool, noise: bool) -> tuple[Key, ...]:
    above = "at or above the threshold" + (": a vote" if cast else "")
    keys = (box("below", color=ALL), box(above, color=CHOSEN), line("threshold", color=CUT, linewidth=1.4))
    return (*keys, box("reach of the noise", color=CUT, alpha=0.25)) if noise else keys


def _draw(each_task: list[Spread], edges: npt.NDArray[np.float64], noise: Sequence[float], width: float) -> Figure:
    wide = width > 5
    step = 0.46
    figure = new_figure(width, 0.5 + step * len(each_task))
    labels = [clip(spread.task, 24 if wide else 14) for spread in each_task]
    axes = axes_in(figure, label_width(labels, width / 3), 0.75, 0.08, 0.42)
    bare(axes)
    axes.axvline(0, color=LINE, linewidth=0.8, zorder=0)
    top = len(each_task) - 1
    for number, spread in enumerate(each_task):
        base = top - number
        height = 0.86 * spread.counts / max(1, spread.counts.max())
        above = edges[1:] > spread.tau
        axes.stairs(base + height, edges, baseline=base, fill=True, color=ALL, linewidth=0)
        if above.any():
            first = int(np.argmax(above))
            own_edges = np.r_[max(spread.tau, edges[first]), edges[first + 1 :]]
            axes.stairs(base + height[first:], own_edges, baseline=base, fill=True, color=CHOSEN, linewidth=0)
        if any(noise):
            left, right = spread.tau - noise[number], spread.tau + noise[number]
            axes.fill_betweenx([base, base + 0.92], left, right, color=CUT, alpha=0.25, linewidth=0)
        axes.plot([spread.tau, spread.tau], [base, base + 0.92], color=CUT, linewidth=1.4)
    places = np.arange(len(each_task))[::-1]
    beside(axes, places + 0.08, [f"{spread.tau:.4f}" for spread in each_task], "baseline")
    axes.set_yticks(places + 0.2, labels, color=INK)
    axes.set_ylim(-0.05, len(each_task))
    axes.set_xlim(edges[0], edges[-1])
    axes.locator_params(axis="x", nbins=7 if wide else 4)
    axes.set_xlabel(
        "score: mean cosine with the task’s gradients; thresholds on the right" if wide else "score; thresholds right"
    )
    return figure
