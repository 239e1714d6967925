"""`icons merge`: checks that every chunk is there and belongs together, and writes where each row lies."""

from __future__ import annotations

from pathlib import Path

from icons.config import Config
from icons.data.records import chunk_range
from icons.errors import UserError
from icons.progress import say
from icons.stages.inputs import train_fingerprint
from icons.stages.train_grads import open_training_data
from icons.store.fingerprint import require_same
from icons.store.index import Index, read_index, write_index
from icons.store.layout import RunFolder
from icons.store.rows import Shard, read_manifest


def merge(config: Config) -> None:
    """Raises UserError naming the chunks that are missing, a shard that is gone, or the first field that differs."""
    records = open_training_data(config)
    for checkpoint in config.gradients.checkpoints:
        fingerprint = train_fingerprint(config, checkpoint, len(records))
        path = RunFolder(config.output_dir).index(checkpoint)
        shards, missing = _shards(config, checkpoint, len(records), fingerprint, path.parent)
        if missing:
            listed = ",".join(map(str, missing))
            raise UserError(
                f"{len(missing)} of {config.train.num_chunks} chunks are not complete: {listed}; "
                "run `icons train-grads` again (with --chunk for one of them)"
            )
        index = Index(len(records), fingerprint, shards, path.parent)
        fresh = not _is_written(path, index)
        if fresh:
            write_index(path, index)
        invalid = sum(shard.invalid for shard in shards)
        done = f"written to {path}" if fresh else "already done"
        say(f"merge {checkpoint}: {len(records)} rows in {len(shards)} shards, {invalid} invalid, {done}")


def _is_written(path: Path, index: Index) -> bool:
    try:
        return path.is_file() and read_index(path) == index
    except UserError:  # damaged: it is written again
        return False


def _shards(
    config: Config,
    checkpoint: int | str,
    num_rows: int,
    fingerprint: dict[str, str | int | float | bool | None],
    root: Path,
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
            shards.append(Shard(relative, shard.start, shard.stop, shard.bytes, shard.sha256, shard.invalid))
    return shards, missing
