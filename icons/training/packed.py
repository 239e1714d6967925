"""Many samples in little memory: ids and labels in two flat arrays instead of Python lists.

As lists, 1,200 tokens (a LLaVA sample's) take 38 KB, and every process that decodes images would get a copy of its own
as soon as it touches them; as int32 they take 10 KB and stay shared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import overload

import numpy as np
import numpy.typing as npt

from icons.data.samples import BadRecord, DataSource, Sample
from icons.data.tokens import IGNORE, Tokens
from icons.progress import Progress

ROWS_AT_ONCE = 1024
NO_TOKENS = Tokens([], [])


class PackedSamples(Sequence[Sample]):
    """A sequence of samples that keeps their tokens packed; `heads` are the samples without tokens."""

    def __init__(self, parts: Iterator[list[Sample]]) -> None:
        self.heads: list[Sample] = []
        ids, labels, lengths = [], [], [np.zeros(1, np.int64)]
        for part in parts:
            self.heads += [replace(sample, tokens=NO_TOKENS) for sample in part]
            ids += [np.array(sample.tokens.ids, np.int32) for sample in part]
            labels += [np.array(sample.tokens.labels, np.int32) for sample in part]
            lengths.append(np.array([len(sample.tokens.ids) for sample in part], np.int64))
        self._ids = np.concatenate(ids) if ids else np.zeros(0, np.int32)
        self._labels = np.concatenate(labels) if labels else np.zeros(0, np.int32)
        self._ends = np.cumsum(np.concatenate(lengths))

    def target_tokens(self) -> npt.NDArray[np.int64]:
        """[n]: how many tokens of each sample are predicted, told from those before them."""
        predicted = self._labels != IGNORE
        predicted[self._ends[:-1]] = False  # nothing stands before a sample's first token
        return np.diff(np.concatenate([np.zeros(1, np.int64), np.cumsum(predicted)])[self._ends])

    def __len__(self) -> int:
        return len(self.heads)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        span = slice(self._ends[position], self._ends[position + 1])
        return replace(self.heads[position], tokens=Tokens(self._ids[span].tolist(), self._labels[span].tolist()))


def pack_samples(
    source: DataSource, rows: Sequence[int], left_out: set[int], title: str
) -> tuple[PackedSamples, list[BadRecord]]:
    """Encodes `rows` but for those `left_out`, a part at a time; the bad ones come back in row order."""
    bad: list[BadRecord] = []

    def parts() -> Iterator[list[Sample]]:
        with Progress(title, len(rows)) as progress:
            for start in range(0, len(rows), ROWS_AT_ONCE):
                part = rows[start : start + ROWS_AT_ONCE]
                samples, refused = source.samples([row for row in part if row not in left_out])
                bad.extend(refused)
                progress.advance(len(part))
                yield samples

    return PackedSamples(parts()), bad
