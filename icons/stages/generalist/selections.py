"""Selections as `icons compare` reads them: index files, data files, and the training file that ties them together."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from icons.data.records import Records, open_records
from icons.data.source import record_images, record_source
from icons.errors import BadRecordError, UserError
from icons.progress import Progress
from icons.selection.compare import Int64
from icons.store.files import Array, read_tensors
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


def member(record: dict[str, Any]) -> Member:
    """The source is the record's `source`, else the first folder of its image path."""
    name, images = record.get("id"), record_images(record)
    text = json.dumps([name, images, record.get("conversations")], sort_keys=True)
    key = None if name is None or name == "" else name if isinstance(name, str) else json.dumps(name)
    return Member(key, hashlib.blake2b(text.encode(), digest_size=16).digest(), record_source(record))


def read_selection(path: Path) -> Selection:
    """Raises UserError when the file is neither a list of row numbers nor LLaVA records."""
    try:
        with path.open("rb") as file:
            head = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
            file.seek(0)
            first = b"" if head.startswith(b"[") else next((line for line in file if line.strip()), b"")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    inside = head[1:].lstrip()
    if head.startswith(b"[") and (inside[:1].isdigit() or inside[:1] == b"-"):
        return _index_file(path, {"indices": _parsed(path)})
    if head.startswith(b"{") and not _is_record(first):
        content = _parsed(path)
        if "indices" not in content:
            raise UserError(f"{path}: one JSON object without 'indices'; expected an index file, or a list of records")
        return _index_file(path, content)
    records = open_records(path)
    return Selection(path, members=[member(records[row]) for row in range(len(records))])


def _is_record(line: bytes) -> bool:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and bool(record.keys() & {"id", "image", "conversations"})


def _parsed(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise UserError(f"{path} line {error.lineno}: broken JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None


def _index_file(path: Path, content: dict[str, Any]) -> Selection:
    indices, num_train, tasks = content["indices"], content.get("num_train"), content.get("tasks")
    if not isinstance(indices, list):
        raise UserError(f"{path}: 'indices' is no list of row numbers")
    for index in indices:
        if type(index) is not int or not 0 <= index < 2**63:
            raise UserError(f"{path}: {index!r} is no row number; expected whole numbers from 0")
    twice = next((index for index, times in Counter(indices).items() if times > 1), None)
    if twice is not None:
        raise UserError(f"{path}: row {twice} is listed more than once")
    if num_train is not None and type(num_train) is not int:
        raise UserError(f"{path}: num_train is {num_train!r}, expected a number of records")
    votes, beside = None, path.parent / VOTES
    if beside.is_file():
        votes = read_tensors(beside, ["votes"])["votes"]
        if num_train is None:
            num_train = len(votes)
        elif num_train != len(votes):
            raise UserError(f"{beside} holds votes of {len(votes)} records, {path} was made of {num_train}")
    if num_train is not None and max(indices, default=0) >= num_train:
        raise UserError(f"{path}: row {max(indices, default=0)} is not one of {num_train} training records")
    names = [str(task) for task in tasks] if isinstance(tasks, list) else []
    return Selection(path, np.array(indices, np.int64), None, num_train, votes, names)


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
                one = member(records[row])
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
