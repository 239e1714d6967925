"""Why: how many votes the samples have, and where the cut falls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from icons.report.drawing import (
    ALL,
    CHOSEN,
    CUT,
    INK,
    LINE,
    MUTED,
    Shown,
    Table,
    axes_in,
    bare,
    compact,
    fit,
    new_figure,
)
from icons.report.legend import Key, box
from icons.selection.compare import Bool
from icons.selection.cut import Cut

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def votes_figure(votes_N: npt.NDArray[np.int16], chosen_N: Bool, valid_N: Bool, tasks: int, cut: Cut | None) -> Shown:
    """How many valid samples have how many votes, and how many of these were chosen; `cut` where votes decided."""
    counts = np.bincount(votes_N[valid_N], minlength=tasks + 1)
    selected = np.bincount(votes_N[chosen_N], minlength=tasks + 1)
    rows = [
        [f"{votes}", f"{counts[votes]:,}", f"{selected[votes]:,}", f"{counts[votes] - selected[votes]:,}"]
        for votes in range(tasks, -1, -1)
    ]
    whose = "task" if tasks == 1 else "tasks"
    return Shown(
        "votes",
        "How the votes fell" if cut else "Votes, which did not decide here",
        _votes_caption(counts, selected, tasks, cut),
        Table([f"Votes of {tasks} {whose}", "Samples", "Selected", "Not selected"], rows),
        lambda width: _draw_votes(counts, selected, cut, width),
        _keys(cut),
    )


def _keys(cut: Cut | None) -> tuple[Key, ...]:
    keys = (box("selected", color=CHOSEN), box("not selected", color=ALL))
    if cut is None or not cut.share_by_tie_break:
        return keys
    return (*keys, box("the class that the cut divides", facecolor="none", edgecolor=CUT, linewidth=1.4))


def _votes_caption(counts: npt.NDArray[np.int64], selected: npt.NDArray[np.int64], tasks: int, cut: Cut | None) -> str:
    none = f"{counts[0] / max(1, counts.sum()):.0%} of the samples get no vote at all." if counts[0] else ""
    most = int(np.flatnonzero(counts)[-1]) if counts.any() else 0
    most_text = f"The most that any sample has is {most} of {tasks}: {_samples(counts[most])}."
    if cut is None:
        with_votes = int(selected[1:].sum())
        return f"{none} {most_text} Of the selected, {with_votes:,} have a vote."
    if not cut.share_by_tie_break:
        where = f"The cut falls between classes: every sample with {_votes(cut.value)} or more is in, no other one."
    else:
        where = (
            f"The cut falls among the {cut.tie_class:,} samples with {_votes(cut.value)} (outlined): {cut.taken:,} of "
            f"them are in, chosen by the tie-break, beside all {cut.above:,} with more."
        )
    return f"{where} {most_text} {none}".strip()


def _votes(value: float) -> str:
    return f"{value:g} vote{'' if value == 1 else 's'}"


def _samples(count: int) -> str:
    return f"{count:,} sample{'' if count == 1 else 's'}"


def _draw_votes(
    counts: npt.NDArray[np.int64], selected: npt.NDArray[np.int64], cut: Cut | None, width: float
) -> Figure:
    if len(counts) > 12:  # of many tasks' classes those that are there
        last = int(np.flatnonzero(counts)[-1]) + 1 if counts.any() else 0
        counts, selected = counts[: last + 1], selected[: last + 1]
    figure = new_figure(width, 2.5)
    axes = axes_in(figure, 0.05, 0.05, 0.4, 0.45)
    bare(axes)
    places = np.arange(len(counts))
    at_cut = int(cut.value) if cut and cut.share_by_tie_break else -1
    left = counts - selected
    axes.bar(places, selected, 0.82, color=CHOSEN)
    axes.bar(places, left, 0.82, bottom=selected, color=ALL)
    axes.axhline(0, color=LINE, linewidth=0.8, zorder=0)
    if at_cut >= 0:
        axes.bar(at_cut, counts[at_cut], 0.82, color="none", edgecolor=CUT, linewidth=1.4)
    top = max(1, int(counts.max()))
    write = (lambda count: f"{count:,}") if fit([f"{top:,} in"] * len(counts), width) else compact
    for votes, count in enumerate(counts.tolist()):
        some = f"\n{write(int(selected[votes]))} in" if 0 < selected[votes] < count else ""
        axes.annotate(
            f"{write(count)}{some}", (votes, count), xytext=(0, 3), textcoords="offset points", ha="center", color=MUTED
        )
    every = 1 if fit([str(place) for place in places], width) else 5
    axes.set_xticks(places[::every], [str(place) for place in places[::every]], color=INK)
    axes.set_yticks([])
    axes.set_ylim(0, 1.02 * top)
    axes.set_xlim(-0.6, len(counts) - 0.4)
    axes.set_xlabel("votes")
    return figure
