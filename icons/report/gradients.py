"""Whether to trust it: gradient norm and loss against the length of the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from icons.report.drawing import ALL, CHOSEN, INK, PAGE, Shown, Table, axes_in, bare, fit, new_figure, tick_labels
from icons.report.legend import dot, line
from icons.report.lengths import octaves
from icons.selection.compare import Bool

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUANTILES = (5, 25, 50, 75, 95)
_MEDIAN: Any = {"marker": "o", "markersize": 5, "markerfacecolor": PAGE, "markeredgecolor": INK}
_SELECTED: Any = {"marker": "D", "markersize": 4.5, "markerfacecolor": CHOSEN, "markeredgecolor": CHOSEN}


@dataclass(frozen=True)
class ByLength:
    """Of each class of answer lengths: its label, samples, quantiles of norm and loss [5], and the chosen's medians.

    Medians are NaN where no chosen sample has that length.
    """

    label: str
    count: int
    norm: npt.NDArray[np.float64]
    loss: npt.NDArray[np.float64]
    chosen_norm: float
    chosen_loss: float


def by_length(
    tokens_N: npt.NDArray[np.int32],
    norms_N: npt.NDArray[np.float32],
    losses_N: npt.NDArray[np.float32],
    valid_N: Bool,
    chosen_N: Bool,
) -> list[ByLength]:
    """Classes that have a sample, shortest first; `valid_N` leaves out whatever is not finite."""
    class_N, labels = octaves(tokens_N)
    groups = []
    for number, label in enumerate(labels):
        rows_N = valid_N & (class_N == number)
        count = int(np.count_nonzero(rows_N))
        if count:
            own_N = rows_N & chosen_N
            norm, loss = (np.percentile(values[rows_N], QUANTILES) for values in (norms_N, losses_N))
            medians = [float(np.median(values[own_N])) if own_N.any() else np.nan for values in (norms_N, losses_N)]
            groups.append(ByLength(label, count, norm, loss, *medians))
    return groups


def gradients_figure(groups: list[ByLength], all_norm: float, chosen_norm: float, checkpoint: str) -> Shown:
    """`all_norm` and `chosen_norm` are medians over all valid and all chosen samples."""
    rows = [
        [
            each.label,
            f"{each.count:,}",
            f"{each.norm[2]:.3g}",
            f"{each.norm[0]:.3g}–{each.norm[-1]:.3g}",
            _or_dash(each.chosen_norm),
            f"{each.loss[2]:.3f}",
            f"{each.loss[0]:.3f}–{each.loss[-1]:.3f}",
            _or_dash(each.chosen_loss),
        ]
        for each in groups
    ]
    head = [
        "Tokens", "Samples", "Norm, median", "5–95%", "of the selected", "Loss, median", "5–95%", "of the selected",
    ]  # fmt: skip
    return Shown(
        "gradients",
        "Gradient norm and loss against answer length",
        _caption(groups, all_norm, chosen_norm, checkpoint),
        Table(head, rows),
        lambda width: _draw(groups, width),
        (
            dot("median", **_MEDIAN),
            line("middle half of the samples", color=ALL, linewidth=6, solid_capstyle="butt"),
            line("5 to 95%", color=ALL, linewidth=1.2),
            dot("median of the selected", **_SELECTED),
        ),
    )


def _or_dash(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3g}"


def _caption(groups: list[ByLength], all_norm: float, chosen_norm: float, checkpoint: str) -> str:
    text = (
        f"At {checkpoint}: the middle half of the samples (thick), 5 to 95% (thin), the median (ring); a diamond is "
        "the median of the selected. "
    )
    if len(groups) > 1:
        first, last = groups[0], groups[-1]
        text += (
            f"From answers of {first.label} to those of {last.label} predicted tokens the median norm goes from "
            f"{first.norm[2]:.3g} to {last.norm[2]:.3g}, the median loss from {first.loss[2]:.2f} to "
            f"{last.loss[2]:.2f}. "
        )
    ratio = chosen_norm / all_norm if all_norm else 1.0
    beside = "about as large as" if 0.95 < ratio < 1.05 else f"{ratio:.2f} times"
    return f"{text}Over all lengths the selected have a median norm of {chosen_norm:.3g}, {beside} that of the data."


def _draw(groups: list[ByLength], width: float) -> Figure:
    wide = width > 5
    room = (width / 2 if wide else width) - 0.65
    under = 0.45 if fit([each.label for each in groups], room) else 0.8
    height = 1.8 + under
    figure = new_figure(width, height if wide else 2 * height)
    titles = ("Gradient norm", "Loss per token")
    for number, title in enumerate(titles):
        if wide:
            axes = axes_in(figure, 0.5, 0.15, 0.32, under, (number, 2))
        else:
            axes = axes_in(figure, 0.5, 0.15, number * height + 0.32, (1 - number) * height + under)
        _panel(axes, groups, room, norm=number == 0)
        axes.set_title(title)
    return figure


def _panel(axes: Axes, groups: list[ByLength], room: float, *, norm: bool) -> None:
    bare(axes, grid="y")
    places = np.arange(len(groups), dtype=np.float64) - 0.1
    quantiles = np.array([each.norm if norm else each.loss for each in groups])
    selected = np.array([each.chosen_norm if norm else each.chosen_loss for each in groups])
    axes.vlines(places, quantiles[:, 0], quantiles[:, 4], color=ALL, linewidth=1.2)
    axes.vlines(places, quantiles[:, 1], quantiles[:, 3], color=ALL, linewidth=6)
    axes.plot(places, quantiles[:, 2], linestyle="none", **_MEDIAN)
    axes.plot(places + 0.28, selected, linestyle="none", **_SELECTED)
    tick_labels(axes, places + 0.1, [each.label for each in groups], room)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="y", nbins=5)
    axes.set_xlabel("predicted tokens")
