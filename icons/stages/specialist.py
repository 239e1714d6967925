"""`icons specialist`: influence of every training row on every task, in one pass over the training shards.

With several checkpoints the influence is their weighted sum (LESS, arXiv 2402.04333, section 3).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from icons.config import Config
from icons.errors import UserError
from icons.progress import Progress, say
from icons.selection.influence import Float32, combine_groups, influence_matrix, influence_scores, mean_direction
from icons.stages.checkpoints import checkpoint_weights
from icons.stages.directions import complete_task, task_digest, tasks_digest
from icons.stages.inputs import OWN_FIELDS, val_type
from icons.store.files import Array, write_tensors
from icons.store.fingerprint import Fingerprint, digest, require_same
from icons.store.index import Index, read_index
from icons.store.layout import RunFolder
from icons.store.rows import RowWriter, Shard
from icons.store.scores import Scores, read_scores_header, write_scores


@dataclass(frozen=True)
class TaskRows:
    """A task's validation rows at one checkpoint: unit rows [M, d] float16 (invalid ones zero), their mean [d]."""

    unit: Array
    direction: Float32


@dataclass(frozen=True)
class Source:
    """The rows of one checkpoint, its weight in the sum, and the tasks to compare with (none: scores are exact)."""

    index: Index
    weight: float
    tasks: dict[str, TaskRows]


def specialist(config: Config) -> None:
    """Scores [N, K]; with `influence.save_matrix` the matrices of all cosines too (not with exact influence).

    Resumes at the first training shard not yet scored. Raises UserError when a task's rows are missing or were made
    otherwise than the training rows.
    """
    folder = RunFolder(config.output_dir)
    indices = [read_index(folder.index(checkpoint)) for checkpoint in config.gradients.checkpoints]
    made_of = _fingerprint(config, indices)
    rows, shards = indices[0].num_rows, len(indices[0].shards)
    shape = f"{rows} rows x {len(config.columns)} tasks"
    if read_scores_header(folder.scores).get("fingerprint") == digest(made_of) and _has_matrices(config, shards):
        say(f"specialist: {shape}, already done")
        return
    begin = time.monotonic()
    sources = _sources(config, indices)
    parts = folder.influence / "parts"
    writer = RowWriter(parts, 0, rows, made_of, restart=True)
    if not _has_matrices(config, len(writer.manifest.shards)):
        (parts / "manifest.json").unlink()
        writer = RowWriter(parts, 0, rows, made_of)
    if not writer.manifest.shards:
        for old in folder.influence.glob("*/matrix-*.safetensors"):
            old.unlink()
    with Progress("specialist", rows, writer.manifest.next_row, "rows") as progress:
        for number in range(len(writer.manifest.shards), shards):
            _score_shard(config, sources, number, writer)
            progress.advance(indices[0].shards[number].stop - indices[0].shards[number].start)
    write_scores(folder.scores, _gather(config, writer, digest(made_of), str(indices[0].fingerprint["data"])))
    say(f"specialist: {shape} in {time.monotonic() - begin:.1f} s, written to {folder.scores}")


def _has_matrices(config: Config, shards: int) -> bool:
    """Whether the matrices of the first `shards` training shards are there, or none are wanted."""
    if not config.influence.save_matrix or config.gradients.projection == "none":
        return True
    folders = [RunFolder(config.output_dir).matrix(task.name) for task in config.tasks]
    return all((folder / matrix_file(n)).is_file() for folder in folders for n in range(shards))


def matrix_file(number: int) -> str:
    """Of the rows of training shard `number`."""
    return f"matrix-{number:05d}.safetensors"


def _fingerprint(config: Config, indices: list[Index]) -> Fingerprint:
    """What the scores are made of; checks on the way that tasks and training rows belong together."""
    columns = ";".join(f"{column}={'+'.join(members)}" for column, members in config.columns.items())
    made_of: Fingerprint = {"columns": columns, "matrix": config.influence.save_matrix}
    if len({str(index.fingerprint["adapter"]) for index in indices}) < len(indices):
        raise UserError("gradients.checkpoints: two of them are the same adapter, which would count twice")
    ranges = [[(shard.start, shard.stop) for shard in index.shards] for index in indices]
    if any(other != ranges[0] for other in ranges):
        raise UserError("the checkpoints' rows lie in different shards; compute them with one gradients.shard_rows")
    for checkpoint, index, weight in zip(
        config.gradients.checkpoints, indices, checkpoint_weights(config), strict=True
    ):
        made_of |= {f"train_rows {checkpoint}": index.digest, f"weight {checkpoint}": weight}
        if config.gradients.projection == "none":
            require_same(
                {"tasks": index.fingerprint.get("tasks")},
                {"tasks": tasks_digest(config, checkpoint)},
                f"the exact scores of {checkpoint} were made against other tasks",
                "name the same tasks in the same order, or run the training pass again in another output_dir",
            )
        for task in config.tasks:
            manifest = complete_task(config, checkpoint, task.name)
            folder = RunFolder(config.output_dir).task(checkpoint, task.name)
            expected = {key: value for key, value in index.fingerprint.items() if key not in OWN_FIELDS}
            found = {key: value for key, value in manifest.fingerprint.items() if key not in OWN_FIELDS}
            require_same(
                found | {"gradient_type": manifest.fingerprint.get("gradient_type")},
                expected | {"gradient_type": val_type(str(index.fingerprint["gradient_type"]))},
                f"task {task.name} was made otherwise than the training rows",
                f"delete {folder} and run `icons val-grads --task {task.name}`",
            )
            made_of[f"task {task.name} {checkpoint}"] = task_digest(manifest)
    return made_of


def _sources(config: Config, indices: list[Index]) -> list[Source]:
    exact = config.gradients.projection == "none"
    weights = checkpoint_weights(config)
    return [
        Source(
            index,
            weight,
            {} if exact else {task.name: _load_task(config, checkpoint, task.name) for task in config.tasks},
        )
        for checkpoint, index, weight in zip(config.gradients.checkpoints, indices, weights, strict=True)
    ]


def _load_task(config: Config, checkpoint: int | str, name: str) -> TaskRows:
    folder = RunFolder(config.output_dir).task(checkpoint, name)
    manifest = complete_task(config, checkpoint, name)
    tensors = [shard.read(folder, ["grads", "valid"]) for shard in manifest.shards]
    unit = np.concatenate([part["grads"] for part in tensors])
    valid = np.concatenate([part["valid"] for part in tensors])
    if not valid.any():
        raise UserError(f"task {name} has no valid validation row; see {folder}/manifest.json for the reasons")
    return TaskRows(unit, mean_direction(unit, valid))


def _score_shard(config: Config, sources: list[Source], number: int, writer: RowWriter) -> None:
    begin = time.monotonic()
    shard = sources[0].index.shards[number]
    read = [_read_training_shard(source, number) for source in sources]
    valid = np.logical_and.reduce([tensors["valid"] for tensors in read])
    scores: Float32 = np.zeros((len(valid), len(config.tasks)), np.float32)
    for source, tensors in zip(sources, read, strict=True):
        scores += np.float32(source.weight) * _scores(source, tensors)
    scores[~valid] = 0
    if not np.isfinite(scores).all():
        path = sources[0].index.path(shard)
        raise UserError(f"{path} or its like holds numbers that are not finite; delete its chunk and compute it again")
    if config.influence.save_matrix:
        for name, matrix in _matrices(sources, read):
            path = RunFolder(config.output_dir).matrix(name) / matrix_file(number)
            rows = {"first_row": str(shard.start), "rows": str(shard.stop - shard.start)}
            write_tensors(path, {"influence": matrix}, {**rows, "fingerprint": digest(writer.manifest.fingerprint)})
    part = {"rows": read[0]["rows"], "scores": scores, "valid": valid}
    writer.append(part, shard.start, shard.stop, int((~valid).sum()), [], time.monotonic() - begin)


def _read_training_shard(source: Source, number: int) -> dict[str, Array]:
    shard: Shard = source.index.shards[number]
    path = source.index.path(shard)
    tensors = shard.read(source.index.folder, ["rows", "valid", "grads" if source.tasks else "scores"])
    if not np.array_equal(tensors["rows"], np.arange(shard.start, shard.stop)):
        raise UserError(f"{path} does not hold rows {shard.start} to {shard.stop - 1}; delete its chunk's folder")
    if "grads" in tensors:
        tensors["grads"] = tensors["grads"].astype(np.float32)
    return tensors


def _scores(source: Source, tensors: dict[str, Array]) -> Float32:
    """[n, T] of one checkpoint."""
    if not source.tasks:
        return tensors["scores"]
    return influence_scores(tensors["grads"], np.stack([task.direction for task in source.tasks.values()]))


def _matrices(sources: list[Source], read: list[dict[str, Array]]) -> Iterator[tuple[str, Array]]:
    """Task by task the cosines [n, M] with its validation rows, summed over checkpoints, float16."""
    for name in sources[0].tasks:
        total = sum(
            np.float32(source.weight) * influence_matrix(tensors["grads"], source.tasks[name].unit)
            for source, tensors in zip(sources, read, strict=True)
        )
        yield name, np.asarray(total, np.float16)


def _gather(config: Config, writer: RowWriter, fingerprint: str, data: str) -> Scores:
    parts = [shard.read(writer.folder, ["scores", "valid"]) for shard in writer.manifest.shards]
    names = [task.name for task in config.tasks]
    members = [[names.index(name) for name in column] for column in config.columns.values()]
    scores = combine_groups(np.concatenate([part["scores"] for part in parts]), members)
    valid = np.concatenate([part["valid"] for part in parts])
    return Scores(scores, valid, list(config.columns), fingerprint, data)
