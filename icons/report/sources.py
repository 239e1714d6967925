"""What was selected, by source: the share of the selection beside the share of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from icons.report.chance import unless_chance
from icons.report.drawing import (
    CHOSEN,
    DOT,
    INK,
    RING,
    Shown,
    Table,
    axes_in,
    bare,
    beside,
    clip,
    label_width,
    new_figure,
)
from icons.report.legend import dot
from icons.report.traits import Traits
from icons.selection.compare import Agreement, Bool

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_DRAWN, MOST_LISTED = 14, 200


@dataclass(frozen=True)
class Source:
    """One source's records in the data and in the selection, of `of_data` and `of_chosen` in all."""

    name: str
    in_data: int
    chosen: int
    of_data: int
    of_chosen: int

    @property
    def share_of_data(self) -> float:
        return self.in_data / self.of_data

    @property
    def share_of_chosen(self) -> float:
        return self.chosen / self.of_chosen

    @property
    def shared(self) -> Agreement:
        """Its rows and the selection's."""
        return Agreement(self.in_data, self.of_chosen, self.chosen, self.of_data)


def count_sources(traits: Traits, chosen_N: Bool) -> list[Source]:
    """The largest in the data first, then by name."""
    size = len(traits.sources)
    in_data = np.bincount(traits.source_N, minlength=size)
    selected = np.bincount(traits.source_N[chosen_N], minlength=size)
    of_data, of_chosen = len(chosen_N), int(chosen_N.sum())
    sources = [
        Source(name, int(all_), int(taken), of_data, of_chosen)
        for name, all_, taken in zip(traits.sources, in_data, selected, strict=True)
    ]
    return sorted(sources, key=lambda source: (-source.in_data, source.name))


def lumped(sources: list[Source], most: int) -> list[Source]:
    """The first `most`, the others as one where there are more."""
    if len(sources) <= most:
        return sources
    rest = sources[most - 1 :]
    in_data, selected = sum(source.in_data for source in rest), sum(source.chosen for source in rest)
    name = f"({len(rest)} other sources)"
    return [*sources[: most - 1], Source(name, in_data, selected, rest[0].of_data, rest[0].of_chosen)]


def sources_figure(sources: list[Source]) -> Shown:
    drawn = lumped(sources, MOST_DRAWN)
    rows = [
        [
            source.name,
            f"{source.in_data:,}",
            f"{source.share_of_data:.1%}",
            f"{source.chosen:,}",
            f"{source.share_of_chosen:.1%}",
            f"{source.chosen / source.in_data:.1%}",
        ]
        for source in lumped(sources, MOST_LISTED)
    ]
    head = ["Source", "In the data", "Share", "Selected", "Share", "Selected of its own"]
    return Shown(
        "sources",
        "Where the selection comes from",
        _caption(sources),
        Table(head, rows),
        lambda width: _draw(drawn, width),
        (dot("share of the data", **RING), dot("share of the selection", **DOT)),
    )


def _caption(sources: list[Source]) -> str:
    how = (
        "Each line goes from a source’s share of the data (ring) to its share of the selection (dot); on the right, "
        "how much of the source was selected."
    )
    if len(sources) == 1:
        return f"All records are of one source, “{sources[0].name}”."
    by_gain = sorted(sources, key=lambda source: source.share_of_chosen - source.share_of_data)
    less, more = by_gain[0], by_gain[-1]
    if more.share_of_chosen == more.share_of_data:
        return f"{how} The selection has every source as often as the data."
    text = (
        f"{how} “{more.name}” gains most: {more.share_of_data:.1%} of the data, {more.share_of_chosen:.1%} of the "
        f"selection. “{less.name}” loses most: {less.share_of_data:.1%} of the data, {less.share_of_chosen:.1%} of the "
        f"selection{unless_chance(more.shared, less.shared)}."
    )
    without = [source for source in sources if source.chosen == 0]
    if without:
        names = f": “{without[0].name}”" if len(without) == 1 else ""
        text += f" Nothing was selected from {len(without)} of {len(sources)} sources{names}."
    return text


def _draw(sources: list[Source], width: float) -> Figure:
    wide = width > 5
    labels = [clip(source.name, 28 if wide else 14) for source in sources]
    figure = new_figure(width, 0.55 + 0.29 * len(sources))
    rates = [f"{source.chosen / source.in_data:.0%}" for source in sources]
    if wide:
        rates = [f"{s.chosen:,} of {s.in_data:,} ({rate})" for s, rate in zip(sources, rates, strict=True)]
    axes = axes_in(figure, label_width(labels, width / 3), label_width(rates, width / 3), 0.12, 0.43)
    bare(axes, grid="x")
    places = np.arange(len(sources))[::-1]
    data = np.array([100 * source.share_of_data for source in sources])
    selected = np.array([100 * source.share_of_chosen for source in sources])
    axes.hlines(places, np.minimum(data, selected), np.maximum(data, selected), color=CHOSEN, linewidth=1.6)
    axes.plot(data, places, linestyle="none", **RING)
    axes.plot(selected, places, linestyle="none", **DOT)
    axes.set_yticks(places, labels, color=INK)
    axes.set_ylim(-0.6, len(sources) - 0.4)
    top = max(data.max(), selected.max())
    axes.set_xlim(-0.03 * top, 1.05 * top)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}%")
    axes.set_xlabel(
        "share; on the right, how much of the source was selected" if wide else "share; right: of the source"
    )
    beside(axes, places, rates)
    return figure
