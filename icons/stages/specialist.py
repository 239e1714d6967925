"""`icons specialist`: influence of every training row on every task, in one pass over the training shards."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from icons.config import Config
from icons.errors import UserError
from icons.progress import Progress, say
from icons.selection.influence import (
    Float32,
    combine_groups,
    influence_matrix,
    influence_scores,
    mean_direction,
)
from icons.store.files import Array, read_tensors, write_tensors
from icons.store.fingerprint import Fingerprint, digest, require_same
from icons.store.index import Index, read_index
from icons.store.layout import RunFolder
from icons.store.rows import RowWriter, Shard, read_manifest
from icons.store.scores import Scores, read_scores_header, write_scores


@dataclass(frozen=True)
class TaskRows:
    """A task's validation rows: unit rows [M, d] float16 (invalid ones zero), their mean direction [d], a digest."""

    unit: Array
    direction: Float32
    digest: str


def specialist(config: Config) -> None:
    """Scores [N, K] for the checkpoint's rows; the full matrices too with `influence.save_matrix`.

    Resumes at the first training shard not yet scored. Raises UserError when a task's rows are missing or were made
    otherwise than the training rows.
    """
    folder = RunFolder(config.output_dir)
    checkpoint = config.gradients.checkpoints[0]
    index = read_index(folder.index(checkpoint))
    tasks = {task.name: _load_task(config, checkpoint, task.name, index) for task in config.tasks}
    made_of = _fingerprint(config, index, tasks)
    if read_scores_header(folder.scores).get("fingerprint") == digest(made_of):
        say(f"specialist: {index.num_rows} rows x {len(config.columns)} tasks, already done")
        return
    begin = time.monotonic()
    writer = RowWriter(folder.influence / "parts", 0, index.num_rows, made_of, restart=True)
    with Progress("specialist", index.num_rows, writer.manifest.next_row, "rows") as progress:
        for number in range(len(writer.manifest.shards), len(index.shards)):
            _score_shard(config, index, number, tasks, writer)
            progress.advance(index.shards[number].stop - index.shards[number].start)
    scores = _gather(config, writer, digest(made_of), str(index.fingerprint["data"]))
    write_scores(folder.scores, scores)
    seconds = time.monotonic() - begin
    shape = f"{index.num_rows} rows x {len(config.columns)} tasks"
    say(f"specialist: {shape} in {seconds:.1f} s, written to {folder.scores}")


def _load_task(config: Config, checkpoint: int | str, name: str, index: Index) -> TaskRows:
    folder = RunFolder(config.output_dir).task(checkpoint, name)
    manifest = read_manifest(folder)
    if manifest is None or not manifest.complete:
        raise UserError(f"task {name} has no complete gradients in {folder}; run `icons val-grads --task {name}`")
    own = {"data", "num_rows"}
    require_same(
        {key: value for key, value in manifest.fingerprint.items() if key not in own},
        {key: value for key, value in index.fingerprint.items() if key not in own},
        f"task {name} was made otherwise than the training rows",
        f"delete {folder} and run `icons val-grads --task {name}`",
    )
    tensors = [read_tensors(folder / shard.file, ["grads", "valid"]) for shard in manifest.shards]
    unit = np.concatenate([part["grads"] for part in tensors])
    valid = np.concatenate([part["valid"] for part in tensors])
    if not valid.any():
        raise UserError(f"task {name} has no valid validation row; see {folder}/manifest.json for the reasons")
    shards = [shard.sha256 for shard in manifest.shards]
    return TaskRows(unit, mean_direction(unit, valid), digest({**manifest.fingerprint, "shards": shards}))


def _fingerprint(config: Config, index: Index, tasks: dict[str, TaskRows]) -> Fingerprint:
    columns = ";".join(f"{column}={'+'.join(members)}" for column, members in config.columns.items())
    made_of: Fingerprint = {
        "train_rows": index.digest,
        "columns": columns,
        "matrix": config.influence.save_matrix,
    }
    return made_of | {f"task {name}": rows.digest for name, rows in tasks.items()}


def _score_shard(config: Config, index: Index, number: int, tasks: dict[str, TaskRows], writer: RowWriter) -> None:
    begin = time.monotonic()
    shard = index.shards[number]
    tensors = _read_training_shard(index, shard)
    unit = tensors["grads"].astype(np.float32)
    if config.influence.save_matrix:
        for name, rows in tasks.items():
            path = RunFolder(config.output_dir).matrix(name) / f"matrix-{number:05d}.safetensors"
            write_tensors(path, {"influence": influence_matrix(unit, rows.unit.astype(np.float32))})
    scores = influence_scores(unit, np.stack([rows.direction for rows in tasks.values()]))
    if not np.isfinite(scores).all():
        raise UserError(f"{index.path(shard)} holds numbers that are not finite; delete its chunk and compute it again")
    part = {"rows": tensors["rows"], "scores": scores, "valid": tensors["valid"]}
    writer.append(part, shard.start, shard.stop, shard.invalid, [], time.monotonic() - begin)


def _read_training_shard(index: Index, shard: Shard) -> dict[str, Array]:
    path = index.path(shard)
    tensors = read_tensors(path, ["rows", "grads", "valid"])
    if not np.array_equal(tensors["rows"], np.arange(shard.start, shard.stop)):
        raise UserError(
            f"{path} does not hold rows {shard.start} to {shard.stop - 1}; delete its chunk's folder and run"
        )
    return tensors


def _gather(config: Config, writer: RowWriter, fingerprint: str, data: str) -> Scores:
    parts = [read_tensors(writer.folder / shard.file, ["scores", "valid"]) for shard in writer.manifest.shards]
    names = [task.name for task in config.tasks]
    members = [[names.index(name) for name in column] for column in config.columns.values()]
    scores = combine_groups(np.concatenate([part["scores"] for part in parts]), members)
    valid = np.concatenate([part["valid"] for part in parts])
    return Scores(scores, valid, list(config.columns), fingerprint, data)
