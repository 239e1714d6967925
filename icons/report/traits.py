"""What the page counts of every training record, from one pass over the data file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from icons.data.source import record_images, record_source
from icons.plain import plain
from icons.selection.answers import AnswerBook, first_answer

UNREADABLE = "(unreadable)"
NAME = 120
"""Characters of a source's, an image's or a record's name that the page shows at most."""
_MOST = 30_000  # of turns or images, where a record has more


@dataclass(frozen=True)
class Traits:
    """`source_N` int32 indexes `sources`; `answers_N` int16 counts gpt turns, `images_N` int16 images.

    `answer_N` int32 indexes `answers`, the first answers as `selection.answers.first_answer` has them.
    """

    sources: list[str]
    source_N: npt.NDArray[np.int32]
    answers_N: npt.NDArray[np.int16]
    images_N: npt.NDArray[np.int16]
    answers: list[str]
    answer_N: npt.NDArray[np.int32]


def read_traits(records: Iterable[dict[str, Any] | None], count: int) -> Traits:
    """Traits of `count` records; None stands for one that cannot be read."""
    numbers: dict[str, int] = {}
    source_N = np.zeros(count, np.int32)
    answers_N, images_N = np.zeros(count, np.int16), np.zeros(count, np.int16)
    book, answer_N = AnswerBook(), np.zeros(count, np.int32)
    for row, record in enumerate(records):
        name = UNREADABLE if record is None else record_source(record)
        source_N[row] = numbers.setdefault(name, len(numbers))
        if record is not None:
            answers_N[row] = min(_answers(record.get("conversations")), _MOST)
            images_N[row] = min(len(record_images(record)), _MOST)
            answer_N[row] = book.number(first_answer(record))
    return Traits([plain(name, NAME) for name in numbers], source_N, answers_N, images_N, book.answers, answer_N)


def _answers(conversations: Any) -> int:
    if not isinstance(conversations, list):
        return 0
    return sum(isinstance(turn, dict) and turn.get("from") == "gpt" for turn in conversations)
