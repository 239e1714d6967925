"""The offset index of a large data file: where each record begins, found once and kept beside the file.

An index is a safetensors file: `offsets` [N + 1] int64 (the last one is the end of the last record), and in its
metadata what the data file was when it was read: size, modification and change time, a digest of samples of its bytes,
and the SHA-256 of all of them. It is used when all that still holds and its own checksums, of the metadata and of the
offsets, fit; otherwise it is made again. Offsets are read from it one at a time, so that memory does not grow with N.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import tempfile
import time
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from icons.atomic import write_parts
from icons.data.open_file import OpenFile
from icons.data.scan import Kind, record_offsets
from icons.errors import UserError

SMALL = 8 << 20
"""Bytes up to which a file is read at every start and gets no index: that takes some hundredths of a second."""
FOLDER = ".icons-cache"

_FORMAT = "icons-offsets-2"
_SAMPLES, _SAMPLE_BYTES = 32, 4096
_LARGEST_HEADER = 1 << 16

Facts = dict[str, str]
"""What an index is for: the data file's state and how it is read."""


@dataclass(frozen=True)
class StoredOffsets:
    """`len` of them, read by position at `start` in a file; `sha256` is that of the data file."""

    file: OpenFile
    start: int
    length: int
    sha256: str

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place: int) -> int:
        begin = self.start + 8 * place
        return int.from_bytes(self.file.read(begin, begin + 8), "little", signed=True)


def open_offsets(path: Path, file: OpenFile, kind: Kind) -> StoredOffsets:
    """The offsets of `file`, opened at `path`: from an index, or by reading the file and leaving one.

    Of many processes that start at the same time one reads the file, the others wait for it. The index lies in
    `.icons-cache` beside the data; where that cannot be written, in the user's cache folder; where that cannot be
    either, it is a temporary file of this process.

    Raises ValueError (RecursionError) for a list that is not well-formed, UserError when the file is being written to.
    """
    facts, places = {**_facts(file), "kind": kind}, _places(path)
    for place in places:
        if (stored := _read(place, facts)) is not None:
            return stored
    for place in places:
        try:
            return _build_once(place, path, file, kind, facts)
        except OSError:
            continue  # read-only, no room: the next place may do
    with tempfile.TemporaryFile() as spool:
        count, sha256, _ = _scan(path, file, kind, spool)
        return StoredOffsets(OpenFile(os.dup(spool.fileno())), 0, count, sha256)


def known_sha256(path: Path) -> str | None:
    """SHA-256 of a file that has a fitting index, without reading it; None for any other."""
    places = [place for place in _places(path) if os.path.isfile(place)]  # false, too, where one may not look
    if not places:
        return None
    facts = _facts(OpenFile.at(path))
    stored = next((found for place in places if (found := _read(place, facts)) is not None), None)
    return stored.sha256 if stored else None


def _places(path: Path) -> list[Path]:
    """Where an index of this file may lie, the best place first."""
    path = path.resolve()
    places = [path.parent / FOLDER / f"{path.name}.safetensors"]
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if os.path.isabs(cache):
        name = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
        places.append(Path(cache) / "icons" / f"{name}.safetensors")
    return places


def _facts(file: OpenFile) -> Facts:
    stat, sample = file.stat(), hashlib.sha256()
    last = max(0, stat.st_size - _SAMPLE_BYTES)
    for number in range(_SAMPLES):
        start = last * number // (_SAMPLES - 1)
        sample.update(file.read(start, start + _SAMPLE_BYTES))
    return {
        "format": _FORMAT,
        "size": str(stat.st_size),
        "mtime_ns": str(stat.st_mtime_ns),
        "ctime_ns": str(stat.st_ctime_ns),  # moves with every change, also when the modification time is set back
        "sample": sample.hexdigest(),
    }


def _read(place: Path, facts: Facts) -> StoredOffsets | None:
    """The index at `place` when it is whole and of these facts."""
    try:
        file = OpenFile.at(place)
        size = int.from_bytes(file.read(0, 8), "little")
        if size > _LARGEST_HEADER:
            return None
        header, start = json.loads(file.read(8, 8 + size)), 8 + size
        metadata, (count,) = header["__metadata__"], header["offsets"]["shape"]
        if metadata.pop("seal") != _seal(metadata):
            return None
        if not facts.items() <= metadata.items() or file.stat().st_size != start + 8 * count:
            return None
        if _checksum(file.blocks(start)) != metadata["crc32"]:
            return None
        return StoredOffsets(file, start, count, metadata["sha256"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _build_once(place: Path, path: Path, file: OpenFile, kind: Kind, facts: Facts) -> StoredOffsets:
    """Makes the index at `place`, or takes the one that another process made meanwhile; OSError when it cannot."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("a") as lock:
        # Where locks do not work, or their holder hangs, the work is done again: the result is the same.
        last = time.monotonic() + 60 + int(facts["size"]) / 20e6
        while not _locked(lock) and time.monotonic() < last:
            time.sleep(0.2)
            if (stored := _read(place, facts)) is not None:
                return stored
        if (stored := _read(place, facts)) is not None:
            return stored
        _let_the_clock_move(file)
        with tempfile.TemporaryFile(dir=place.parent) as spool:
            count, sha256, checksum = _scan(path, file, kind, spool)
            offsets = OpenFile(os.dup(spool.fileno()))
            metadata = {**facts, "sha256": sha256, "crc32": checksum}
            write_parts(place, _safetensors({**metadata, "seal": _seal(metadata)}, count, offsets))
    if (stored := _read(place, facts)) is not None:
        return stored
    raise OSError(errno.EIO, "an index does not read back as it was written", str(place))


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # this file system has no locks
    return True


def _let_the_clock_move(file: OpenFile) -> None:
    """Waits until a later change of the file must get another time than it has now."""
    stat = file.stat()
    newest = max(stat.st_mtime_ns, stat.st_ctime_ns)
    step = 2.0 if newest % 1_000_000_000 == 0 else 0.05  # whole seconds: a file system that counts no finer
    time.sleep(min(step, max(0.0, step - (time.time() - newest / 1e9))))


def _scan(path: Path, file: OpenFile, kind: Kind, spool: IO[bytes]) -> tuple[int, str, str]:
    """Writes the offsets to `spool`; their count, the data file's SHA-256 and the offsets' checksum."""
    before, total = file.stat(), hashlib.sha256()

    def hashed() -> Iterator[bytes]:
        for block in file.blocks():
            total.update(block)
            yield block

    count, crc = 0, 0
    for offsets in record_offsets(kind, hashed()):
        content = offsets.astype("<i8").tobytes()
        crc = zlib.crc32(content, crc)
        spool.write(content)
        count += len(offsets)
    spool.flush()
    after = file.stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise UserError(f"{path}: changed while it was read; run again when it is complete")
    return count, total.hexdigest(), f"{crc:08x}"


def _seal(metadata: Facts) -> str:
    """Hex SHA-256 of an index's metadata."""
    return hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()


def _checksum(blocks: Iterator[bytes]) -> str:
    crc = 0
    for block in blocks:
        crc = zlib.crc32(block, crc)
    return f"{crc:08x}"


def _safetensors(metadata: Facts, count: int, offsets: OpenFile) -> Iterator[bytes]:
    """The bytes of a safetensors file with one tensor, which need not fit in memory."""
    tensor = {"dtype": "I64", "shape": [count], "data_offsets": [0, 8 * count]}
    header = json.dumps({"__metadata__": metadata, "offsets": tensor}).encode()
    header += b" " * (-len(header) % 8)
    yield len(header).to_bytes(8, "little") + header
    yield from offsets.blocks()


def offsets_in_memory(file: OpenFile, kind: Kind) -> array[int]:
    """The offsets of a small file."""
    offsets = array("q")
    for part in record_offsets(kind, file.blocks()):
        offsets.frombytes(part.tobytes())
    return offsets
