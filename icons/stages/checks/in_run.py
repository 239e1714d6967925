"""What a run knows of one training record: its scores, and why each selection has it or not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from icons.config import Config
from icons.errors import UserError
from icons.report.samples import percentiles, ranking
from icons.selection.consensus import percentile_ranks
from icons.selection.cut import Cut
from icons.store.layout import RunFolder
from icons.store.scores import Scores, read_scores
from icons.store.selection import StoredSelection, read_selection, selection_names


def in_run(config: Config, row: int, data: str) -> Iterator[str]:
    """A line for the scores, one for each selection of them; none where the run has no scores of this `data` (16 hex).

    What is damaged is left out: `icons status` and the stages say so.
    """
    folder = RunFolder(config.output_dir)
    try:
        scores = read_scores(folder.scores)
    except UserError:
        return
    if scores.data != data or row >= len(scores.valid):
        return
    if not scores.valid[row]:
        yield "in the run: not valid, so it is never selected"
        return
    percents = percentiles(scores.scores, scores.valid, [row])[0]
    told = (
        f"{task} {score:.4f} ({percent:.0f}%)"
        for task, score, percent in zip(scores.columns, scores.scores[row], percents, strict=True)
    )
    yield "scores (percent of the rows that are not above it): " + ", ".join(told)
    yield f"loss {scores.losses[row]:.3f}, gradient norm {scores.norms[row]:.3g}"
    ranks = percentile_ranks(scores.scores, scores.valid)
    for name in selection_names(folder.selections):
        try:
            selection = read_selection(folder.selection(name))
        except UserError:
            continue
        if selection.head.get("scores") == scores.fingerprint:
            order = ranking(selection.selected, scores.valid, selection.values, ranks)
            yield f"{name}: {why(selection, scores, row, int(np.flatnonzero(order == row)[0]) + 1)}"


def why(selection: StoredSelection, scores: Scores, row: int, place: int) -> str:
    """Whether a row is in, at which place of how many, and what decided."""
    value, cut = float(selection.values[row]), selection.cut
    state = "in" if selection.selected[row] else "out"
    votes = "" if selection.by_votes else f", {int(selection.votes[row])} votes"
    place_of = f"place {place} of {int(scores.valid.sum())}"
    return f"{state}, {place_of}: {_decided(value, cut, selection)}{votes}"


def _decided(value: float, cut: Cut, selection: StoredSelection) -> str:
    votes = "1 vote" if value == 1 else f"{value:g} votes"
    what = votes if selection.by_votes else f"value {value:g}"
    if value == cut.value and cut.taken < cut.tie_class:
        return f"{what}, as {cut.tie_class} rows have, of which the tie-break took {cut.taken}"
    return f"{what}, the cut is at {cut.value:g}"
