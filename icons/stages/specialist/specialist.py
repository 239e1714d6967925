"""`icons specialist`: influence of every training row on every task, in one pass over the training shards.

With several checkpoints the influence is their weighted sum (LESS, arXiv 2402.04333, section 3).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from icons.config import Config
from icons.cores import reading_threads, torch_on_one_thread
from icons.data.records import Records
from icons.data.sets import open_records
from icons.errors import UserError
from icons.progress import Progress, say
from icons.stages.specialist.checkpoints import checkpoint_weights
from icons.stages.specialist.described import columns_text, described, difference
from icons.stages.specialist.directions import complete_task, task_digest, tasks_digest
from icons.stages.specialist.fingerprints import feature_fingerprint, train_fingerprint, val_fingerprint
from icons.store.fingerprint import Fingerprint, digest, require_same
from icons.store.index import Index, read_index
from icons.store.layout import RunFolder
from icons.store.matrices import is_matrix, write_matrix
from icons.store.rows import RowWriter, Shard
from icons.store.scores import Scores, is_written, write_scores

if TYPE_CHECKING:
    from icons.stages.specialist.scoring import ShardScores


FORMAT = 3
APART = 10
"""Between two writings of the manifest, times what one takes: a shard is scored sooner than its manifest is written."""


def specialist(config: Config) -> None:
    """Scores [N, K]; with `influence.save_matrix` the matrices of all cosines too (not with exact influence).

    Resumes at the first training shard not yet scored. Raises UserError when a task's rows are missing or were made
    otherwise than the training rows.
    """
    folder = RunFolder(config.output_dir)
    indices = [read_index(folder.index(checkpoint)) for checkpoint in config.gradients.checkpoints]
    _require_fit(config, indices)
    made_of = scores_fingerprint(config, indices)
    rows, shards = indices[0].num_rows, len(indices[0].shards)
    shape = f"{rows} rows x {len(config.columns)} tasks"
    if is_written(folder.scores, digest(made_of)) and _has_matrices(config, range(shards)):
        say(f"specialist: {shape}, already done")
        return
    begin, asked = time.monotonic(), described(config)
    parts = folder.influence / "parts"
    writer = RowWriter(parts, 0, rows, made_of, restart=True)
    if not _has_matrices(config, _done(indices[0], writer)):
        (parts / "manifest.json").unlink()
        writer = RowWriter(parts, 0, rows, made_of)
    if not writer.manifest.shards:
        for old in folder.influence.glob("*/matrix-*.safetensors"):
            old.unlink()
    _score(config, indices, writer)
    data = str(indices[0].fingerprint["data"])
    write_scores(folder.scores, _gather(config, writer, digest(made_of), data, asked))
    say(f"specialist: {shape} in {time.monotonic() - begin:.1f} s, written to {folder.scores}")


def _score(config: Config, indices: list[Index], writer: RowWriter) -> None:
    """Scores the shards that are not yet, and writes them in their order."""
    shards = indices[0].shards
    done = _done(indices[0], writer)
    missing = [number for number in range(len(shards)) if number not in done]
    matrices = config.influence.save_matrix and not config.gradients.exact
    threads = min(reading_threads(), max(1, len(missing)))
    for index in indices:
        for number in missing[:threads]:
            index.read_ahead(number)  # while torch is loaded
    from icons.stages.specialist.scoring import in_order, load_sources, score_shard

    with torch_on_one_thread(), Progress("specialist", writer.manifest.stop, writer.manifest.rows_done, "rows") as bar:
        sources = load_sources(config, indices, matrices=matrices)

        def work(number: int) -> ShardScores:
            for index in indices:
                index.read_ahead(number + threads)  # the disk's turn is while this one is compared
            return score_shard(sources, number, len(config.tasks), matrices=matrices)

        begin, due = time.monotonic(), 0.0
        try:
            for number, scored in zip(missing, in_order(work, missing, threads), strict=True):
                _write_shard(config, scored, number, shards[number], writer, begin)
                begin = time.monotonic()
                if begin >= due:
                    writer.write_manifest()
                    due = begin + APART * (time.monotonic() - begin)
                bar.advance(shards[number].stop - shards[number].start)
        finally:
            writer.write_manifest()


def _done(index: Index, writer: RowWriter) -> list[int]:
    """Numbers of the training shards that are scored."""
    written = {shard.start for shard in writer.manifest.shards}
    return [number for number, shard in enumerate(index.shards) if shard.start in written]


def _has_matrices(config: Config, shards: Iterable[int]) -> bool:
    """Whether the matrices of these training shards are there, or none are wanted."""
    if not config.influence.save_matrix or config.gradients.exact:
        return True
    folders = [RunFolder(config.output_dir).matrix(task.name) for task in config.tasks]
    return all(is_matrix(folder / matrix_file(n)) for folder in folders for n in shards)


def matrix_file(number: int) -> str:
    """Of the rows of training shard `number`."""
    return f"matrix-{number:05d}.safetensors"


def _require_fit(config: Config, indices: list[Index]) -> None:
    """Raises UserError unless the rows of all checkpoints and tasks are those that the config asks for."""
    if len({str(index.fingerprint["adapter"]) for index in indices}) < len(indices):
        raise UserError("gradients.checkpoints: two of them are the same adapter, which would count twice")
    ranges = [[(shard.start, shard.stop) for shard in index.shards] for index in indices]
    if any(other != ranges[0] for other in ranges):
        raise UserError("the checkpoints' rows lie in different shards; compute them with one gradients.shard_rows")
    folder, records = RunFolder(config.output_dir), open_records(config.train.parts)
    tasks = {task.name: open_records(task.parts) for task in config.tasks}
    for checkpoint, index in zip(config.gradients.checkpoints, indices, strict=True):
        features = feature_fingerprint(config, checkpoint)
        for name, validation in tasks.items():
            rows = complete_task(config, checkpoint, name).fingerprint
            _require_file(rows, validation, f"the gradients of task {name}")
            _require_same(
                rows,
                val_fingerprint(config, features, validation),
                f"the gradients of task {name} are not those that the config asks for",
                f"delete {folder.task(checkpoint, name)} and run `icons val-grads --task {name}`",
            )
        _require_file(index.fingerprint, records, "the training rows")
        if config.gradients.exact:
            require_same(
                {"tasks": index.fingerprint.get("tasks")},
                {"tasks": tasks_digest(config, checkpoint)},
                f"the exact scores of {checkpoint} were made against other tasks",
                "name the same tasks in the same order, or run the training pass again in another output_dir",
            )
        _require_same(
            index.fingerprint,
            train_fingerprint(config, checkpoint, records),
            f"the training rows of {folder.index(checkpoint)} are not those that the config asks for",
            "run `icons run` in another output_dir",
        )


def _require_file(stored: Fingerprint, records: Records, what: str) -> None:
    if stored["data"] != records.sha256[:16]:
        raise UserError(f"{records.path} is not the file that {what} were made of; run the stages again")


def _require_same(stored: Fingerprint, expected: Fingerprint, what: str, advice: str) -> None:
    """Names the difference in the config's own words where it is one of its keys or files."""
    if other := difference(stored, expected):
        raise UserError(f"{what}: {other}; set it back, or {advice}")
    require_same(stored, expected, what, advice)


def scores_fingerprint(config: Config, indices: list[Index]) -> Fingerprint:
    """What the scores are made of: the bytes of every row, and how the checkpoints are weighted."""
    made_of: Fingerprint = {
        "columns": columns_text(config),
        "matrix": config.influence.save_matrix,
        "format": FORMAT,
    }
    for checkpoint, index, weight in zip(
        config.gradients.checkpoints, indices, checkpoint_weights(config), strict=True
    ):
        made_of |= {f"train_rows {checkpoint}": index.digest, f"weight {checkpoint}": weight}
        for task in config.tasks:
            made_of[f"task {task.name} {checkpoint}"] = task_digest(complete_task(config, checkpoint, task.name))
    return made_of


def _write_shard(
    config: Config, scored: ShardScores, number: int, shard: Shard, writer: RowWriter, begin: float
) -> None:
    for name, matrix in scored.matrices.items():
        path = RunFolder(config.output_dir).matrix(name) / matrix_file(number)
        write_matrix(path, matrix, shard.start, digest(writer.manifest.fingerprint))
    part = {name: getattr(scored, name) for name in ["rows", *OF_A_ROW]}
    invalid, seconds = int((~scored.valid).sum()), time.monotonic() - begin
    writer.append(part, shard.start, shard.stop, invalid, [], seconds, listed=False)


OF_A_ROW = ["scores", "valid", "losses", "norms"]


def _gather(config: Config, writer: RowWriter, fingerprint: str, data: str, asked: Fingerprint) -> Scores:
    from icons.selection.influence import combine_groups, merge_tasks

    names = [task.name for task in config.tasks]
    members = [[names.index(name) for name in column] for column in config.columns.values()]
    manifest = writer.manifest
    counts = [_valid_rows(config, name) for name in names]
    scores = np.empty((manifest.stop, len(members)), np.float32)
    valid = np.empty(manifest.stop, np.bool_)
    merged, losses, norms = (np.empty(manifest.stop, np.float32) for _ in range(3))
    for shard in manifest.shards:
        part, here = shard.read(writer.folder, "run `icons specialist` again", OF_A_ROW), slice(shard.start, shard.stop)
        scores[here], merged[here] = combine_groups(part["scores"], members), merge_tasks(part["scores"], counts)
        valid[here], losses[here], norms[here] = part["valid"], part["losses"], part["norms"]
    return Scores(scores, valid, merged, losses, norms, list(config.columns), fingerprint, data, asked)


def _valid_rows(config: Config, task: str) -> int:
    """How many validation rows of a task count, at the last checkpoint."""
    manifest = complete_task(config, config.gradients.checkpoints[-1], task)
    return manifest.rows_done - sum(shard.invalid for shard in manifest.shards)
