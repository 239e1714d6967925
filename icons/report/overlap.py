"""Why, and whether to trust it: how far tasks agree with each other, and selections with selections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from icons.report.drawing import INK, PAGE, Shown, Table, axes_in, bare, clip, label_width, new_figure
from icons.selection.compare import Agreement, Bool

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

SELECTION = "the selection"
_ON_DARK, _ON_LIGHT = "#fefefe", "#010101"  # letters on a cell: its own colour counts, not the page's


def shared_parts(sets: Sequence[Bool]) -> npt.NDArray[np.float64]:
    """[n, n]: the part of each row's set that is in the column's too; 0 for an empty set."""
    sizes = [int(np.count_nonzero(own)) for own in sets]
    parts = np.zeros((len(sets), len(sets)))
    for row, own in enumerate(sets):
        for column in range(row + 1):
            both = int(np.count_nonzero(own & sets[column]))
            parts[row, column] = both / sizes[row] if sizes[row] else 0.0
            parts[column, row] = both / sizes[column] if sizes[column] else 0.0
    return parts


def tasks_figure(tasks: Sequence[str], own_KN: Sequence[Bool], chosen_N: Bool, percent: float) -> Shown:
    """The tasks' own top p% against each other (the paper's heat map) and against the selection."""
    parts = shared_parts([*own_KN, chosen_N])
    names = [*tasks, SELECTION]
    chance = float(np.mean([np.count_nonzero(own) for own in own_KN])) / len(chosen_N)
    return Shown(
        "overlap",
        f"How far the tasks' own top {percent:g}% overlap",
        _tasks_caption(tasks, parts, percent, chance, float(chosen_N.mean())),
        _table("Of the top of", names, parts),
        lambda width: _draw(names, parts, width, last_apart=True),
    )


def _tasks_caption(
    tasks: Sequence[str], parts: npt.NDArray[np.float64], percent: float, chance: float, share: float
) -> str:
    into = parts[:-1, -1]
    best, worst = int(into.argmax()), int(into.argmin())
    text = f"Each row: how much of its top {percent:g}% is in the column's; unrelated tasks would share {chance:.0%}."
    if len(tasks) > 1:
        pairs = {(a, b): parts[a, b] for a in range(len(tasks)) for b in range(len(tasks)) if a != b}
        high, low = max(pairs, key=pairs.__getitem__), min(pairs, key=pairs.__getitem__)
        text += (
            f" {tasks[high[0]]} and {tasks[high[1]]} agree most ({pairs[high]:.0%}), {tasks[low[0]]} and "
            f"{tasks[low[1]]} least ({pairs[low]:.0%})."
        )
    text += f" Of {tasks[best]}'s top {into[best]:.0%} came into the selection"
    text += f", of {tasks[worst]}'s {into[worst]:.0%}" if best != worst else ""
    return f"{text}; by chance it would be {share:.0%}."


def selections_figure(chosen: Mapping[str, Bool], focus: str) -> Shown:
    """Several selections against each other."""
    names = list(chosen)
    parts = shared_parts(list(chosen.values()))
    others = [name for name in names if name != focus]
    own = names.index(focus)
    near = max(others, key=lambda name: parts[own, names.index(name)])
    far = min(others, key=lambda name: parts[own, names.index(name)])
    share = float(chosen[near].mean())
    text = (
        f"Each row: how much of its selection is in the column's. {near} has {parts[own, names.index(near)]:.0%} of "
        f"{focus}, where a random selection of its size would have {share:.0%}"
    )
    text += f"; {far} has least, {parts[own, names.index(far)]:.0%}." if near != far else "."
    return Shown(
        "selections",
        "How far the selections agree",
        text,
        _table("Of", names, parts),
        lambda width: _draw(names, parts, width, last_apart=False),
    )


def agreement(a_N: Bool, b_N: Bool) -> Agreement:
    both = int(np.count_nonzero(a_N & b_N))
    return Agreement(int(np.count_nonzero(a_N)), int(np.count_nonzero(b_N)), both, len(a_N))


def _table(corner: str, names: Sequence[str], parts: npt.NDArray[np.float64]) -> Table:
    rows = [[name, *(f"{part:.1%}" for part in row)] for name, row in zip(names, parts, strict=True)]
    return Table([corner, *names], rows)


def _draw(names: Sequence[str], parts: npt.NDArray[np.float64], width: float, *, last_apart: bool) -> Figure:
    wide, size = width > 5, len(names)
    rows = [clip(name, 24 if wide else 13) for name in names]
    left = label_width(rows, width / 3)
    cell = min(0.62, (width - left - 0.1) / (size + 0.2))
    above = 0.15 + 0.06 * max(map(len, rows))
    figure = new_figure(width, above + cell * (size + 0.2) + 0.08)
    axes = axes_in(figure, left, width - left - cell * (size + 0.2), above, 0.08)
    bare(axes)
    gap = np.zeros(size)
    if last_apart:
        gap[-1] = 0.2
    off_diagonal = parts[~np.eye(size, dtype=bool)]
    low, high = float(off_diagonal.min(initial=0)), float(off_diagonal.max(initial=0.01))
    colors = _cividis()
    fontsize = min(8.5, 72 * cell / 2.9)
    from matplotlib.patches import Rectangle

    for row in range(size):
        for column in range(size):
            x, y = column + gap[column], row + gap[row]
            same = row == column
            level = min(1.0, (parts[row, column] - low) / max(high - low, 1e-9))
            red, green, blue, _ = colors(level)
            face = "none" if same else (red, green, blue)
            axes.add_patch(Rectangle((x, y), 1, 1, facecolor=face, edgecolor=PAGE, linewidth=1))
            if not same:
                bright = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
                axes.text(
                    x + 0.5, y + 0.5, f"{100 * parts[row, column]:.0f}", ha="center", va="center_baseline",
                    fontsize=fontsize, color=_ON_LIGHT if bright else _ON_DARK,
                )  # fmt: skip
    axes.set_xlim(0, size + 0.2)
    axes.set_ylim(size + 0.2, 0)
    centres = np.arange(size) + gap + 0.5
    axes.set_yticks(centres, rows, color=INK)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_xticks(centres, rows, rotation=90, color=INK)
    return figure


def _cividis() -> Colormap:
    from matplotlib import colormaps

    return colormaps["cividis"]
