"""`icons table`: a row a record, in both kinds of file, as the run's own files have it."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from icons.data.sets import data_digest
from icons.stages.export import table as stage
from icons.store.scores import read_scores, write_scores
from tests.conftest import Project


def read(path: Path) -> list[dict[str, Any]]:
    """Every cell as CSV has it: text, what is unknown as an empty one."""
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_table_has_what_the_files_of_the_run_have(
    ending: str, copy_of_finished: Project, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = copy_of_finished
    assert project.icons("generalist", "--set", "selection.method=random").code == 0
    monkeypatch.setattr(stage, "ROWS_AT_ONCE", 30)  # several blocks, the last one not full
    out = tmp_path_factory.mktemp("out") / f"table.{ending}"
    outcome = project.icons("table", out)
    assert outcome.code == 0, outcome.err
    assert f"100 rows, {5 + 6 + 2 + 2} columns, 2 selections" in outcome.out
    rows = read(out)
    records = json.loads((project.root / "data" / "train.json").read_text())
    scores = read_scores(project.run / "influence" / "scores.safetensors")
    assert [row["row"] for row in rows] == [str(number) for number in range(100)]
    assert [row["id"] for row in rows] == [record["id"] for record in records]
    assert {row["valid"] for row in rows} == {"1"}
    for k, task in enumerate(scores.columns):
        column = np.array([row[f"score_{task}"] for row in rows]).astype(np.float32)
        np.testing.assert_array_equal(column, scores.scores[:, k])
    np.testing.assert_array_equal(np.array([row["loss"] for row in rows]).astype(np.float32), scores.losses)
    np.testing.assert_array_equal(np.array([row["norm"] for row in rows]).astype(np.float32), scores.norms)
    for name in ("vote-20", "random-20"):
        chosen = json.loads((project.run / "selection" / name / "selected_indices.json").read_text())["indices"]
        assert [int(row["row"]) for row in rows if row[f"selected_{name}"] == "1"] == sorted(chosen)
    least = min(int(row["votes"]) for row in rows if row["selected_vote-20"] == "1")
    assert all(int(row["votes"]) <= least for row in rows if row["selected_vote-20"] == "0")


def test_what_is_not_known_of_a_row_is_empty(copy_of_finished: Project) -> None:
    """A record that cannot be read keeps its row; it stands for all that `on_bad_record: skip` leaves invalid."""
    project = copy_of_finished
    records = json.loads((project.root / "data" / "train.json").read_text())
    lines = [json.dumps(record) for record in records]
    lines[7] = lines[7][:-1]
    data = project.root / "data" / "train.jsonl"
    data.write_text("\n".join(lines))
    project.raw["train"]["data"] = "data/train.jsonl"
    project.save()
    path = project.run / "influence" / "scores.safetensors"
    scores, digest = read_scores(path), data_digest(data)[:16]
    for array in (scores.valid, scores.scores, scores.losses, scores.norms, scores.merged):
        array[7] = 0
    write_scores(path, replace(scores, data=digest, asked={**scores.asked, "data": digest}))
    for ending in ("csv", "parquet"):
        out = project.root / f"table.{ending}"
        outcome = project.icons("table", out)
        assert outcome.code == 0, outcome.err
        assert "! 1 records cannot be read, the first: " in outcome.out
        assert "train.jsonl line 8 (row 7): broken JSON" in outcome.out
        rows = read(out)
        unknown = ("id", "source", "loss", "norm", *(f"score_{task}" for task in scores.columns))
        assert {rows[7][name] for name in unknown} == {""}
        assert (rows[7]["row"], rows[7]["valid"], rows[7]["votes"]) == ("7", "0", "0")
        assert all(rows[8][name] for name in unknown)
        assert rows[8]["id"] == records[8]["id"]


def test_selections_of_other_scores_are_left_out_and_named(copy_of_finished: Project) -> None:
    project = copy_of_finished
    path = project.run / "influence" / "scores.safetensors"
    scores = read_scores(path)
    write_scores(path, replace(scores, fingerprint="0" * 16))
    outcome = project.icons("table", project.root / "table.csv")
    assert outcome.code == 0, outcome.err
    assert "left out, as they were made of other scores: vote-20" in outcome.out
    assert "selected_vote-20" not in read(project.root / "table.csv")[0]


def test_a_file_that_is_there_and_an_unknown_ending_are_refused(finished: Project, tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    out.write_text("mine")
    refused = finished.icons("table", out)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "table.csv is there already; choose another name, or delete it" in refused.err
    assert out.read_text() == "mine"
    refused = finished.icons("table", tmp_path / "table.xlsx")
    assert refused.code == 2
    assert "expected a name that ends with .csv or .parquet" in refused.err
    assert list(tmp_path.iterdir()) == [out]
