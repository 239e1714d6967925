"""How much of a selection stays when it is made again of other evidence: of halves of the tasks, or of another run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from icons.config import Config
from icons.errors import UserError
from icons.progress import say
from icons.selection.compare import Agreement
from icons.selection.consensus import Int64, highest, percentile_ranks
from icons.selection.influence import Float32, combine_groups, halves, merge_tasks
from icons.selection.registry import Method
from icons.stages.directions import complete_task
from icons.stages.evidence import evidence, ranked
from icons.store.files import Array, read_tensors, write_sealed
from icons.store.layout import RunFolder
from icons.store.scores import Scores, read_scores


def write_stability(config: Config, found: Method, scores: Scores, selection: dict[str, Any]) -> None:
    """Writes stability.json: how far selections agree that differ in their evidence alone.

    `halves`: one made with every even, the other with every odd validation row of each task, from the matrices of
    `influence.save_matrix`; `other_run`: this one and that of `selection.stability_with`. What cannot be computed is
    null, and `why_not` says why. Raises UserError when the other run is of other training data or tasks.
    """
    report: dict[str, Any] = {"selection": selection["fingerprint"], "halves": None, "other_run": None, "why_not": None}
    name = config.selection.name
    report["why_not"] = _why_no_halves(config, scores)
    if report["why_not"] is None:
        first, second = (_selected(config, found, half) for half in _half_scores(config, scores))
        report["halves"] = _agreement(first, second, len(scores.valid))
        say(f"  stability {name}: made of either half of the validation rows, {_in_words(report['halves'])}")
    else:
        say(f"  stability {name}: not from halves of the validation rows: {report['why_not']}")
    if config.selection.stability_with is not None:
        path = RunFolder(config.selection.stability_with).scores
        other = read_scores(path)
        if (other.data, other.columns) != (scores.data, scores.columns):
            raise UserError(f"selection.stability_with: {path} is of other training data or other tasks")
        own = np.array(selection["indices"], np.int64)
        report["other_run"] = _agreement(own, _selected(config, found, other), len(scores.valid))
        report["other_run"]["scores"] = other.fingerprint
        say(f"  stability {name}: with the scores of {path}, {_in_words(report['other_run'])}")
    write_sealed(RunFolder(config.output_dir).selection(name) / "stability.json", report)


def _why_no_halves(config: Config, scores: Scores) -> str | None:
    if config.gradients.projection == "none":
        return "exact influence keeps no matrices"
    if not config.influence.save_matrix:
        return "influence.save_matrix is off"
    if any(_valid_rows(config, task.name).sum() < 2 for task in config.tasks):
        return "a task has a single validation row"
    return None


def _selected(config: Config, found: Method, scores: Scores) -> Int64:
    known = evidence(config, scores)
    values, settings = ranked(config, found, known).values, config.selection
    ranks = percentile_ranks(scores.scores, scores.valid)
    return highest(values, ranks, scores.valid, known.count, settings.tie_break, settings.seed)


def _half_scores(config: Config, scores: Scores) -> Iterator[Scores]:
    """The scores from the even and from the odd validation rows alone."""
    names = [task.name for task in config.tasks]
    members = [[names.index(name) for name in column] for column in config.columns.values()]
    by_task, counts = [], []
    for name in names:
        valid_M = _valid_rows(config, name)
        parts = [halves(matrix, valid_M) for matrix in _matrices(config, name)]
        by_task.append(np.concatenate(parts, axis=1))  # [2, N]
        kept = np.flatnonzero(valid_M)
        counts.append([len(kept[0::2]), len(kept[1::2])])
    for half in (0, 1):
        scores_NT: Float32 = np.stack([both[half] for both in by_task], axis=1)
        yield replace(
            scores,
            scores=combine_groups(scores_NT, members),
            merged=merge_tasks(scores_NT, [count[half] for count in counts]),
        )


def _matrices(config: Config, task: str) -> Iterator[Array]:
    folder = RunFolder(config.output_dir).matrix(task)
    for path in sorted(folder.glob("matrix-*.safetensors")):
        yield read_tensors(path, ["influence"])["influence"]


def _valid_rows(config: Config, task: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    checkpoint = config.gradients.checkpoints[-1]
    folder = RunFolder(config.output_dir).task(checkpoint, task)
    again = f"run `icons val-grads --task {task}`"
    shards = complete_task(config, checkpoint, task).shards
    return np.concatenate([shard.read(folder, again, ["valid"])["valid"] for shard in shards])


def _agreement(first: Int64, second: Int64, num_rows: int) -> dict[str, Any]:
    found = Agreement(len(first), len(second), len(np.intersect1d(first, second)), num_rows)
    return asdict(found) | {"overlap": found.share_a, "jaccard": found.jaccard, "expected_by_chance": found.expected}


def _in_words(found: dict[str, Any]) -> str:
    chance = found["expected_by_chance"] / found["size_a"]
    return f"{found['overlap']:.1%} is the same (by chance {chance:.1%})"
