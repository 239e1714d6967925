"""The specialist and the generalist once more, in plain NumPy from the files on disk, with no code of the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from tests.conftest import Project


def read_rows(folder: Path) -> dict[str, np.ndarray]:
    shards = [load_file(path) for path in sorted(folder.glob("**/shard-*.safetensors"))]
    return {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}


def scores_from_disk(run: Path, columns: dict[str, list[str]]) -> np.ndarray:
    """[N, K] float64: mean over a task's validation rows of the dot product of unit rows; groups by maximum."""
    train = read_rows(run / "train_grads" / "final")
    assert train["rows"].tolist() == list(range(len(train["rows"])))
    scores = []
    for members in columns.values():
        of_members = []
        for name in members:
            val = read_rows(run / "val_grads" / "final" / name)
            cosines = train["grads"].astype(np.float64) @ val["grads"][val["valid"]].astype(np.float64).T
            of_members.append(cosines.mean(axis=1))
        scores.append(np.max(of_members, axis=0))
    return np.stack(scores, axis=1)


def vote_from_scores(scores: np.ndarray, valid: np.ndarray, percent: float) -> tuple[list[int], list[int]]:
    """Votes of every row and the selected rows, ties by mean percentile rank, then by index."""
    scores = scores.astype(np.float64)
    votes, ranks = np.zeros(len(scores), int), np.zeros(len(scores))
    for column in scores.T:
        threshold = np.percentile(column[valid], 100 - percent)
        votes += (column >= threshold) & valid
        ranks += np.array([(column[valid] < x).sum() + ((column[valid] == x).sum() + 1) / 2 for x in column])
    order = sorted(np.flatnonzero(valid).tolist(), key=lambda i: (-votes[i], -ranks[i], i))
    return votes.tolist(), sorted(order[: int(percent / 100 * len(scores))])


def read_selection(run: Path, name: str = "vote-20") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "selection" / name / "selected_indices.json").read_text())
    return found


def generalist(project: Project, **settings: Any) -> dict[str, Any]:
    sets = [part for key, value in settings.items() for part in ("--set", f"selection.{key}={value}")]
    outcome = project.icons("generalist", *sets)
    assert outcome.code == 0, outcome.err
    names = sorted((project.run / "selection").glob("*/selected_indices.json"), key=lambda path: path.stat().st_mtime)
    found: dict[str, Any] = json.loads(names[-1].read_text()) | {"folder": names[-1].parent, "said": outcome.out}
    return found


def rows_of(project: Project, name: str) -> np.ndarray:
    """A tensor of every training row, from the shards of the chunks."""
    parts = [load_file(path) for path in (project.run / "train_grads" / "final").glob("*/shard-*.safetensors")]
    rows, values = (np.concatenate([part[key] for part in parts]) for key in ("rows", name))
    return values[np.argsort(rows)]


def top(values: np.ndarray, count: int) -> list[int]:
    return sorted(np.argsort(-values, kind="stable")[:count].tolist())
