"""The comparison itself sees what a program could get wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.clients import material
from tests.clients.reading import Row, compare


def test_what_is_read_otherwise_is_counted(ours: list[Row], root: Path) -> None:
    model = root / material.MODEL
    shown = [at for at, row in enumerate(ours) if row.pixels is not None]
    same = compare(ours, ours, model)
    assert same.rows == same.images == same.ids == same.labels == same.predicted == len(ours) == material.ROWS // 2
    assert same.pixels_most == 0
    assert not same.differences

    swapped = list(ours)
    one, other = shown[0], next(at for at in shown if ours[at].ids != ours[shown[0]].ids)
    swapped[one], swapped[other] = swapped[other], swapped[one]
    assert compare(swapped, ours, model).images == compare(swapped, ours, model).ids == len(ours) - 2
    assert compare(ours[1:], ours, model).rows == len(ours) - 1

    headless = [replace(row, ids=row.ids[1:], labels=row.labels[1:]) for row in ours]
    read = compare(headless, ours, model)
    assert read.differences == {("", "<s>", ""): len(ours)}
    assert (read.ids, read.labels, read.predicted) == (0, 0, len(ours))
    learning_all = [replace(row, labels=row.ids) for row in ours]
    assert compare(learning_all, ours, model).predicted == 0
