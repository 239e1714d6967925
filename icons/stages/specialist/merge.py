"""`icons merge`: checks that every chunk is there, whole and belongs together, and writes where each row lies."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from icons.config import Config
from icons.cores import reading_threads
from icons.data.records import chunk_range
from icons.errors import UserError
from icons.progress import Progress, say
from icons.ranges import as_ranges
from icons.stages.specialist.chunks import open_training_data, require_same_chunks
from icons.stages.specialist.fingerprints import train_fingerprint
from icons.store.fingerprint import Fingerprint, require_same
from icons.store.index import Index, read_index, recompute, write_index
from icons.store.layout import RunFolder
from icons.store.rows import Shard, read_manifest
from icons.store.tensors import Memory


def merge(config: Config) -> None:
    """Raises UserError naming the chunks that are missing, a shard that is not as written, or a field that differs."""
    records = open_training_data(config)
    for checkpoint in config.gradients.checkpoints:
        begin = time.monotonic()
        require_same_chunks(config, checkpoint)
        fingerprint = train_fingerprint(config, checkpoint, records)
        path = RunFolder(config.output_dir).index(checkpoint)
        shards, missing = _shards(config, checkpoint, len(records), fingerprint, path.parent)
        if missing:
            raise UserError(
                f"{len(missing)} of {config.train.num_chunks} chunks are not complete: {as_ranges(missing)}; "
                "run `icons train-grads` again (with --chunk for one of them)"
            )
        before = _found(path)
        index = _checked(Index(len(records), fingerprint, shards, path.parent), before.checked if before else {})
        if index != before:
            write_index(path, replace(index, seconds=round(time.monotonic() - begin, 3)))
        invalid = sum(shard.invalid for shard in shards)
        done = "already done" if index == before else f"written to {path}"
        say(f"merge {checkpoint}: {len(records)} rows in {len(shards)} shards, {invalid} invalid, {done}")


def _found(path: Path) -> Index | None:
    """The index that is there, if it is one: a damaged one is written again."""
    try:
        return read_index(path) if path.is_file() else None
    except UserError:
        return None


def _checked(index: Index, before: dict[str, int]) -> Index:
    """The index with every shard's bytes compared with its checksum, but for files unchanged since they last were."""
    times = {shard.file: index.path(shard).stat().st_mtime_ns for shard in index.shards}
    fresh = [shard for shard in index.shards if before.get(shard.file) != times[shard.file]]
    memories = threading.local()

    def verify(shard: Shard) -> int:
        if not hasattr(memories, "own"):
            memories.own = Memory()
        shard.verified(index.folder, recompute(shard), memories.own)
        return shard.stop - shard.start

    rows = sum(shard.stop - shard.start for shard in fresh)
    with (
        Progress("merge: checksums", rows, unit="rows") as progress,
        ThreadPoolExecutor(reading_threads()) as pool,
    ):
        for checked in pool.map(verify, fresh):
            progress.advance(checked)
    return replace(index, checked=times)


def _shards(
    config: Config, checkpoint: int | str, num_rows: int, fingerprint: Fingerprint, root: Path
) -> tuple[list[Shard], list[int]]:
    num_chunks = config.train.num_chunks
    shards: list[Shard] = []
    missing: list[int] = []
    for chunk in range(num_chunks):
        start, stop = chunk_range(num_rows, num_chunks, chunk)
        folder = RunFolder(config.output_dir).chunk(checkpoint, chunk, num_chunks)
        manifest = read_manifest(folder)
        if manifest is None or not manifest.complete:
            missing.append(chunk)
            continue
        advice = f"delete {folder} and run `icons train-grads --chunk {chunk}`"
        require_same(manifest.fingerprint, fingerprint, str(folder), advice)
        require_same({"rows": [manifest.start, manifest.stop]}, {"rows": [start, stop]}, str(folder), advice)
        for shard in manifest.shards:
            path = folder / shard.file
            if not path.is_file() or path.stat().st_size != shard.bytes:
                raise UserError(
                    f"{path} is missing or has another size than its manifest says; "
                    f"run `icons train-grads --chunk {chunk}`, which computes it again"
                )
            relative = path.relative_to(root).as_posix()
            shards.append(replace(shard, file=relative))
    return shards, missing
