"""Gradient rows on disk: a folder of shards with a manifest that lists the finished ones.

A shard holds, for consecutive rows of a data file: `rows` int64, `grads` [n, d] float16 unit rows, `norms` float32
(exact L2 norm of the whole LoRA gradient), `losses` float32, `target_tokens` int32, `valid` bool. The manifest is
rewritten after each shard; a shard that it does not list does not count, and is computed again. One that is lost leaves
a gap, which alone is computed again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from icons.errors import UserError
from icons.store.checksum import SHA256_DIGITS, checksum, fits
from icons.store.files import Array, read_sealed, write_sealed, write_tensors
from icons.store.fingerprint import Fingerprint, require_same
from icons.store.tensors import Memory, tensors_in

FORMAT = 3
READABLE = (2, 3)
"""Format 2 had a SHA-256 where 3 has a faster checksum; a folder begun in it goes on in 3, its shards as they are."""


@dataclass(frozen=True)
class Shard:
    """One finished file: rows [start, stop), size and checksum of its bytes, its invalid rows."""

    file: str
    start: int
    stop: int
    bytes: int
    checksum: str
    invalid: int = 0

    def as_json(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "rows": [self.start, self.stop],
            "bytes": self.bytes,
            "sha256" if len(self.checksum) == SHA256_DIGITS else "xxh3_128": self.checksum,
            "invalid": self.invalid,
        }

    def read(
        self, folder: Path, again: str, names: list[str] | None = None, memory: Memory | None = None
    ) -> dict[str, Array]:
        """Tensors of the file in `folder`; a UserError when its bytes are not those that were written.

        `again` says in the message what makes them anew: "run `icons ...`".
        They lie in `memory`, where it is given, and are good until that reads the next file.
        """
        content = self.verified(folder, again, memory or Memory())
        tensors = tensors_in(content)
        return tensors if names is None else {name: tensors[name] for name in names}

    def verified(self, folder: Path, again: str, memory: Memory) -> memoryview:
        """The file's bytes in `memory`, which are those that were written; a UserError, see `read`, when not."""
        path = folder / self.file
        try:
            content = memory.read(path)
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); {again}") from None
        if not fits(content, self.checksum):
            raise UserError(
                f"{path} is not as it was written (its checksum is another than the manifest's); delete it and {again}"
            )
        return content

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Shard:
        start, stop = raw["rows"]
        written = raw["sha256"] if "sha256" in raw else raw["xxh3_128"]
        return cls(raw["file"], start, stop, raw["bytes"], written, raw["invalid"])


@dataclass(frozen=True)
class Manifest:
    """Rows [start, stop) of one data file, the shards finished so far, what they were made of, which rows are bad.

    `seconds` is the time that the shards took, `machines` what computed them (each once; empty where nobody noted it).
    """

    start: int
    stop: int
    fingerprint: Fingerprint
    shards: list[Shard] = field(default_factory=list)
    bad_records: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    machines: list[dict[str, str]] = field(default_factory=list)

    @property
    def rows_done(self) -> int:
        return sum(shard.stop - shard.start for shard in self.shards)

    @property
    def complete(self) -> bool:
        return not self.gaps

    @property
    def gaps(self) -> list[tuple[int, int]]:
        """Row ranges that no shard holds, in order."""
        edges = [self.start, *(edge for shard in self.shards for edge in (shard.start, shard.stop)), self.stop]
        return [(first, second) for first, second in zip(edges[::2], edges[1::2], strict=True) if first < second]


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder, or None where no shard was ever finished; a UserError when it is damaged."""
    path = folder / "manifest.json"
    if not path.is_file():
        return None
    advice = f"delete the folder {folder} and compute it again"
    raw = read_sealed(path, advice)
    try:
        if raw["format"] not in READABLE:
            known = " and ".join(map(str, READABLE))
            raise UserError(f"{path} has format {raw['format']}, this version reads {known}; use a new output_dir")
        shards = [Shard.from_json(shard) for shard in raw["shards"]]
        start, stop = raw["rows"]
        machines = raw.get("machines", [])
        return Manifest(start, stop, raw["fingerprint"], shards, raw["bad_records"], raw["seconds"], machines)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); {advice}") from None


class RowWriter:
    """Continues a folder of shards where it stopped.

    A folder begun with another fingerprint or row range is begun anew with `restart`; without, UserError names the
    field that differs (gradient rows are too dear to be thrown away unasked). Listed shards whose file is
    gone or has another size do not count as finished.
    """

    def __init__(self, folder: Path, start: int, stop: int, fingerprint: Fingerprint, *, restart: bool = False) -> None:
        self.folder = folder
        stored = read_manifest(folder)
        self.manifest = Manifest(start, stop, fingerprint)
        if stored is None:
            return
        expected = {**fingerprint, "rows": [start, stop]}
        begun = {**stored.fingerprint, "rows": [stored.start, stored.stop]}
        if restart and begun != expected:
            return
        advice = f"delete {folder} or use another output_dir"
        require_same(begun, expected, f"{folder} was begun with other inputs", advice)
        kept = [shard for shard in stored.shards if self._is_there(shard)]
        bad = [bad for bad in stored.bad_records if any(shard.start <= bad["row"] < shard.stop for shard in kept)]
        self.manifest = Manifest(start, stop, fingerprint, kept, bad, stored.seconds, stored.machines)

    def _is_there(self, shard: Shard) -> bool:
        path = self.folder / shard.file
        return path.is_file() and path.stat().st_size == shard.bytes

    def windows(self, size: int) -> Iterable[tuple[int, int]]:
        """Row ranges still to be computed, at most `size` rows each."""
        for start, stop in self.manifest.gaps:
            for first in range(start, stop, size):
                yield first, min(first + size, stop)

    def computes_on(self, machine: dict[str, str]) -> None:
        """Notes what the shards that follow are computed on."""
        if machine not in self.manifest.machines:
            self.manifest = replace(self.manifest, machines=[*self.manifest.machines, machine])

    def append(
        self,
        tensors: Mapping[str, Array],
        start: int,
        stop: int,
        invalid: int,
        bad: list[dict[str, Any]],
        seconds: float,
        *,
        listed: bool = True,
    ) -> None:
        """Writes one shard, then the manifest that lists it. Raises ValueError for rows that are there already.

        Of shards that take milliseconds the manifest would be most of the work: without `listed` it is left to the
        next shard that is, or to `write_manifest`. Until then the shard does not count.
        """
        manifest = self.manifest
        if not any(first <= start < stop <= last for first, last in manifest.gaps):
            raise ValueError(f"rows {start} to {stop - 1} are not missing")
        taken = {shard.file for shard in manifest.shards}
        name = next(name for name in map(_shard_file, count()) if name not in taken)
        content = write_tensors(self.folder / name, tensors)
        shard = Shard(name, start, stop, len(content), checksum(content), invalid)
        self.manifest = replace(
            manifest,
            shards=sorted([*manifest.shards, shard], key=lambda each: each.start),
            bad_records=sorted([*manifest.bad_records, *bad], key=lambda each: int(each["row"])),
            seconds=manifest.seconds + seconds,
        )
        if listed:
            self.write_manifest()

    def write_manifest(self) -> None:
        m = self.manifest
        content = {
            "format": FORMAT,
            "rows": [m.start, m.stop],
            "complete": m.complete,
            "fingerprint": m.fingerprint,
            "shards": [shard.as_json() for shard in m.shards],
            "bad_records": m.bad_records,
            "seconds": round(m.seconds, 3),
            "machines": m.machines,
        }
        write_sealed(self.folder / "manifest.json", content)


def _shard_file(number: int) -> str:
    return f"shard-{number:05d}.safetensors"
