"""What was selected: which of a source's answers, beside what the data have and what a random draw would take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from icons.plain import plain
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
from icons.report.findings import Finding
from icons.report.legend import dot
from icons.report.traits import Traits
from icons.selection.answers import SourceAnswers, answers_by_source, mean_distance
from icons.selection.compare import Bool

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_SOURCES, TOP = 6, 4


def count_answers(traits: Traits, selected_N: Bool) -> list[SourceAnswers]:
    return answers_by_source(traits.sources, traits.source_N, traits.answers, traits.answer_N, selected_N, top=TOP)


def answers_figure(rows: list[SourceAnswers]) -> Shown | None:
    """None where no source has an answer that is repeated: then there is nothing to prefer."""
    if not rows:
        return None
    drawn = sorted(rows, key=lambda row: -row.selected * abs(row.distance - row.by_chance))[:MOST_SOURCES]
    cells = [
        [
            row.source,
            f"{row.selected:,} of {row.in_data:,}",
            f"{row.distinct_selected:,} of {row.distinct:,}",
            f"{row.distance:.1%}",
            f"{row.by_chance:.1%}",
            "; ".join(f"{plain(answer, 40)} {had:.0%} → {got:.0%}" for answer, had, got in row.top),
        ]
        for row in rows
    ]
    head = ["Source", "Selected", "Distinct answers", "Distance", "By chance", "Most frequent: data → selection"]
    return Shown(
        "answers",
        "Which answers were selected",
        _caption(rows),
        Table(head, cells),
        lambda width: _draw(drawn, width),
        (dot("in the data", **RING), dot("in the selection", **DOT)),
    )


def answers_finding(rows: list[SourceAnswers]) -> Finding:
    if not rows:
        return Finding("Answers", "No source has answers that repeat, so none can be preferred.")
    own, chance = mean_distance(rows)
    text = (
        f"The answers' shares differ from the data's by {own:.1%} (total variation); a random draw's by {chance:.1%}."
    )
    skewed = [row for row in rows if row.skewed]
    if not skewed:
        return Finding("Answers", text, True)
    worst = max(skewed, key=lambda row: row.distance - row.by_chance)
    answer, had, got = max(worst.top, key=lambda each: abs(each[2] - each[1]))
    text += (
        f" Skewed: {len(skewed)} of {len(rows)} sources, most of all “{worst.source}”, where “{plain(answer, 40)}” is "
        f"{had:.0%} of the data and {got:.0%} of the selection. A model trained on this may learn to give that answer."
    )
    return Finding("Answers", text, False)


def _caption(rows: list[SourceAnswers]) -> str:
    own, chance = mean_distance(rows)
    return (
        "Each line goes from an answer’s share of its source in the data (ring) to that in the selection (dot), for "
        f"the sources that differ most. Over all sources the shares are {own:.1%} apart (total variation); a random "
        f"draw of this size would be {chance:.1%} apart."
    )


def _draw(rows: list[SourceAnswers], width: float) -> Figure:
    wide = width > 5
    lines = [(row.source, *each) for row in rows for each in row.top]
    gaps = np.repeat(np.arange(len(rows)) * 0.7, [len(row.top) for row in rows])
    places = (len(lines) + gaps[-1]) - np.arange(len(lines)) - gaps - 1
    names = [f"{clip(name, 18 if wide else 9)}: {clip(plain(a), 20 if wide else 10)}" for name, a, *_ in lines]
    notes = [f"{had:.0%} → {got:.0%}" for *_, had, got in lines]
    figure = new_figure(width, 0.55 + 0.24 * (len(lines) + float(gaps[-1])))
    axes = axes_in(figure, label_width(names, width / 2.4), label_width(notes, width / 4), 0.12, 0.43)
    bare(axes, grid="x")
    had, got = (100 * np.array(shares) for shares in zip(*((had, got) for *_, had, got in lines), strict=True))
    axes.hlines(places, np.minimum(had, got), np.maximum(had, got), color=CHOSEN, linewidth=1.6)
    axes.plot(had, places, linestyle="none", **RING)
    axes.plot(got, places, linestyle="none", **DOT)
    axes.set_yticks(places, names, color=INK)
    axes.set_ylim(-0.6, float(places.max()) + 0.6)
    top = max(float(had.max()), float(got.max()))
    axes.set_xlim(-0.03 * top, 1.05 * top)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}%")
    axes.set_xlabel("share of the source’s records" if wide else "share of the source")
    beside(axes, places, notes)
    return figure
