"""The answers of two selections beside those of all the data, for `icons compare`."""

from __future__ import annotations

from typing import Any

import numpy as np

from icons.data.records import Records
from icons.data.source import record_source
from icons.errors import BadRecordError
from icons.progress import Progress
from icons.selection.answers import AnswerBook, answers_by_source, first_answer
from icons.selection.compare import Int64


def compare_answers(records: Records, rows_a: Int64, rows_b: Int64) -> list[dict[str, Any]]:
    """A row for each source with answers that repeat, from one pass over the training data.

    Of each selection: distinct answers, total variation from the data, that of random draws of its size; and the most
    frequent answers with their shares in the data, in A and in B.
    """
    count, sources, book = len(records), AnswerBook(), AnswerBook()
    source_N, answer_N = np.zeros(count, np.int32), np.zeros(count, np.int32)
    with Progress(f"answers of {records.path.name}", count, unit="records") as progress:
        for row in range(count):
            progress.advance(1)
            try:
                record = records[row]
            except BadRecordError:
                record = {}
            source_N[row], answer_N[row] = sources.number(record_source(record)), book.number(first_answer(record))
    sides = {}
    for side, rows in (("a", rows_a), ("b", rows_b)):
        selected_N = np.zeros(count, np.bool_)
        selected_N[rows] = True
        each = answers_by_source(sources.answers, source_N, book.answers, answer_N, selected_N)
        sides[side] = {row.source: row for row in each}
    table = []
    for source, a in sides["a"].items():
        b = sides["b"].get(source)
        if b is None:
            continue
        in_b = {answer: got for answer, _, got in b.top}
        table.append(
            {
                "source": source,
                "records": a.in_data,
                "distinct": a.distinct,
                **{
                    side: {
                        "distinct": row.distinct_selected,
                        "distance": row.distance,
                        "by_chance": row.by_chance,
                        "skewed": row.skewed,
                    }
                    for side, row in (("a", a), ("b", b))
                },
                "top": [
                    {"answer": answer, "data": had, "a": got, "b": in_b[answer]}
                    for answer, had, got in a.top
                    if answer in in_b
                ],
            }
        )
    return table
