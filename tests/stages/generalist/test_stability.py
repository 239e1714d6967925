"""How much of a selection stays on other evidence, recomputed from the shards in NumPy."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from icons.store.scores import read_scores, write_scores
from tests.conftest import Project
from tests.reference.selection import generalist, rows_of, top


def test_stability_compares_selections_of_halves(copy_of_finished: Project) -> None:
    found = generalist(copy_of_finished, method="mean", stability="true")
    report = json.loads((found["folder"] / "stability.json").read_text())
    grads = rows_of(copy_of_finished, "grads").astype(np.float64)
    chosen = []
    for half in (0, 1):
        columns: dict[str, list[np.ndarray]] = {}
        for task in copy_of_finished.raw["tasks"]:
            (path,) = (copy_of_finished.run / "val_grads" / "final" / task["name"]).glob("shard-*.safetensors")
            cosines = grads @ load_file(path)["grads"][half::2].T.astype(np.float64)
            columns.setdefault(task["group"] or task["name"], []).append(cosines.mean(1))
        chosen.append(set(top(np.mean([np.max(own, axis=0) for own in columns.values()], axis=0), 20)))
    assert report["halves"]["both"] == pytest.approx(len(chosen[0] & chosen[1]), abs=1)  # matrices are float16
    assert report["halves"]["expected_by_chance"] == 4.0
    assert report["other_run"] is None


def test_stability_against_another_run(copy_of_finished: Project, tmp_path: Path) -> None:
    other = tmp_path / "other"
    sets = ["--set", f"output_dir={other}", "--set", "gradients.seed=1", "--set", "influence.save_matrix=false"]
    sets += ["--set", f"model.adapter={copy_of_finished.run / 'warmup' / 'final'}"]
    assert copy_of_finished.icons("run", *sets).code == 0
    found = generalist(copy_of_finished, stability="true", stability_with=other)
    report = json.loads((found["folder"] / "stability.json").read_text())
    theirs = json.loads((other / "selection" / "vote-20" / "selected_indices.json").read_text())
    assert report["other_run"]["both"] == len({*found["indices"]} & {*theirs["indices"]})
    outcome = copy_of_finished.icons("generalist", *sets, "--set", "selection.stability=true")
    assert outcome.code == 0
    assert "save_matrix is off" in outcome.out


def test_another_run_by_itself_is_not_passed_over(copy_of_finished: Project) -> None:
    found = generalist(copy_of_finished, stability_with=copy_of_finished.run)
    report = json.loads((found["folder"] / "stability.json").read_text())
    assert report["other_run"]["overlap"] == 1.0


def test_stability_says_what_it_cannot_compute(copy_of_finished: Project) -> None:
    matrices = copy_of_finished.run / "influence" / "digit"
    lost = sorted(matrices.glob("matrix-*.safetensors"))[1]
    content = lost.read_bytes()
    lost.unlink()
    found = generalist(copy_of_finished, stability="true")
    report = json.loads((found["folder"] / "stability.json").read_text())
    assert report["halves"] is None
    assert "the matrices of task digit are not those of the scores" in report["why_not"]
    assert report["why_not"] in found["said"]
    lost.write_bytes(content[: len(content) // 2])
    assert "are not those of the scores" in generalist(copy_of_finished, stability="true")["said"]
    assert copy_of_finished.icons("specialist").code == 0


def test_a_method_that_ignores_the_tasks_says_so(copy_of_finished: Project) -> None:
    found = generalist(copy_of_finished, method="loss", stability="true")
    report = json.loads((found["folder"] / "stability.json").read_text())
    assert report["halves"]["overlap"] == 1.0
    assert "does not look at the validation rows" in report["note"]
    assert report["note"] in found["said"]


def test_spice_is_compared_with_the_other_runs_own_gradients(copy_of_finished: Project, tmp_path: Path) -> None:
    other = tmp_path / "other"
    sets = ["--set", f"output_dir={other}", "--set", "selection.method=spice"]
    sets += ["--set", f"model.adapter={copy_of_finished.run / 'warmup' / 'checkpoint-2'}"]
    assert copy_of_finished.icons("run", *sets).code == 0
    found = generalist(copy_of_finished, method="spice", stability="true", stability_with=other)
    report = json.loads((found["folder"] / "stability.json").read_text())
    theirs = json.loads((other / "selection" / "spice-20" / "selected_indices.json").read_text())
    assert theirs["indices"] != found["indices"]
    assert report["other_run"]["both"] == len({*found["indices"]} & {*theirs["indices"]})


@pytest.mark.parametrize("what", ["training data", "tasks", "validation file"])
def test_a_run_of_another_question_is_refused(copy_of_finished: Project, tmp_path: Path, what: str) -> None:
    other = tmp_path / "other"
    shutil.copytree(copy_of_finished.run, other)
    if what == "training data":
        theirs = other / "influence" / "scores.safetensors"
        write_scores(theirs, replace(read_scores(theirs), data="0" * 16))
    elif what == "tasks":
        copy_of_finished.raw["tasks"].pop(0)
        copy_of_finished.save()
        assert copy_of_finished.icons("specialist").code == 0
    else:
        path = copy_of_finished.root / "data" / "tasks" / "digit.json"
        records = json.loads(path.read_text())
        records[0]["conversations"][-1]["value"] += "!"
        path.write_text(json.dumps(records))
        shutil.rmtree(copy_of_finished.run / "val_grads" / "final" / "digit")
        assert copy_of_finished.icons("run").code == 0
    sets = ["--set", "selection.stability=true", "--set", f"selection.stability_with={other}"]
    outcome = copy_of_finished.icons("generalist", *sets)
    assert outcome.code == 2
    assert what in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
