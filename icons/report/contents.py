"""What a page says, section by section: figures, facts and findings with their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from icons.report.answers import answers_figure, count_answers
from icons.report.carried import carried_figure, carriers
from icons.report.doubts import DECIDED_BY_TIES, NEAR_CHANCE
from icons.report.drawing import Shown, Table
from icons.report.findings import Finding
from icons.report.gradients import by_length, gradients_figure
from icons.report.lengths import lengths_figure, panels
from icons.report.material import Material
from icons.report.overlap import selections_figure, tasks_figure
from icons.report.scores import scores_figure, spreads
from icons.report.sources import MOST_DRAWN, count_sources, lumped, sources_figure
from icons.report.values import values_figure
from icons.report.votes import votes_figure
from icons.selection.compare import agreement
from icons.selection.consensus import budget

_MOST_NOTES = 60


def what_figures(m: Material) -> list[Shown]:
    answers = answers_figure(count_answers(m.traits, m.focus.selected))
    return [
        sources_figure(count_sources(m.traits, m.focus.selected)),
        *([answers] if answers else []),
        lengths_figure(panels(m.traits, m.tokens_N, m.valid, m.focus.selected)),
    ]


def why_figures(m: Material) -> list[Shown]:
    by_votes, chosen_N = m.focus.by_votes, m.focus.selected
    shown = [scores_figure(*spreads(m.scores.scores, m.valid, m.tasks, m.tau), m.percent, m.noise, cast=by_votes)]
    if not by_votes:
        values = values_figure(m.focus.values, chosen_N, m.valid, m.focus.method, m.cut)
        shown += [values] if values else []
    vote_cut = m.cut if by_votes else None
    shown.append(votes_figure(m.focus.votes, chosen_N, m.valid, len(m.tasks), vote_cut))
    shown.append(tasks_figure(m.tasks, m.own_tops, chosen_N, m.percent))
    shown.append(carried_figure(carriers(m.tasks, m.own_tops, chosen_N, m.focus.votes, vote_cut), m.percent, vote_cut))
    return shown


def trust_figures(m: Material) -> list[Shown]:
    shown = []
    if m.tokens_N is not None:
        norms, losses = m.scores.norms, m.scores.losses
        usable_N = m.valid & np.isfinite(norms) & np.isfinite(losses)
        both = (usable_N, usable_N & m.focus.selected)
        all_norm, own_norm = (float(np.median(norms[rows_N])) if rows_N.any() else 0.0 for rows_N in both)
        lengths = by_length(m.tokens_N, norms, losses, usable_N, m.focus.selected)
        if lengths:
            shown.append(gradients_figure(lengths, all_norm, own_norm, m.checkpoint))
    if m.others:
        shown.append(selections_figure({s.name: s.selected for s in (m.focus, *m.others)}, m.focus.name))
    return shown


def lead(m: Material, data: str) -> str:
    """The page in a sentence."""
    of = f"{m.focus.size:,} of the {len(m.valid):,} records of {data}"
    if m.focus.by_votes and len(m.tasks) > 1:
        return f"{of}: those with most votes, when each of {len(m.tasks)} tasks votes for its own top {m.percent:g}%."
    if m.focus.by_votes:
        return f"{of}: the top of the task {m.tasks[0]}."
    return f"{of}, chosen by {m.focus.method}; {len(m.tasks)} task{'s' if len(m.tasks) > 1 else ''} scored them."


def facts(m: Material) -> list[tuple[str, str]]:
    """The strip at the head of the page."""
    size, count = m.focus.size, len(m.valid)
    strip = [("Selected of all", f"{size / count:.1%}")]
    if m.focus.by_votes:
        strip.append(("Votes needed", f"{m.cut.value:g} of {len(m.tasks)}"))
    else:
        strip.append(("Method", m.focus.method))
    strip.append(("By the tie-break", f"{m.cut.share_by_tie_break:.1%}"))
    strip.append(("Invalid records", f"{int((~m.valid).sum()):,}"))
    strip.append(("Sources", f"{len(m.traits.sources):,}"))
    return strip


def findings(m: Material, stale: Sequence[str]) -> list[Finding]:
    """`stale` are selections of the run folder that the page leaves out."""
    count, invalid = len(m.valid), int((~m.valid).sum())
    if invalid:
        text = f"{invalid:,} of {count:,} ({invalid / count:.2%}) are invalid: they never vote and are never selected."
    else:
        text = f"All {count:,} records are valid."
    entries = [Finding("Records", text, invalid == 0)]
    entries += _gradient_findings(m)
    bad = int((~np.isfinite(m.scores.scores[m.valid])).sum())
    text = f"{bad:,} are NaN or infinite." if bad else f"All {valid_scores(m):,} are finite numbers."
    entries.append(Finding("Scores", text, bad == 0))
    entries.append(_cut_finding(m))
    if m.focus.size < budget(count, m.percent):
        text = f"{m.focus.size:,} were selected where {m.percent:g}% would be {budget(count, m.percent):,}."
        entries.append(Finding("Size", text, False))
    if stale:
        text = f"{', '.join(stale)} in the run folder: made of other scores than these, and so not compared here."
        entries.append(Finding("Left out", text))
    return entries


def valid_scores(m: Material) -> int:
    """How many scores of valid rows there are."""
    return int(m.valid.sum()) * len(m.tasks)


def _gradient_findings(m: Material) -> list[Finding]:
    norms, losses, valid_N = m.scores.norms, m.scores.losses, m.valid
    infinite = int((valid_N & ~(np.isfinite(norms) & np.isfinite(losses))).sum())
    zero = int((valid_N & (norms == 0)).sum())
    text = (
        f"{infinite:,} have a norm or loss that is NaN or infinite."
        if infinite
        else "No norm or loss is NaN or infinite."
    )
    entries = [Finding("Gradients", text, infinite == 0)]
    if zero:
        text = f"{zero:,} valid records have a gradient of zero and score 0 for every task."
    else:
        text = "No valid record has a gradient of zero."
    entries.append(Finding("Zero gradients", text, zero == 0))
    if m.tokens_N is None:
        text = "The gradient rows are no longer on disk, so the lengths of the answers are not known."
        entries.append(Finding("Lengths", text))
    return entries


def _cut_finding(m: Material) -> Finding:
    if not m.cut.share_by_tie_break:
        return Finding("Tie-break", "The cut falls between two values: no tie had to be broken.", True)
    what = (
        f"{m.cut.value:g} vote{'' if m.cut.value == 1 else 's'}" if m.focus.by_votes else f"the value {m.cut.value:.5g}"
    )
    rule = {"rank": "mean percentile rank", "random": "lot", "index": "the lower index"}
    by = rule.get(str(m.focus.head.get("tie_break")), "the tie-break")
    return Finding(
        "Tie-break",
        f"Of {m.cut.tie_class:,} samples with {what}, {m.cut.taken:,} were taken by {by}: "
        f"{m.cut.share_by_tie_break:.1%} of the selection.",
        False if m.cut.share_by_tie_break > DECIDED_BY_TIES else None,
    )


def stability_findings(stability: Mapping[str, Any] | None) -> list[Finding]:
    """What stability.json says, in sentences."""
    if not stability:
        return [Finding("Stability", "Not measured; selection.stability: true does it.", False)]
    entries = []
    halves, other = stability.get("halves"), stability.get("other_run")
    if halves:
        note = f" ({stability['note']})" if stability.get("note") else ""
        entries.append(
            Finding("Halves", f"Made of either half of the validation samples, {_kept(halves)}.{note}", _steady(halves))
        )
    elif stability.get("why_not"):
        entries.append(Finding("Halves", f"Not measured: {stability['why_not']}."))
    if other:
        entries.append(
            Finding("Another run", f"Made of the scores {other.get('scores', '')}, {_kept(other)}.", _steady(other))
        )
    return entries


def _steady(measured: Mapping[str, Any]) -> bool | None:
    """Whether the agreement is well above that of chance; None where chance is not known."""
    chance, size = measured.get("expected_by_chance"), measured.get("size_a")
    return None if not chance or not size else float(measured["overlap"]) >= NEAR_CHANCE * chance / size


def _kept(overlaps: Mapping[str, Any]) -> str:
    text = f"{overlaps['overlap']:.1%} of the selection is the same (Jaccard {overlaps['jaccard']:.3f}"
    chance = overlaps.get("expected_by_chance")
    return (
        f"{text}; by chance {chance / overlaps['size_a']:.1%} would be)"
        if chance and overlaps["size_a"]
        else f"{text})"
    )


def notes_table(m: Material) -> Table | None:
    """What the method itself reports, name by name."""
    notes = m.focus.head.get("notes")
    if not isinstance(notes, dict) or not notes:
        return None
    return Table(["Measured", "Result"], [list(row) for row in _flat(notes)][:_MOST_NOTES])


def _flat(notes: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in notes.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if isinstance(value, dict):
            rows += _flat(value, f"{name}: ")
        elif isinstance(value, list):
            rows.append((name, ", ".join(_number(item) for item in value[:12]) + ("…" if len(value) > 12 else "")))
        else:
            rows.append((name, _number(value)))
    return rows


def _number(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def selections_table(m: Material) -> Table:
    """Each selection and how far it agrees with the one that the page is about, whose votes are counted."""
    rows = []
    for each in (m.focus, *m.others):
        shared = agreement(m.focus.selected, each.selected)
        is_focus = each is m.focus
        rows.append(
            [
                each.name,
                each.method,
                f"{each.size:,}",
                f"{each.size / len(each.selected):.1%}",
                "–" if is_focus else f"{shared.both:,}",
                "–" if is_focus else f"{shared.jaccard:.3f}",
                "–" if is_focus or not shared.expected else f"{shared.both / shared.expected:.2f} ×",
                f"{float(m.focus.votes[each.selected].mean()):.2f}" if each.size else "–",
            ]
        )
    head = ["Selection", "Method", "Size", "Share", "In common", "Jaccard", "Against chance", "Mean votes"]
    return Table(head, rows, words=(1,))


def sources_of_all(m: Material) -> Table:
    """Each selection's shares by source."""
    everything = (m.focus, *m.others)
    counted = [count_sources(m.traits, each.selected) for each in everything]
    rows = []
    for parts in zip(*(lumped(sources, MOST_DRAWN) for sources in counted), strict=True):
        rows.append(
            [parts[0].name, f"{parts[0].share_of_data:.1%}", *(f"{part.share_of_chosen:.1%}" for part in parts)]
        )
    return Table(["Source", "Data", *(each.name for each in everything)], rows)
