"""Shards of this version and of the one before: read, checked, and gone on with in one folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from icons.errors import UserError
from icons.store.files import Array, read_sealed, write_sealed
from icons.store.rows import RowWriter, read_manifest


def rows(start: int, stop: int) -> dict[str, Array]:
    return {"rows": np.arange(start, stop), "norms": np.ones(stop - start, np.float32)}


def as_format_2(folder: Path) -> None:
    """Rewrites the manifest as the version before wrote it."""
    manifest = read_sealed(folder / "manifest.json", "")
    for shard in manifest["shards"]:
        del shard["xxh3_128"]
        shard["sha256"] = hashlib.sha256((folder / shard["file"]).read_bytes()).hexdigest()
    write_sealed(folder / "manifest.json", {**manifest, "format": 2})


@pytest.mark.parametrize("old", [False, True])
def test_every_flipped_bit_is_found(old: bool, tmp_path: Path) -> None:
    RowWriter(tmp_path, 0, 9, {"data": "x"}).append(rows(0, 5), 0, 5, 0, [], 1.0)
    if old:
        as_format_2(tmp_path)
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    (shard,) = manifest.shards
    assert len(shard.checksum) == (64 if old else 32)
    assert shard.read(tmp_path, "")["rows"].tolist() == [0, 1, 2, 3, 4]
    path = tmp_path / shard.file
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        broken = bytearray(whole)
        broken[at] ^= 1 << at % 8
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"not as it was written .*; delete it and run it again"):
            shard.read(tmp_path, "run it again")


def test_a_folder_of_the_version_before_is_gone_on_with(tmp_path: Path) -> None:
    RowWriter(tmp_path, 0, 9, {"data": "x"}).append(rows(0, 5), 0, 5, 0, [], 1.0)
    as_format_2(tmp_path)
    writer = RowWriter(tmp_path, 0, 9, {"data": "x"})
    writer.append(rows(5, 9), 5, 9, 0, [], 1.0)
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert manifest.complete
    assert [len(shard.checksum) for shard in manifest.shards] == [64, 32]
    assert [shard.read(tmp_path, "")["rows"].tolist() for shard in manifest.shards] == [[0, 1, 2, 3, 4], [5, 6, 7, 8]]


def test_a_format_that_is_not_known_is_refused_in_words(tmp_path: Path) -> None:
    RowWriter(tmp_path, 0, 9, {"data": "x"}).append(rows(0, 5), 0, 5, 0, [], 1.0)
    manifest = read_sealed(tmp_path / "manifest.json", "")
    write_sealed(tmp_path / "manifest.json", {**manifest, "format": 4})
    with pytest.raises(UserError, match="has format 4, this version reads 2 and 3"):
        read_manifest(tmp_path)
