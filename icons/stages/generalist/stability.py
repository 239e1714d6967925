"""How much of a selection stays when it is made again of other evidence: of halves of the tasks, or of another run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from icons.config import Config
from icons.errors import UserError
from icons.progress import say
from icons.selection.consensus import Bool, Float64, Int64
from icons.selection.influence import Float32, combine_groups, merge_tasks
from icons.selection.stability import agreement, halves
from icons.stages.generalist.select import select
from icons.stages.specialist.directions import complete_task
from icons.store.files import Array, write_sealed
from icons.store.layout import STABILITY, RunFolder
from icons.store.matrices import matrix_facts, read_matrix
from icons.store.rows import read_manifest
from icons.store.scores import Scores, read_scores

SAME_VALUES = "either half gives the same values: this method does not look at the validation rows"


def write_stability(config: Config, scores: Scores, selection: dict[str, Any]) -> None:
    """Writes stability.json: how far selections agree that differ in their evidence alone.

    `halves`: one made with every even, the other with every odd valid validation row of each task, from the matrices
    of `influence.save_matrix`; `other_run`: this one and that of `selection.stability_with`. What cannot be computed
    is null, and `why_not` says why. Raises UserError when the other run is of other training data or tasks.
    """
    name, rows = config.selection.name, len(scores.valid)
    report: dict[str, Any] = {"selection": selection["fingerprint"], "halves": None, "other_run": None}
    other = None if config.selection.stability_with is None else _other_run(config, scores)
    valid = {task.name: _valid_rows(config, task.name) for task in config.tasks}
    report["why_not"] = _why_no_halves(config, scores, valid)
    if report["why_not"] is None:
        (first, values), (second, others) = (
            _selected(config, half_scores, half) for half, half_scores in enumerate(_halved(config, scores, valid))
        )
        report["halves"] = agreement(first, second, rows)
        report["note"] = SAME_VALUES if np.array_equal(values, others) else None
        said = report["note"] or _in_words(report["halves"])
        say(f"  stability {name}: made of either half of the validation rows, {said}")
    else:
        say(f"  stability {name}: not from halves of the validation rows: {report['why_not']}")
    if other is not None:
        their_config, theirs = other
        theirs_selected, _ = _selected(their_config, theirs)
        indices = np.array(selection["indices"], np.int64)
        report["other_run"] = agreement(indices, theirs_selected, rows) | {"scores": theirs.fingerprint}
        path = RunFolder(their_config.output_dir).scores
        say(f"  stability {name}: with the scores of {path}, {_in_words(report['other_run'])}")
    write_sealed(RunFolder(config.output_dir).selection(name) / STABILITY, report)


def _other_run(config: Config, scores: Scores) -> tuple[Config, Scores]:
    """This config in the other run's folder, and that run's scores; a UserError when they answer another question."""
    root = config.selection.stability_with
    assert root is not None
    path = RunFolder(root).scores
    other = read_scores(path)
    if other.data != scores.data:
        raise UserError(f"selection.stability_with: {path} is of other training data")
    if other.columns != scores.columns:
        raise UserError(f"selection.stability_with: {path} is of other tasks: {', '.join(other.columns)}")
    for task in config.tasks:
        data = complete_task(config, config.gradients.checkpoints[-1], task.name).fingerprint["data"]
        manifests = [read_manifest(folder) for folder in sorted((root / "val_grads").glob(f"*/{task.name}"))]
        if not any(manifest is not None and manifest.fingerprint["data"] == data for manifest in manifests):
            raise UserError(f"selection.stability_with: task {task.name} of {root} is not of the same validation file")
    return config.model_copy(update={"output_dir": root}), other


def _why_no_halves(config: Config, scores: Scores, valid: dict[str, Bool]) -> str | None:
    if config.gradients.exact:
        return "exact influence keeps no matrices"
    if not config.influence.save_matrix:
        return "influence.save_matrix is off"
    for task, valid_M in valid.items():
        if valid_M.sum() < 2:
            return f"task {task} has a single valid validation row"
        if _rows_covered(config, scores, task, len(valid_M)) != len(scores.valid):
            return f"the matrices of task {task} are not those of the scores; run `icons specialist` again"
    return None


def _rows_covered(config: Config, scores: Scores, task: str, columns: int) -> int:
    """How many training rows, from the first on and without a gap, the matrices made with these scores hold."""
    row = 0
    for path in _matrix_files(config, task):
        facts = matrix_facts(path)
        if facts is None or (facts.first_row, facts.columns, facts.fingerprint) != (row, columns, scores.fingerprint):
            return -1
        row += facts.rows
    return row


def _selected(config: Config, scores: Scores, half: int | None = None) -> tuple[Int64, Float64]:
    """The rows, and the method's values of all of them."""
    selected = select(config, scores, half)
    return selected.rows, selected.ranking.values


def _halved(config: Config, scores: Scores, valid: dict[str, Bool]) -> Iterator[Scores]:
    """The scores from the even and from the odd validation rows alone."""
    names = list(valid)
    members = [[names.index(name) for name in column] for column in config.columns.values()]
    by_task = [
        np.concatenate([halves(matrix, valid[name]) for matrix in _matrices(config, name)], axis=1) for name in names
    ]  # [2, N] each
    for half in (0, 1):
        scores_NT: Float32 = np.stack([both[half] for both in by_task], axis=1)
        scores_NT[~scores.valid] = 0
        counts = [len(np.flatnonzero(valid_M)[half::2]) for valid_M in valid.values()]
        yield replace(scores, scores=combine_groups(scores_NT, members), merged=merge_tasks(scores_NT, counts))


def _matrix_files(config: Config, task: str) -> list[Path]:
    return sorted(RunFolder(config.output_dir).matrix(task).glob("matrix-*.safetensors"))


def _matrices(config: Config, task: str) -> Iterator[Array]:
    """Blocks [rows, M] float16, one a training shard."""
    for path in _matrix_files(config, task):
        yield read_matrix(path)


def _valid_rows(config: Config, task: str) -> Bool:
    """Which validation rows of a task count [M], at the last checkpoint."""
    checkpoint = config.gradients.checkpoints[-1]
    folder = RunFolder(config.output_dir).task(checkpoint, task)
    again = f"run `icons val-grads --task {task}`"
    shards = complete_task(config, checkpoint, task).shards
    return np.concatenate([shard.read(folder, again, ["valid"])["valid"] for shard in shards])


def _in_words(shared: dict[str, Any]) -> str:
    chance = shared["expected_by_chance"] / shared["size_a"]
    return f"{shared['overlap']:.1%} is the same (by chance {chance:.1%})"
