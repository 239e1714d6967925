"""Why, and whether to trust it: how far tasks agree with each other, and selections with selections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from icons.report.chance import unless_chance
from icons.report.drawing import ALL, INK, PAGE, Shown, Table, axes_in, bare, clip, fit, label_width, new_figure
from icons.report.legend import box, line
from icons.selection.compare import Bool, agreement

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

SELECTION = "selection"
COLOURS, ENDS = "PuOr", (0.15, 0.85)
"""Two hues that colour-blind readers can tell apart, light in the middle; the part that stands out from a dark page."""
FULL = 0.3
"""At least so far from chance is the fullest colour: a small difference is not painted as a large one."""
_LESS, _EVEN, _MORE = "#c96d0d", "#f6f6f7", "#6a4c9a"  # of COLOURS, at its ends and in the middle
_NO_VALUE: Any = {"color": ALL, "linewidth": 0.8}
_KEYS = (
    box("less than by chance", color=_LESS),
    box("as by chance", facecolor=_EVEN, edgecolor=ALL, linewidth=0.6),
    box("more", color=_MORE),
    line("itself, no value", **_NO_VALUE),
)
_ON_DARK, _ON_LIGHT = "#fefefe", "#010101"  # letters on a cell: its own colour counts, not the page's


def shared_parts(sets: Sequence[Bool]) -> npt.NDArray[np.float64]:
    """[n, n]: the part of each row's set that is in the column's too; 0 for an empty set."""
    sizes = [int(np.count_nonzero(set_N)) for set_N in sets]
    parts = np.zeros((len(sets), len(sets)))
    for row, set_N in enumerate(sets):
        for column in range(row + 1):
            both = int(np.count_nonzero(set_N & sets[column]))
            parts[row, column] = both / sizes[row] if sizes[row] else 0.0
            parts[column, row] = both / sizes[column] if sizes[column] else 0.0
    return parts


def tasks_figure(tasks: Sequence[str], own_KN: Sequence[Bool], chosen_N: Bool, percent: float) -> Shown:
    """The tasks' own top p% against each other (the paper's heat map) and against the selection."""
    parts = shared_parts([*own_KN, chosen_N])[:-1]  # the selection's own row stands in another figure
    names = [*tasks, SELECTION]
    chance = float(np.mean([np.count_nonzero(top_N) for top_N in own_KN])) / len(chosen_N)
    return Shown(
        "overlap",
        f"How far the tasks’ own top {percent:g}% overlap",
        _tasks_caption(tasks, parts, percent, chance, [*own_KN, chosen_N]),
        _table("Of the top of", tasks, names, parts),
        lambda width: _draw(tasks, names, parts, [*[chance] * len(tasks), float(chosen_N.mean())], width),
        _KEYS,
    )


def _tasks_caption(
    tasks: Sequence[str], parts: npt.NDArray[np.float64], percent: float, chance: float, sets: Sequence[Bool]
) -> str:
    *own_KN, chosen_N = sets
    into = parts[:, -1]
    best, worst = int(into.argmax()), int(into.argmin())
    text = (
        f"Each row: how much of its top {percent:g}% is in the column’s; unrelated tasks would share {chance:.0%} "
        "(orange: less than that, violet: more)."
    )
    if len(tasks) > 1:
        pairs = {(a, b): parts[a, b] for a in range(len(tasks)) for b in range(len(tasks)) if a != b}
        high, low = max(pairs, key=pairs.__getitem__), min(pairs, key=pairs.__getitem__)
        text += (
            f" “{tasks[high[0]]}” and “{tasks[high[1]]}” agree most ({pairs[high]:.0%}), “{tasks[low[0]]}” and "
            f"“{tasks[low[1]]}” least ({pairs[low]:.0%})"
            f"{unless_chance(*(agreement(own_KN[a], own_KN[b]) for a, b in (high, low)))}."
        )
    text += f" Of the top of “{tasks[best]}” {into[best]:.0%} came into the selection"
    text += f", of that of “{tasks[worst]}” {into[worst]:.0%}" if best != worst else ""
    named = dict.fromkeys((best, worst))
    text += unless_chance(*(agreement(own_KN[task], chosen_N) for task in named))
    return f"{text}; by chance it would be {float(chosen_N.mean()):.0%}."


def selections_figure(selections: Mapping[str, Bool], focus: str) -> Shown:
    """Several selections against each other."""
    names = list(selections)
    parts = shared_parts(list(selections.values()))
    others = [name for name in names if name != focus]
    place = names.index(focus)
    near = max(others, key=lambda name: parts[place, names.index(name)])
    far = min(others, key=lambda name: parts[place, names.index(name)])
    share = float(selections[near].mean())
    text = (
        "Each row: how much of its selection is in the column’s. "
        f"“{near}” has {parts[place, names.index(near)]:.0%} of “{focus}”, where a random selection of its size would "
        f"have {share:.0%}{unless_chance(agreement(selections[focus], selections[near]))}"
    )
    if near != far:
        by_chance = float(selections[far].mean())
        text += f"; “{far}” has least, {parts[place, names.index(far)]:.0%}, by chance it would be {by_chance:.0%}"
        text += unless_chance(agreement(selections[focus], selections[far]))
    text += ". Orange: less than by chance, violet: more."
    return Shown(
        "selections",
        "How far the selections agree",
        text,
        _table("Of", names, names, parts),
        lambda width: _draw(names, names, parts, [float(set_N.mean()) for set_N in selections.values()], width),
        _KEYS,
    )


def _table(corner: str, rows: Sequence[str], columns: Sequence[str], parts: npt.NDArray[np.float64]) -> Table:
    cells = [[name, *(f"{part:.1%}" for part in row)] for name, row in zip(rows, parts, strict=True)]
    return Table([corner, *columns], cells)


def _draw(
    rows: Sequence[str],
    columns: Sequence[str],
    parts: npt.NDArray[np.float64],
    chance: Sequence[float],
    width: float,
) -> Figure:
    """A cell for each pair but of a name with itself; a last column that is no row stands apart.

    What a column would have by chance is the middle of the colours: orange is less, violet more.
    """
    wide, (height, across) = width > 5, parts.shape
    gap = np.where(np.arange(across) < height, 0, 0.2)
    beside = [clip(name, 24 if wide else 13) for name in rows]
    above = [clip(name, 24 if wide else 13) for name in columns]
    left = label_width(beside, width / 3)
    cell = min(0.72, (width - left - 0.1) / (across + gap[-1]))
    letters = min(8.5, 72 * cell / 1.2)
    upright = not fit(above, cell * across)
    top = 0.1 + 0.075 * max(map(len, above)) if upright else 0.25
    figure = new_figure(width, top + cell * height + 0.08)
    axes = axes_in(figure, left, width - left - cell * (across + gap[-1]), top, 0.08)
    bare(axes)
    diagonal = np.eye(height, across, dtype=bool)
    beyond = parts - np.asarray(chance)
    reach = ENDS[1] - 0.5
    levels = 0.5 + reach * beyond / max(float(np.abs(beyond[~diagonal]).max(initial=0)), FULL)
    for place in range(min(height, across)):
        axes.plot([place + 0.1, place + 0.9], [place + 0.9, place + 0.1], **_NO_VALUE)
    for first, last in ((0, height), (height, across)):
        if first < last:
            edges = np.arange(first, last + 1) + gap[last - 1]
            cells = np.ma.array(levels[:, first:last], mask=diagonal[:, first:last])
            axes.pcolormesh(
                edges, np.arange(height + 1), cells, cmap=COLOURS, vmin=0, vmax=1, edgecolor=PAGE, linewidth=1
            )  # fmt: skip
    # In cells too small to be read there is no number; the table has them all.
    for row, column in np.argwhere(~diagonal) if cell > 0.16 else ():
        red, green, blue, _ = _colours()(levels[row, column])
        bright = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
        axes.text(
            column + gap[column] + 0.5, row + 0.5, f"{100 * parts[row, column]:.0f}", ha="center",
            va="center_baseline", fontsize=min(8.5, 72 * cell / 2.9), color=_ON_LIGHT if bright else _ON_DARK,
        )  # fmt: skip
    axes.set_xlim(0, across + gap[-1])
    axes.set_ylim(height, 0)
    axes.set_yticks(np.arange(height) + 0.5, beside, color=INK, fontsize=letters)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(across) + gap + 0.5, above, rotation=90 if upright else 0, color=INK, fontsize=letters)
    return figure


def _colours() -> Colormap:
    from matplotlib import colormaps

    return colormaps[COLOURS]
