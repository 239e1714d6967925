"""Selections as `icons compare` reads them: index files, data files, and the training file that ties them together."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from icons.data.open_file import OpenFile
from icons.data.records import Records
from icons.data.sets import open_records
from icons.data.source import record_images, record_source
from icons.errors import BadRecordError, UserError
from icons.progress import Progress
from icons.selection.compare import Int64
from icons.store.files import Array, read_tensors
from icons.store.indices import RECORD_KEYS, IndexFile, read_indices
from icons.store.layout import VOTES


@dataclass(frozen=True)
class Member:
    """A record as far as a comparison looks at it; `content` is a digest of id, image and conversations."""

    id: str | None
    content: bytes
    source: str


@dataclass(frozen=True)
class Selection:
    """An index file has `rows` [n] of the training file, a data file `members`.

    `votes` [N] int16 is what lies in votes.safetensors beside an index file, `tasks` who cast them.
    """

    path: Path
    rows: Int64 | None = None
    members: list[Member] | None = None
    num_train: int | None = None
    votes: Array | None = None
    tasks: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows if self.rows is not None else self.members or [])


def member(records: Records, row: int) -> Member:
    """The source is the record's `source`, else the first folder of its image path."""
    record = records[row]
    name = record.get("id")
    images = [
        records.image_key(row, at, image) if isinstance(image, str) else image
        for at, image in enumerate(record_images(record))
    ]
    # An id is the same as text and as number: copies for other trainers have text alone.
    key = None if name is None or name == "" else name if isinstance(name, str) else json.dumps(name)
    text = json.dumps([key, images, record.get("conversations")], sort_keys=True)
    return Member(key, hashlib.blake2b(text.encode(), digest_size=16).digest(), record_source(record))


def read_selection(path: Path) -> Selection:
    """Raises UserError when the file is neither a list of row numbers nor records, or is not as icons wrote it."""
    if path.is_dir():
        return _of_records(path)
    try:
        file = OpenFile.at(path)
        head = file.read(0, 4096).lstrip(b"\xef\xbb\xbf \t\r\n")
        first = b"" if head.startswith(b"[") else _first_line(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    inside = head[1:].lstrip()
    numbers = head.startswith(b"[") and (inside[:1].isdigit() or inside[:1] == b"-")
    if numbers or (head.startswith(b"{") and not _is_record(first)):
        return _index_file(read_indices(path))
    return _of_records(path)


def _of_records(path: Path) -> Selection:
    records = open_records(path)
    return Selection(path, members=[member(records, row) for row in range(len(records))])


def _first_line(file: OpenFile) -> bytes:
    """The first line that is not blank, as far as it lies in the first MiB."""
    lines = file.read(0, 1 << 20).split(b"\n")
    return next((line for line in lines if line.strip()), b"")


def _is_record(line: bytes) -> bool:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and bool(record.keys() & RECORD_KEYS)


def _index_file(index: IndexFile) -> Selection:
    votes, num_train = None, index.num_train
    if (index.path.parent / VOTES).is_file():
        beside = index.require_file(VOTES)
        votes = read_tensors(beside, ["votes"])["votes"]
        num_train = len(votes) if num_train is None else num_train
        if num_train != len(votes):
            raise UserError(f"{beside} holds votes of {len(votes)} records, {index.path} was made of {num_train}")
        if index.rows[-1] >= num_train:
            raise UserError(f"{index.path}: row {index.rows[-1]} is not one of {num_train} training records")
    return Selection(index.path, np.array(index.rows, np.int64), None, num_train, votes, index.tasks)


@dataclass(frozen=True)
class Training:
    """What of the training file a comparison needs.

    `members` are those at the rows asked for; `ids` counts the ids of the chosen records, `contents` holds the contents
    of the records that have one of these ids, or none.
    """

    members: dict[int, Member]
    ids: Counter[str]
    contents: set[bytes]

    def holds(self, member: Member) -> bool:
        return (member.id is not None and self.ids[member.id] == 1) or member.content in self.contents


def read_training(records: Records, rows: Iterable[int], members: list[Member]) -> Training:
    """One pass over the file; of index files alone (`chosen` empty) only their own rows are read."""
    rows, ids = set(rows), {one.id for one in members}
    training = Training({}, Counter(), set())
    asked = range(len(records)) if members else sorted(rows)
    with Progress(f"reading {records.path.name}", len(asked), unit="records") as progress:
        for row in asked:
            progress.advance(1)
            try:
                one = member(records, row)
            except BadRecordError:
                if row in rows:
                    raise
                continue  # a record that nobody could select
            if row in rows:
                training.members[row] = one
            if one.id in ids or one.id is None:
                training.contents.add(one.content)
            if one.id is not None and one.id in ids:
                training.ids[one.id] += 1
    return training


def numbered(sides: list[list[Member]], by_id: set[str]) -> list[Int64]:
    """A number for every member, equal where two sides have the same record and distinct within a side.

    Records whose id is in `by_id` are the same when their ids are, others when their contents are. Equal records on
    one side are told apart by counting: the second one is the other side's second one.
    """
    numbers: dict[Hashable, int] = {}
    result = []
    for side in sides:
        seen: Counter[Hashable] = Counter()
        of_side = []
        for member in side:
            key: Hashable = member.id if member.id in by_id else member.content
            seen[key] += 1
            of_side.append(numbers.setdefault((key, seen[key]), len(numbers)))
        result.append(np.array(of_side, np.int64))
    return result
