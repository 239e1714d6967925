"""A figure's legend, within its file: what the marks mean, above the drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARK, _LETTER, _GAP, _ROW = 0.3, 0.066, 0.22, 0.2  # inches: a mark with its room, a letter, between keys, a row


@dataclass(frozen=True)
class Key:
    """One mark and its meaning; `style` is Matplotlib's, of a line with markers or, with `box`, of a rectangle."""

    label: str
    style: Mapping[str, Any]
    box: bool = False


def line(label: str, **style: Any) -> Key:
    return Key(label, style)


def dot(label: str, **style: Any) -> Key:
    """A single marker, as `Axes.plot` draws it."""
    return Key(label, {"linestyle": "none", **style})


def box(label: str, **style: Any) -> Key:
    return Key(label, {"linewidth": 0, **style}, box=True)


def add_legend(figure: Figure, keys: Sequence[Key]) -> None:
    """Makes the figure taller by the rows that the keys take, side by side as far as there is room."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    if not keys:
        return
    width, height = (float(side) for side in figure.get_size_inches())
    rows = _rows(keys, width - 0.1)
    added = _ROW * len(rows) + 0.08
    figure.set_size_inches(width, height + added)
    for axes in figure.axes:
        left, bottom, wide, high = axes.get_position().bounds
        axes.set_position((left, bottom * height / (height + added), wide, high * height / (height + added)))
    inches = figure.dpi_scale_trans
    for number, row in enumerate(rows):
        left, middle = 0.05, height + added - _ROW * (number + 0.5) - 0.02
        for key in row:
            if key.box:
                place = (left, middle - 0.06)
                figure.add_artist(Rectangle(place, _MARK - 0.1, 0.12, transform=inches, **key.style))
            else:
                ends = [left, left + _MARK - 0.1] if key.style.get("linestyle") != "none" else [left + 0.1]
                figure.add_artist(Line2D(ends, [middle] * len(ends), transform=inches, **key.style))
            figure.text(left + _MARK - 0.02, middle, key.label, transform=inches, va="center_baseline")
            left += _long(key) + _GAP


def _long(key: Key) -> float:
    return _MARK + _LETTER * len(key.label)


def _rows(keys: Sequence[Key], room: float) -> list[list[Key]]:
    rows: list[list[Key]] = [[]]
    for key in keys:
        taken = sum(_long(each) + _GAP for each in rows[-1])
        if rows[-1] and taken + _long(key) > room:
            rows.append([])
        rows[-1].append(key)
    return rows
