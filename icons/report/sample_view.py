"""One sample as the page shows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from icons.data.source import record_images, record_source
from icons.plain import plain
from icons.report.conversation import Shortened, shortened
from icons.report.drawing import clip
from icons.report.material import Material
from icons.report.samples import Kind, kinds, percentiles
from icons.report.thumbnails import Thumbnail, bytes_each
from icons.report.traits import NAME, UNREADABLE
from icons.selection.compare import Int64

_MOST_IMAGES = 2


@dataclass(frozen=True)
class TaskScore:
    """A task's score of one sample; `percentile` among the valid rows, `own`: in the task's own top p%."""

    task: str
    short: str
    score: str
    percentile: int
    own: bool


@dataclass(frozen=True)
class SampleView:
    """`place` counts from 1 in the ranking; `error` stands in the place of a record that cannot be read."""

    row: int
    id: str
    source: str
    kinds: Sequence[Kind]
    chosen: bool
    place: int
    votes: int
    value: str
    scores: Sequence[TaskScore]
    tokens: str
    loss: str
    norm: str
    images: Sequence[Thumbnail]
    more_images: int
    text: Shortened
    error: str


def sample_views(
    m: Material,
    order: Int64,
    record: Callable[[int], dict[str, Any] | str],
    picture: Callable[[int, int, object, int], Thumbnail],
) -> tuple[list[Kind], list[SampleView]]:
    """The kinds of sample that there are, and each sample once, in their order; `order` is the ranking.

    `record` gives a row's record, or why it cannot be read; `picture` a thumbnail of an image, by row, position,
    what stands under `image`, and the bytes it may take.
    """
    shown_kinds = [kind for kind in kinds(order, m.focus.selected, ranked=m.ranked) if len(kind.rows)]
    places = np.zeros(len(m.valid), np.int64)
    places[order] = np.arange(1, len(order) + 1)
    of_row: dict[int, list[Kind]] = {}
    for kind in shown_kinds:
        for row in kind.rows.tolist():
            of_row.setdefault(row, []).append(kind)
    rows = list(of_row)
    percent_RK = percentiles(m.scores.scores, m.valid, rows)
    records = [record(row) for row in rows]
    most = bytes_each(sum(len(_pictures(each)) for each in records))

    def of_this_page(row: int, position: int, name: object) -> Thumbnail:
        return picture(row, position, name, most)

    views = [
        _view(m, row, of_row[row], int(places[row]), percent_K, shown, of_this_page)
        for row, percent_K, shown in zip(rows, percent_RK, records, strict=True)
    ]
    return shown_kinds, views


def _pictures(record: dict[str, Any] | str) -> list[Any]:
    """What stands under `image` or `images`, as far as the page shows it."""
    return record_images(record)[:_MOST_IMAGES] if isinstance(record, dict) else []


def _view(
    m: Material,
    row: int,
    of_kinds: list[Kind],
    place: int,
    percent_K: npt.NDArray[np.float64],
    record: dict[str, Any] | str,
    picture: Callable[[int, int, object], Thumbnail],
) -> SampleView:
    fields: dict[str, Any] = record if isinstance(record, dict) else {}
    images = record_images(fields)
    name = fields.get("id")
    scores = [
        TaskScore(task, clip(task, 18), f"{m.scores.scores[row, k]:.4f}", int(percent_K[k]), bool(m.own_tops[k][row]))
        for k, task in enumerate(m.tasks)
    ]
    return SampleView(
        row=row,
        id="" if name is None else plain(str(name), NAME),
        source=plain(record_source(fields), NAME) if isinstance(record, dict) else UNREADABLE,
        kinds=of_kinds,
        chosen=bool(m.focus.selected[row]),
        place=place,
        votes=int(m.focus.votes[row]),
        value="" if m.focus.by_votes else f"{m.focus.values[row]:.5g}",
        scores=scores,
        tokens="" if m.tokens_N is None else f"{m.tokens_N[row]:,}",
        loss=f"{m.scores.losses[row]:.3f}",
        norm=f"{m.scores.norms[row]:.3g}",
        images=[picture(row, at, image) for at, image in enumerate(_pictures(record))],
        more_images=max(0, len(images) - _MOST_IMAGES),
        text=shortened(fields.get("conversations")),
        error=record if isinstance(record, str) else "",
    )
