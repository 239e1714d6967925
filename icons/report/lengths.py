"""What was selected, by shape: answers a record, predicted tokens, images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from icons.report.drawing import ALL, CHOSEN, MUTED, PAGE, Shown, Table, axes_in, bare, fit, new_figure, tick_labels
from icons.report.legend import box
from icons.report.traits import Traits
from icons.selection.compare import Bool, Int64

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Panel:
    """Records in each class, in the data and in the selection; `median` of both where the classes are numbers."""

    title: str
    unit: str
    labels: Sequence[str]
    in_data: Int64
    chosen: Int64
    median: tuple[float, float] | None = None

    @property
    def shares(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        return self.in_data / max(1, self.in_data.sum()), self.chosen / max(1, self.chosen.sum())


def octaves(values_N: npt.NDArray[np.integer]) -> tuple[npt.NDArray[np.int64], list[str]]:
    """The class of each value, and the classes' labels: 0, 1, 2, 3-4, 5-8, and so on up to the largest value's."""
    class_N = np.where(values_N <= 0, 0, 1 + np.ceil(np.log2(np.maximum(values_N, 1))).astype(np.int64))
    last = int(class_N.max(initial=0))
    edges = [(0, 0), (1, 1), (2, 2)] + [(2 ** (n - 2) + 1, 2 ** (n - 1)) for n in range(3, last + 1)]
    return class_N, [str(low) if low == high else f"{low}–{high}" for low, high in edges[: last + 1]]


def panels(traits: Traits, tokens_N: npt.NDArray[np.int32] | None, valid_N: Bool, chosen_N: Bool) -> list[Panel]:
    """Of all records; those without a valid row have no number of tokens and are left out there."""
    drawn = [_numbers("Answers in a record", "answers", traits.answers_N, np.ones_like(valid_N), chosen_N)]
    if tokens_N is not None:
        drawn.append(_numbers("Answer length", "tokens", tokens_N, valid_N, chosen_N))
    kind_N = np.minimum(traits.images_N, 2).astype(np.int64)
    counted = [np.bincount(kind_N[rows_N], minlength=3) for rows_N in (np.ones_like(chosen_N), chosen_N)]
    used = 3 if counted[0][2] else 2
    labels = ["text only", "one image", "several"][:used]
    return [*drawn, Panel("Images", "", labels, counted[0][:used], counted[1][:used])]


def _numbers(title: str, unit: str, values_N: npt.NDArray[np.integer], counted_N: Bool, chosen_N: Bool) -> Panel:
    class_N, labels = octaves(values_N)
    both = [np.bincount(class_N[rows_N], minlength=len(labels)) for rows_N in (counted_N, counted_N & chosen_N)]
    first = int(np.flatnonzero(both[0])[0]) if both[0].any() else 0
    medians = (_median(values_N[counted_N]), _median(values_N[counted_N & chosen_N]))
    return Panel(title, unit, labels[first:], both[0][first:], both[1][first:], medians)


def _median(values: npt.NDArray[np.integer]) -> float:
    return float(np.median(values)) if len(values) else 0.0


def lengths_figure(drawn: list[Panel]) -> Shown:
    rows = []
    for panel in drawn:
        for label, data, selected, in_data, in_chosen in zip(
            panel.labels, panel.in_data, panel.chosen, *panel.shares, strict=True
        ):
            name = f"{label} {panel.unit}".strip()
            rows.append([name, f"{data:,}", f"{in_data:.1%}", f"{selected:,}", f"{in_chosen:.1%}"])
    head = ["Records with", "In the data", "Share", "Selected", "Share"]
    return Shown(
        "lengths",
        "What the samples are like",
        _caption(drawn),
        Table(head, rows),
        lambda width: _draw(drawn, width),
        (box("the data", color=ALL), box("the selection", color=CHOSEN)),
    )


def _caption(drawn: list[Panel]) -> str:
    parts = ["Grey: the data, blue: the selection, each in percent of itself."]
    for panel in drawn:
        if panel.median is not None:
            data, selected = panel.median
            same = (
                f"{selected:g} in both" if data == selected else f"{selected:g} in the selection, {data:g} in the data"
            )
            what = "number of answers" if panel.unit == "answers" else "number of predicted tokens"
            parts.append(f"Median {what}: {same}.")
        else:
            in_data, in_chosen = (share[0] for share in panel.shares)
            parts.append(f"Text-only records: {in_chosen:.1%} of the selection, {in_data:.1%} of the data.")
    return " ".join(parts)


def _draw(drawn: list[Panel], width: float) -> Figure:
    wide = width > 5
    left, right, columns = 0.42, 0.1, len(drawn) if wide else 1
    room = width / columns - left - right
    under = 0.3 if all(fit(panel.labels, room) for panel in drawn) else 0.62
    height = 1.7 + under
    figure = new_figure(width, height if wide else height * len(drawn))
    for number, panel in enumerate(drawn):
        if wide:
            axes = axes_in(figure, left, right, 0.32, under, (number, columns))
        else:
            axes = axes_in(figure, left, right, number * height + 0.32, (len(drawn) - 1 - number) * height + under)
        _bars(axes, panel, room)
    return figure


def _bars(axes: Axes, panel: Panel, room: float) -> None:
    bare(axes, grid="y")
    places = np.arange(len(panel.labels), dtype=np.float64)
    data, selected = (100 * share for share in panel.shares)
    axes.bar(places - 0.2, data, 0.38, color=ALL)
    axes.bar(places + 0.2, selected, 0.38, color=CHOSEN, edgecolor=PAGE, linewidth=0)
    tick_labels(axes, places, panel.labels, room)
    axes.set_xlim(-0.6, len(places) - 0.4)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}%")
    axes.locator_params(axis="y", nbins=4)
    axes.set_title(f"{panel.title} ({panel.unit})" if panel.unit == "tokens" else panel.title)
    axes.tick_params(axis="x", labelcolor=MUTED)
