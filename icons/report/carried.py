"""Why: which tasks carried the chosen samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from icons.report.chance import unless_chance
from icons.report.drawing import (
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
from icons.selection.compare import Agreement, Bool, agreement
from icons.selection.cut import Cut

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Carrier:
    """A task: how many of the chosen lie in its own top p%, and how many of these have no vote to spare.

    `shared` compares its whole top with the chosen.
    """

    task: str
    voted: int
    needed: int
    of: int
    shared: Agreement


def carriers(
    tasks: Sequence[str], own_KN: Sequence[Bool], chosen_N: Bool, votes_N: npt.NDArray[np.int16], cut: Cut | None
) -> list[Carrier]:
    """In the order of the tasks; without a cut in votes no vote was needed."""
    last_N = chosen_N & (votes_N == cut.value) if cut else np.zeros_like(chosen_N)
    of = int(np.count_nonzero(chosen_N))
    return [
        Carrier(
            task,
            int(np.count_nonzero(top_N & chosen_N)),
            int(np.count_nonzero(top_N & last_N)),
            of,
            agreement(top_N, chosen_N),
        )
        for task, top_N in zip(tasks, own_KN, strict=True)
    ]


def carried_figure(bars: list[Carrier], percent: float, cut: Cut | None) -> Shown:
    rows = [[c.task, f"{c.voted:,}", f"{c.voted / c.of:.1%}"] + ([f"{c.needed:,}"] if cut else []) for c in bars]
    head = ["Task", "Of the selected in its top", "Share", *(["Its vote was needed"] if cut else [])]
    return Shown(
        "carried",
        "Which tasks carried the selection",
        _caption(bars, percent, cut),
        Table(head, rows),
        lambda width: _draw(bars, percent, cut, width),
        _keys(cut),
    )


def _keys(cut: Cut | None) -> tuple[Key, ...]:
    chance = line("by chance", color=CUT, linewidth=1.2, linestyle=(0, (4, 3)))
    if cut is None:
        return box("in the task’s own top", color=CHOSEN), chance
    return box("with a vote to spare", color=CHOSEN), box("its vote was needed", color=CHOSEN, alpha=0.35), chance


def _caption(bars: list[Carrier], percent: float, cut: Cut | None) -> str:
    most, least = max(bars, key=lambda c: c.voted), min(bars, key=lambda c: c.voted)
    text = f"How much of the selection lies in each task’s own top {percent:g}%; the dashed line is chance. "
    if len(bars) == 1:
        text += f"“{most.task}”: {most.voted / most.of:.0%}."
    else:
        text += (
            f"“{most.task}” carried most of it, {most.voted:,} of {most.of:,} samples ({most.voted / most.of:.0%}); "
            f"“{least.task}” least, {least.voted:,} ({least.voted / least.of:.0%})"
            f"{unless_chance(most.shared, least.shared)}. By chance it would be {most.shared.expected or 0:,.0f}."
        )
    if cut:
        needed = max(bars, key=lambda c: c.needed)
        text += (
            f" Faint: samples with no more votes than the cut ({cut.value:g}), which one less would have put below it; "
            f"“{needed.task}” has {needed.needed:,} of these."
        )
    return text


def _draw(bars: list[Carrier], percent: float, cut: Cut | None, width: float) -> Figure:
    wide = width > 5
    labels = [clip(c.task, 28 if wide else 14) for c in bars]
    figure = new_figure(width, 0.55 + 0.31 * len(bars))
    shares = [f"{c.voted / c.of:.0%}" for c in bars]
    if wide:
        shares = [f"{c.voted:,} ({share})" for c, share in zip(bars, shares, strict=True)]
    axes = axes_in(figure, label_width(labels, width / 3), label_width(shares, width / 3), 0.1, 0.43)
    bare(axes, grid="x")
    places = np.arange(len(bars))[::-1]
    voted = np.array([100 * c.voted / c.of for c in bars])
    needed = np.array([100 * c.needed / c.of for c in bars])
    axes.barh(places, voted - needed, 0.62, color=CHOSEN)
    axes.barh(places, needed, 0.62, left=voted - needed, color=CHOSEN, alpha=0.35, linewidth=0)
    axes.barh(places, voted, 0.62, color="none", edgecolor=CHOSEN, linewidth=1)
    axes.axvline(percent, color=CUT, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.set_yticks(places, labels, color=INK)
    axes.set_xlim(0, max(1.05 * voted.max(), 1.1 * percent, 1))
    axes.set_ylim(-0.6, len(bars) - 0.4)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}%")
    axes.spines["bottom"].set_color(LINE)
    axes.set_xlabel("share of the selection that is in the task’s own top" if wide else "share of the selection")
    beside(axes, places, shares)
    return figure
