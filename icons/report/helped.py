"""Did it help: what the trained models answered right, with intervals, and each one's lead over a random part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from icons.evaluation.measures import MEASURES, Answers, Interval, difference, mean_over_tasks, measured
from icons.report.drawing import (
    ALL,
    CHOSEN,
    INK,
    MUTED,
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
from icons.report.legend import dot, line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Results = Mapping[str, Mapping[str, Answers]]
"""Model -> task -> its answers."""


def helped_figure(results: Results) -> Shown | None:
    """None before `icons evaluate` has asked any model."""
    if not results:
        return None
    tasks = list(next(iter(results.values())))
    measure = _telling(results)
    means = {name: mean_over_tasks(answers, measure) for name, answers in results.items()}
    rows = []
    for name, answers in results.items():
        cells = [_number(measured(answers[task], measure).mean, measure) for task in tasks]
        others = [_number(mean_over_tasks(answers, other).mean, other) for other in ("loss", "token_accuracy")]
        rows.append([name, _with_bounds(means[name], measure), *others, *cells])
    head = ["Trained on", f"{MEASURES[measure]}, mean", "Token loss", "Tokens right", *tasks]
    return Shown(
        "helped",
        "What the trained models answer",
        _caption(means, measure, results),
        Table(head, rows),
        lambda width: _draw(means, measure, width),
        (
            dot("a selection, or everything", marker="o", markersize=6, color=CHOSEN),
            dot("a random part, the warm-up, the base", marker="o", markersize=6, color=ALL),
            line("95% interval", color=MUTED, linewidth=2),
        ),
    )


def helped_findings(results: Results, focus: str) -> list[Finding]:
    """Whether the model of the page's selection beats the random ones, and what it keeps of everything's score."""
    random = [answers for name, answers in results.items() if name.startswith("random-")]
    if focus not in results:
        text = (
            "Not measured: train on it, on a random part, and ask both: icons finetune; finetune --random 0; evaluate."
        )
        return [Finding("Did it help", text)]
    measure, found = _telling(results), []
    if random:
        lead = difference([results[focus]], random, measure)
        sign = -lead.sign if measure == "loss" else lead.sign
        words = {1: "ahead of", 0: "no better than", -1: "WORSE than"}[sign]
        text = f"Trained on it, the model is {words} one trained on a random part: {_signed(lead, measure)}."
        found.append(Finding("Against random", text, sign > 0 or (False if sign < 0 else None)))
    if "everything" in results and measure != "loss":
        own, full = (mean_over_tasks(results[name], measure).mean for name in (focus, "everything"))
        if full > 0:
            text = f"It keeps {own / full:.1%} of the score of training on everything ({own:.1%} of {full:.1%})."
            found.append(Finding("Against everything", text))
    return found


def _telling(results: Results) -> str:
    means = [mean_over_tasks(answers, "exact").mean for answers in results.values()]
    return "exact" if all(0.05 < mean < 0.95 for mean in means) else "loss"


def _number(value: float, measure: str) -> str:
    return f"{value:.3f}" if measure == "loss" else f"{value:.1%}"


def _with_bounds(interval: Interval, measure: str) -> str:
    low, high = (_number(bound, measure) for bound in (interval.low, interval.high))
    return f"{_number(interval.mean, measure)} [{low}, {high}]"


def _signed(lead: Interval, measure: str) -> str:
    if measure == "loss":
        return f"{lead.mean:+.3f} of token loss [{lead.low:+.3f}, {lead.high:+.3f}]"
    return f"{100 * lead.mean:+.1f} points [{100 * lead.low:+.1f}, {100 * lead.high:+.1f}]"


def _caption(means: Mapping[str, Interval], measure: str, results: Results) -> str:
    questions = sum(len(answers) for answers in next(iter(results.values())).values())
    first, *others = sorted(means, key=lambda name: means[name].mean, reverse=measure != "loss")
    return (
        f"Dots: {MEASURES[measure]}, mean over the tasks; lines: 95% intervals (bootstrap over {questions:,} "
        f"questions, one training each). “{first}” is best, {_with_bounds(means[first], measure)}"
        f"{_close(means, first, others)}."
    )


def _close(means: Mapping[str, Interval], first: str, others: list[str]) -> str:
    """Which models' intervals reach into that of the first."""
    top = means[first]
    near = [name for name in others if means[name].high >= top.low and means[name].low <= top.high]
    if not near:
        return ""
    return f"; the intervals of {len(near)} of the {len(others)} others reach into its own, “{near[0]}” first"


def _draw(means: Mapping[str, Interval], measure: str, width: float) -> Figure:
    wide = width > 5
    names = list(means)
    labels = [clip(name, 28 if wide else 14) for name in names]
    notes = [_number(interval.mean, measure) for interval in means.values()]
    scale = 1 if measure == "loss" else 100
    figure = new_figure(width, 0.55 + 0.3 * len(names))
    axes = axes_in(figure, label_width(labels, width / 3), label_width(notes, width / 4), 0.12, 0.43)
    bare(axes, grid="x")
    places = np.arange(len(names))[::-1]
    for place, name in zip(places, names, strict=True):
        interval = means[name]
        colour = ALL if name.startswith("random-") or name in ("warmup", "base") else CHOSEN
        axes.plot([scale * interval.low, scale * interval.high], [place, place], color=colour, linewidth=2)
        axes.plot([scale * interval.mean], [place], "o", markersize=6, color=colour)
    axes.set_yticks(places, labels, color=INK)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.margins(x=0.06)
    if measure != "loss":
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}%")
    axes.set_xlabel(f"{MEASURES[measure]}, mean over the tasks")
    beside(axes, places, notes)
    return figure
