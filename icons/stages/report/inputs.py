"""What a report reads: scores, selections, traits of the records, norms and losses, the shown samples, provenance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from icons.config import Config
from icons.data.records import Records
from icons.errors import BadRecordError, UserError
from icons.plain import plain
from icons.progress import Progress
from icons.report.making import Provenance
from icons.report.material import Material
from icons.report.row_index import RowIndex, row_index
from icons.report.sample_view import SampleView, sample_views
from icons.report.samples import Kind, ranking
from icons.report.thumbnails import Thumbnail, thumbnail
from icons.report.traits import read_traits
from icons.selection.consensus import percentile_ranks, thresholds
from icons.stages.generalist.select import open_scores, open_training
from icons.stages.report.provenance import read_provenance
from icons.stages.report.trust import score_noise, stored_answers, valid_samples, warmup_steps
from icons.store.index import read_index
from icons.store.layout import RunFolder
from icons.store.scores import Scores
from icons.store.selection import StoredSelection, read_selection
from icons.store.tokens import read_target_tokens


@dataclass(frozen=True)
class Inputs:
    """`stale`: names of selections that were made of other scores than these, and are left out.

    `warmup_steps` is None where the adapter is another one.
    """

    material: Material
    provenance: Provenance
    kinds: list[Kind]
    samples: list[SampleView]
    rows: RowIndex | None
    scores_fingerprint: str
    stale: list[str]
    warmup_steps: int | None


def read_inputs(config: Config, names: list[str], *, asked: bool) -> Inputs:
    """For the selection `names[0]` and, beside it, the others.

    Raises UserError when something is damaged or does not belong together. Of selections that nobody `asked` for by
    name, those of other scores are left out.
    """
    folder = RunFolder(config.output_dir)
    scores = open_scores(config)
    selections = [read_selection(folder.selection(name)) for name in names]
    stale = [selection.name for selection in selections if not _fits(selection, scores)]
    if stale and (asked or stale[0] == names[0]):
        raise UserError(
            f"selection {stale[0]} was not made of the scores in {folder.scores}; run `icons generalist` with "
            f"selection.name {stale[0]} again"
        )
    focus, *others = (selection for selection in selections if selection.name not in stale)
    records = open_training(config, scores)
    checkpoint = config.gradients.checkpoints[-1]
    index = read_index(folder.index(checkpoint)) if folder.index(checkpoint).is_file() else None
    if index is not None and (index.fingerprint.get("data") != scores.data or index.num_rows != len(scores.valid)):
        raise UserError(f"{folder.index(checkpoint)} is of other training data than the scores; run `icons specialist`")
    material = Material(
        scores=scores,
        focus=focus,
        others=others,
        traits=read_traits(_each(records), len(records)),
        tokens_N=None if index is None else read_target_tokens(index),
        checkpoint=f"step {checkpoint} of the warm-up" if checkpoint != "final" else "the final adapter",
        noise=score_noise(config),
        samples=valid_samples(config),
        results=stored_answers(config),
    )

    def record(row: int) -> dict[str, Any] | str:
        try:
            return records[row]
        except BadRecordError as error:
            return plain(str(error), 400)

    def picture(row: int, position: int, name: object, most: int) -> Thumbnail:
        return thumbnail(lambda found: records.image(row, position, found), name, most)

    ranks_N = percentile_ranks(scores.scores, scores.valid)
    order = ranking(focus.selected, scores.valid, focus.values, ranks_N)
    kinds, samples = sample_views(material, order, record, picture)
    provenance = read_provenance(config)
    index_of_rows = row_index(material, order)
    return Inputs(material, provenance, kinds, samples, index_of_rows, scores.fingerprint, stale, warmup_steps(config))


def _fits(selection: StoredSelection, scores: Scores) -> bool:
    """Whether a selection was made of these scores, as far as its file tells: rows, data, tasks and thresholds."""
    head = selection.head
    if len(selection.selected) != len(scores.valid) or head.get("data") != scores.data:
        return False
    if bool((selection.selected & ~scores.valid).any()):
        return False
    tau, percent = head["thresholds"], float(head["percent"])
    if list(tau) != scores.columns:
        return False
    return bool(np.allclose(list(tau.values()), thresholds(scores.scores, scores.valid, percent), rtol=1e-9, atol=0))


def _each(records: Records) -> Iterator[dict[str, Any] | None]:
    with Progress(f"report: reading {records.path.name}", len(records), unit="records") as progress:
        for row in range(len(records)):
            progress.advance(1)
            try:
                yield records[row]
            except BadRecordError:
                yield None
