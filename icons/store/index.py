"""All chunks of one checkpoint as one table: which rows lie in which shard. Nothing is copied."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from icons.errors import UserError
from icons.store.files import read_json, write_json
from icons.store.fingerprint import Fingerprint, digest
from icons.store.rows import FORMAT, Shard


@dataclass(frozen=True)
class Index:
    """Shards in row order, paths relative to the index file; together they hold rows [0, num_rows)."""

    num_rows: int
    fingerprint: Fingerprint
    shards: list[Shard]
    folder: Path

    def path(self, shard: Shard) -> Path:
        return self.folder / shard.file

    @property
    def digest(self) -> str:
        """16 hex digits for the fingerprint and the bytes of every shard."""
        return digest({**self.fingerprint, "shards": [shard.sha256 for shard in self.shards]})


def write_index(path: Path, index: Index) -> None:
    shards = [shard.as_json() for shard in index.shards]
    content = {
        "format": FORMAT,
        "num_rows": index.num_rows,
        "fingerprint": index.fingerprint,
        "shards": shards,
    }
    write_json(path, content)


def read_index(path: Path) -> Index:
    """Raises UserError when there is none, or when it is damaged."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; run `icons merge` first")
    raw = read_json(path)
    try:
        shards = [Shard.from_json(shard) for shard in raw["shards"]]
        return Index(raw["num_rows"], raw["fingerprint"], shards, path.parent)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); run `icons merge` again") from None
