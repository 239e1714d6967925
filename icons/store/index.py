"""All chunks of one checkpoint as one table: which rows lie in which shard. Nothing is copied."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from icons.errors import UserError
from icons.store.files import read_sealed, write_sealed
from icons.store.fingerprint import Fingerprint, digest
from icons.store.rows import FORMAT, Shard
from icons.store.tensors import read_ahead


@dataclass(frozen=True)
class Index:
    """Shards in row order, paths relative to the index file; together they hold rows [0, num_rows).

    `checked` has, by file, the modification time (ns) at which its bytes were found to be those that were written;
    `seconds` is how long the merge took that wrote this.
    """

    num_rows: int
    fingerprint: Fingerprint
    shards: list[Shard]
    folder: Path
    checked: dict[str, int] = field(default_factory=dict)
    seconds: float | None = field(default=None, compare=False)

    def path(self, shard: Shard) -> Path:
        return self.folder / shard.file

    def read_ahead(self, number: int) -> None:
        """Lets the disk begin with a shard that will be wanted soon; there need be none of that number."""
        if number < len(self.shards):
            read_ahead(self.path(self.shards[number]))

    @property
    def digest(self) -> str:
        """16 hex digits for the fingerprint and the bytes of every shard."""
        return digest({**self.fingerprint, "shards": [shard.checksum for shard in self.shards]})


def recompute(shard: Shard) -> str:
    """What to run for a training shard's bytes to be made anew."""
    chunk = re.match(r"chunk-(\d+)-of-", shard.file)
    return f"run `icons train-grads{f' --chunk {int(chunk[1])}' if chunk else ''}`, then `icons merge`"


def write_index(path: Path, index: Index) -> None:
    shards = [shard.as_json() for shard in index.shards]
    content = {
        "format": FORMAT,
        "num_rows": index.num_rows,
        "fingerprint": index.fingerprint,
        "shards": shards,
        "checked": index.checked,
        "seconds": index.seconds,
    }
    write_sealed(path, content)


def read_index(path: Path) -> Index:
    """Raises UserError when there is none, or when it is damaged."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; run `icons merge` first")
    raw = read_sealed(path, "run `icons merge` again")
    try:
        shards = [Shard.from_json(shard) for shard in raw["shards"]]
        return Index(raw["num_rows"], raw["fingerprint"], shards, path.parent, raw["checked"], raw.get("seconds"))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); run `icons merge` again") from None
