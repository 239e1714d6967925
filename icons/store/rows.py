"""Gradient rows on disk: a folder of shards with a manifest that lists the finished ones.

A shard holds, for consecutive rows of a data file: `rows` int64, `grads` [n, d] float16 unit rows, `norms` float32
(exact L2 norm of the whole LoRA gradient), `losses` float32, `target_tokens` int32, `valid` bool. The manifest is
rewritten after each shard; a shard that it does not list does not count, and is computed again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icons.errors import UserError
from icons.store.files import Array, read_json, write_json, write_tensors
from icons.store.fingerprint import Fingerprint, require_same
from icons.store.tensors import Memory, tensors_in

FORMAT = 1


@dataclass(frozen=True)
class Shard:
    """One finished file: rows [start, stop), size and SHA-256 of its bytes, its invalid rows."""

    file: str
    start: int
    stop: int
    bytes: int
    sha256: str
    invalid: int = 0

    def as_json(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "rows": [self.start, self.stop],
            "bytes": self.bytes,
            "sha256": self.sha256,
            "invalid": self.invalid,
        }

    def read(self, folder: Path, names: list[str] | None = None, memory: Memory | None = None) -> dict[str, Array]:
        """Tensors of the file in `folder`; a UserError when its bytes are not those that were written.

        They lie in `memory`, where it is given, and are good until that reads the next file.
        """
        path = folder / self.file
        try:
            content = (memory or Memory()).read(path)
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror}); compute its folder's missing shards again"
            ) from None
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise UserError(
                f"{path} is not as it was written (its SHA-256 differs from the manifest's); delete this file and run "
                "the command that wrote it, then `icons merge`"
            )
        tensors = tensors_in(content)
        return tensors if names is None else {name: tensors[name] for name in names}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Shard:
        start, stop = raw["rows"]
        return cls(raw["file"], start, stop, raw["bytes"], raw["sha256"], raw["invalid"])


@dataclass(frozen=True)
class Manifest:
    """Rows [start, stop) of one data file, the shards finished so far, what they were made of, which rows are bad."""

    start: int
    stop: int
    fingerprint: Fingerprint
    shards: list[Shard] = field(default_factory=list)
    bad_records: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def next_row(self) -> int:
        return self.shards[-1].stop if self.shards else self.start

    @property
    def complete(self) -> bool:
        return self.next_row == self.stop


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder, or None where no shard was ever finished; a UserError when it is damaged."""
    path = folder / "manifest.json"
    if not path.is_file():
        return None
    raw = read_json(path)
    try:
        if raw["format"] != FORMAT:
            raise UserError(f"{path} has format {raw['format']}, this version reads {FORMAT}; use a new output_dir")
        shards = [Shard.from_json(shard) for shard in raw["shards"]]
        start, stop = raw["rows"]
        return Manifest(start, stop, raw["fingerprint"], shards, raw["bad_records"], raw["seconds"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); delete the folder {folder} and compute it again") from None


class RowWriter:
    """Continues a folder of shards where it stopped.

    A folder begun with another fingerprint or row range is begun anew with `restart`; without, UserError names the
    field that differs (gradient rows are too dear to be thrown away unasked). Listed shards whose file is
    gone or has another size do not count as finished, nor do those behind them.
    """

    def __init__(self, folder: Path, start: int, stop: int, fingerprint: Fingerprint, *, restart: bool = False) -> None:
        self.folder = folder
        found = read_manifest(folder)
        self.manifest = Manifest(start, stop, fingerprint)
        if found is None:
            return
        wanted = {**fingerprint, "rows": [start, stop]}
        begun = {**found.fingerprint, "rows": [found.start, found.stop]}
        if restart and begun != wanted:
            return
        advice = f"delete {folder} or use another output_dir"
        require_same(begun, wanted, f"{folder} was begun with other inputs", advice)
        kept: list[Shard] = []
        for shard in found.shards:
            path = folder / shard.file
            if not path.is_file() or path.stat().st_size != shard.bytes:
                break
            kept.append(shard)
        reached = kept[-1].stop if kept else start
        bad = [record for record in found.bad_records if record["row"] < reached]
        self.manifest = Manifest(start, stop, fingerprint, kept, bad, found.seconds)

    def windows(self, size: int) -> Iterable[tuple[int, int]]:
        """Row ranges still to be computed, `size` rows each."""
        for first in range(self.manifest.next_row, self.manifest.stop, size):
            yield first, min(first + size, self.manifest.stop)

    def append(
        self,
        tensors: Mapping[str, Array],
        start: int,
        stop: int,
        invalid: int,
        bad: list[dict[str, Any]],
        seconds: float,
    ) -> None:
        """Writes one shard, then the manifest that lists it."""
        manifest = self.manifest
        if start != manifest.next_row:
            raise ValueError(f"shard begins at row {start}, expected {manifest.next_row}")
        name = f"shard-{len(manifest.shards):05d}.safetensors"
        written = write_tensors(self.folder / name, tensors)
        shard = Shard(name, start, stop, written["bytes"], written["sha256"], invalid)
        self.manifest = Manifest(
            manifest.start,
            manifest.stop,
            manifest.fingerprint,
            [*manifest.shards, shard],
            [*manifest.bad_records, *bad],
            manifest.seconds + seconds,
        )
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
        }
        write_json(self.folder / "manifest.json", content)
