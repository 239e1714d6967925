"""From data to selection through the command line, and everything on disk recomputed independently."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from icons.stages.specialist.described import KEYS
from icons.store.files import read_sealed, write_sealed
from tests.conftest import SHARED_DATA, Project, icons
from tests.reference.selection import read_rows, read_selection, scores_from_disk, vote_from_scores

STAGES = ("warmup", "train-grads", "merge", "val-grads", "specialist", "generalist")


def columns_of(project: Project) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {}
    for task in project.raw["tasks"]:
        columns.setdefault(task["group"] or task["name"], []).append(task["name"])
    return columns


def test_scores_and_votes_recomputed_from_the_shards_are_the_stored_ones(finished: Project) -> None:
    stored = load_file(finished.run / "influence" / "scores.safetensors")
    columns = columns_of(finished)
    assert any(len(members) == 2 for members in columns.values())
    np.testing.assert_allclose(stored["scores"], scores_from_disk(finished.run, columns), rtol=0, atol=1e-6)
    assert stored["scores"].dtype == np.float32
    selection = read_selection(finished.run)
    votes, selected = vote_from_scores(stored["scores"], stored["valid"], 20)
    assert load_file(finished.run / "selection" / "vote-20" / "votes.safetensors")["votes"].tolist() == votes
    assert selection["indices"] == selected
    assert selection["tasks"] == list(columns)
    assert (selection["num_train"], selection["percent"], selection["method"]) == (100, 20, "vote")


def test_the_influence_matrix_averages_to_the_scores(finished: Project) -> None:
    columns = [task["name"] for task in finished.raw["tasks"] if not task["group"]]
    scores = load_file(finished.run / "influence" / "scores.safetensors")["scores"]
    for name in columns:
        parts = sorted((finished.run / "influence" / name).glob("matrix-*.safetensors"))
        matrix = np.concatenate([load_file(part)["influence"] for part in parts])
        assert matrix.shape == (100, 6)
        assert matrix.dtype == np.float16
        column = list(columns_of(finished)).index(name)
        np.testing.assert_allclose(matrix.astype(np.float64).mean(1), scores[:, column], atol=5e-4)


def test_a_shard_holds_what_the_contract_says(finished: Project) -> None:
    rows = read_rows(finished.run / "train_grads" / "final")
    types = {name: (array.dtype.name, array.shape[1:]) for name, array in rows.items()}
    assert types == {
        "rows": ("int64", ()),
        "grads": ("float16", (512,)),
        "norms": ("float32", ()),
        "losses": ("float32", ()),
        "target_tokens": ("int32", ()),
        "valid": ("bool", ()),
    }
    np.testing.assert_allclose(np.linalg.norm(rows["grads"].astype(np.float32), axis=1), 1, atol=2e-3)
    assert rows["valid"].all()
    assert (rows["norms"] > 0).all()
    assert (rows["losses"] > 0).all()
    assert (rows["target_tokens"] > 0).all()


def test_the_selected_data_are_the_records_themselves(finished: Project) -> None:
    records = json.loads((finished.root / "data" / "train.json").read_text())
    chosen = json.loads((finished.run / "selection" / "vote-20" / "selected_data.json").read_text())
    assert chosen == [records[index] for index in read_selection(finished.run)["indices"]]


def test_a_finished_stage_says_so_and_changes_nothing(finished: Project) -> None:
    def state() -> dict[Path, tuple[int, int]]:
        files = [path for path in finished.run.rglob("*") if path.is_file()]
        return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in files}

    before = state()
    for stage in STAGES:
        outcome = finished.icons(stage)
        assert outcome.code == 0, outcome.err
        assert "already done" in outcome.out
    assert state() == before


def test_stages_one_by_one_end_as_run_does(project: Project, finished: Project) -> None:
    for stage in STAGES:
        outcome = project.icons(stage)
        assert outcome.code == 0, outcome.err
        assert stage in outcome.out
    assert read_selection(project.run) == read_selection(finished.run)


def test_chunks_and_shards_do_not_change_the_selection(copy_of_finished: Project, finished: Project) -> None:
    sets = ["--set", "train.num_chunks=1", "--set", "gradients.shard_rows=1000", "--set", "gradients.num_workers=2"]
    refused = copy_of_finished.icons("run", *sets)
    assert refused.code == 2
    assert "has rows in 3 chunks, and train.num_chunks is 1" in refused.err
    other = copy_of_finished.root / "other"
    outcome = copy_of_finished.icons("run", *sets, "--set", f"output_dir={other}")
    assert outcome.code == 0, outcome.err
    alone = read_rows(other / "train_grads" / "final" / "chunk-00000-of-00001")
    chunked = [read_rows(p) for p in sorted((finished.run / "train_grads" / "final").glob("chunk-*-of-00003"))]
    together = np.concatenate([chunk["grads"] for chunk in chunked])
    step = 2.0**-10  # of float16, in which the rows are stored: batches of other sizes may round to the neighbour
    np.testing.assert_allclose(alone["grads"].astype(np.float32), together.astype(np.float32), rtol=step, atol=1e-5)
    assert read_selection(other)["indices"] == read_selection(finished.run)["indices"]


def test_one_chunk_at_a_time_in_any_order(copy_of_finished: Project, finished: Project) -> None:
    for folder in (copy_of_finished.run / "train_grads" / "final").glob("chunk-*"):
        for path in folder.iterdir():
            path.unlink()
    for chunk in (2, 0):
        assert copy_of_finished.icons("train-grads", "--chunk", chunk).code == 0
    outcome = copy_of_finished.icons("merge")
    assert outcome.code == 2
    assert "1 of 3 chunks are not complete: 1;" in outcome.err
    assert copy_of_finished.icons("train-grads").code == 0
    for folder in sorted((finished.run / "train_grads" / "final").glob("chunk-*")):
        for shard in folder.glob("shard-*"):
            again = copy_of_finished.run / "train_grads" / "final" / folder.name / shard.name
            assert again.read_bytes() == shard.read_bytes()


def test_json_lines_give_the_same_selection(copy_of_finished: Project, finished: Project) -> None:
    records = json.loads((finished.root / "data" / "train.json").read_text())
    lines = copy_of_finished.root / "data" / "train.jsonl"
    lines.write_text("\n".join(json.dumps(record) for record in records) + "\n")
    sets = [
        "--set",
        "train.data=data/train.jsonl",
        "--set",
        "output_dir=lines",
        "--set",
        "model.adapter=run/warmup/final",
    ]
    outcome = copy_of_finished.icons("run", *sets)
    assert outcome.code == 0, outcome.err
    assert read_selection(copy_of_finished.root / "lines")["indices"] == read_selection(finished.run)["indices"]


def test_several_selections_stand_side_by_side(copy_of_finished: Project, finished: Project) -> None:
    sets = ["--set", "selection.name=vote-40", "--set", "selection.percent=40", "--set", "selection.tie_break=random"]
    assert copy_of_finished.icons("generalist", *sets).code == 0
    assert len(read_selection(copy_of_finished.run, "vote-40")["indices"]) == 40
    assert read_selection(copy_of_finished.run) == read_selection(finished.run)


def test_a_task_added_later_needs_only_its_own_gradients(copy_of_finished: Project) -> None:
    first = copy_of_finished.raw["tasks"].pop(0)
    copy_of_finished.save()
    assert copy_of_finished.icons("specialist").code == 0
    copy_of_finished.raw["tasks"].append({**first, "name": "again", "group": None})
    copy_of_finished.save()
    outcome = copy_of_finished.icons("specialist")
    assert outcome.code == 2
    assert "icons val-grads --task again" in outcome.err
    outcome = copy_of_finished.icons("run")
    assert outcome.code == 0, outcome.err
    assert read_selection(copy_of_finished.run)["tasks"][-1] == "again"


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("gradients.dim=256", "dim"),
        ("gradients.seed=1", "projection_seed"),
        ("gradients.projection=rademacher", "projection"),
        ("gradients.layers=last-1", "layers"),
        ("model.image_aspect_ratio=square", "image_aspect_ratio"),
        ("model.max_length=300", "max_length"),
    ],
)
def test_rows_made_otherwise_are_never_mixed(copy_of_finished: Project, override: str, field: str) -> None:
    for command in ("train-grads", "merge", "val-grads"):
        outcome = copy_of_finished.icons(command, "--set", override)
        assert outcome.code == 2
        assert f"{field} is" in outcome.err
    for folder in (copy_of_finished.run / "val_grads").rglob("manifest.json"):
        changed = read_sealed(folder, "")
        changed["fingerprint"][field] = "other"
        write_sealed(folder, changed)
    outcome = copy_of_finished.icons("specialist")
    assert outcome.code == 2
    assert f"{KEYS[field]} is 'other' there" in outcome.err


def test_changed_training_data_are_noticed(copy_of_finished: Project) -> None:
    path = copy_of_finished.root / "data" / "train.json"
    records = json.loads(path.read_text())
    records[3]["conversations"][1]["value"] += "!"
    path.write_text(json.dumps(records))
    for command in ("warmup", "train-grads", "merge"):
        outcome = copy_of_finished.icons(command)
        assert outcome.code == 2
        assert "data is" in outcome.err
    outcome = copy_of_finished.icons("generalist", "--set", "selection.percent=10")
    assert outcome.code == 2
    assert "is not the file that the scores were made of" in outcome.err


def test_an_earlier_checkpoint_of_the_warm_up_can_be_used(copy_of_finished: Project) -> None:
    outcome = copy_of_finished.icons("run", "--set", "gradients.checkpoints=[2]")
    assert outcome.code == 0, outcome.err
    assert (copy_of_finished.run / "train_grads" / "checkpoint-2" / "index.json").is_file()
    assert (copy_of_finished.run / "train_grads" / "final" / "index.json").is_file()


@pytest.mark.skipif(
    not (SHARED_DATA / "vqa_mini").is_dir(), reason="the vqa_mini data are not at hand (../shared/data)"
)
def test_real_pictures_and_six_real_tasks(tmp_path: Path) -> None:
    """Every fifth of the 2,500 records."""
    data = SHARED_DATA / "vqa_mini"
    (tmp_path / "train.json").write_text(json.dumps(json.loads((data / "train.json").read_text())[::5]))
    assert icons("tiny-model", tmp_path / "M").code == 0
    config = {
        "output_dir": "run",
        "model": {"base": "M", "dtype": "float32", "device": "cpu", "lora": {"r": 8, "alpha": 16}},
        "train": {"data": "train.json", "images": str(data / "images")},
        "warmup": {"fraction": 0.1, "max_steps": 2},
        "tasks": [
            {"name": path.stem, "data": str(path), "images": str(data / "images")}
            for path in sorted((data / "val").glob("*.json"))
        ],
        "gradients": {"dim": 1024},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    outcome = icons("run", tmp_path / "config.yaml")
    assert outcome.code == 0, outcome.err
    selection = read_selection(tmp_path / "run")
    assert len(selection["indices"]) == 100
    assert selection["tasks"] == ["alpaca", "color", "count", "exist", "nlvr", "shapes"]
    stored = load_file(tmp_path / "run" / "influence" / "scores.safetensors")["scores"]
    expected = scores_from_disk(tmp_path / "run", {name: [name] for name in selection["tasks"]})
    np.testing.assert_allclose(stored, expected, rtol=0, atol=1e-6)
