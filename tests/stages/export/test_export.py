"""`icons export`: what leaves is what was selected, and every reader gets the same of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest

from icons.data.sets import open_records
from tests.conftest import Project, icons
from tests.data.test_sets import assert_same, samples_of
from tests.data.written import as_parquet, as_saved, cauldron, embedded

FORMATS = {
    "llava": "data.json", "sharegpt": "data.json", "messages": "data.jsonl", "parquet": "train-00000.parquet",
    "hf": "dataset",
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def selected(project: Project) -> list[int]:
    content = json.loads((project.run / "selection" / "vote-20" / "selected_indices.json").read_text())
    return sorted(content["indices"])


def loaded(path: Path, cache: Path) -> Any:
    """By Hugging Face's own readers."""
    if path.is_dir():
        return datasets.load_from_disk(str(path))
    kind = "parquet" if path.suffix == ".parquet" else "json"
    return datasets.load_dataset(kind, data_files=str(path), split="train", cache_dir=str(cache))


@pytest.mark.parametrize("form", FORMATS)
def test_an_export_reads_back_as_the_selected_records(
    form: str, finished: Project, tiny_model: Path, tmp_path: Path
) -> None:
    outcome = finished.icons("export", tmp_path / "out", "--format", form)
    assert outcome.code == 0, outcome.err
    rows = selected(finished)
    assert f"export: {len(rows)} records, written to" in outcome.out
    images = finished.root / "data" / "images"
    back = open_records(tmp_path / "out" / FORMATS[form], images)
    expected = samples_of(open_records(finished.root / "data" / "train.json", images), tiny_model)
    wanted = [(new, *expected[old][1:]) for new, old in enumerate(rows)]
    assert_same(samples_of(back, tiny_model), wanted)
    table = loaded(tmp_path / "out" / FORMATS[form], tmp_path / "hub")
    records = json.loads((finished.root / "data" / "train.json").read_text())
    assert table["id"][:] == [str(records[row]["id"]) for row in rows]
    if form in ("parquet", "hf"):
        shown = [row for row in rows if "image" in records[row]]
        assert [len(each) for each in table["images"]] == [int(row in shown) for row in rows]
        assert next(each for each in table["images"] if each)[0].size  # decoded by datasets
    else:
        info = json.loads((tmp_path / "out" / "dataset_info.json").read_text())
        assert info["icons-vote-20"]["file_name"] == FORMATS[form]
    assert "vote-20" in (tmp_path / "out" / "README.md").read_text()


def test_without_a_format_the_records_stay_as_they_are(finished: Project, tmp_path: Path) -> None:
    assert finished.icons("export", tmp_path / "out").code == 0
    records = json.loads((finished.root / "data" / "train.json").read_text())
    exported = json.loads((tmp_path / "out" / "data.json").read_text())
    assert exported == [records[row] for row in selected(finished)]
    again = finished.icons("export", tmp_path / "out")
    assert again.code == 2
    assert "is there already and not empty; choose a new folder" in again.err


@pytest.mark.parametrize("container", ["parquet", "saved"])
def test_arrow_data_keep_their_container_and_their_images(
    container: str, finished: Project, drawn: Path, tmp_path: Path
) -> None:
    """The same records in another container have the same selection; its rows leave as they lie there."""
    project = Project(tmp_path / "project", json.loads(json.dumps(finished.raw)))
    shutil.copytree(finished.root / "data", project.root / "data")
    records = json.loads((drawn / "data" / "train.json").read_text())
    rows = embedded([cauldron(record) for record in records], drawn / "data" / "images")
    write = as_parquet if container == "parquet" else as_saved
    data = write(project.root / "data" / "table", rows)
    project.raw["train"]["data"] = str(data)
    project.raw["model"]["adapter"] = str(finished.run / "warmup" / "final")
    project.save()
    assert project.icons("run").code == 0
    assert selected(project) == selected(finished)
    outcome = project.icons("export", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    back = loaded(tmp_path / "out" / ("train-00000.parquet" if container == "parquet" else "dataset"), tmp_path / "hub")
    assert back["id"][:] == [records[row]["id"] for row in selected(project)]
    assert back["texts"][0] == rows[selected(project)[0]]["texts"]
    outcome = project.icons("export", tmp_path / "json", "--format", "sharegpt")
    assert outcome.code == 0, outcome.err
    first = next(r for r in json.loads((tmp_path / "json" / "data.json").read_text()) if r["images"])
    original = next(record for record in records if record["id"] == first["id"])
    assert Path(first["images"][0]).read_bytes() == (drawn / "data" / "images" / original["image"]).read_bytes()
    name = "dataset" if container == "saved" else "train-00000.parquet"
    indices = project.run / "selection" / "vote-20" / "selected_indices.json"
    compared = icons("compare", indices, tmp_path / "out" / name, "--data", project.config)
    assert compared.code == 0, compared.err
    assert "100.0%" in compared.out


def test_the_selection_as_columns_over_the_whole_set(finished: Project, tmp_path: Path) -> None:
    outcome = finished.icons("export", tmp_path / "out", "--format", "parquet", "--whole", "--paths")
    assert outcome.code == 0, outcome.err
    table = loaded(tmp_path / "out" / "train-00000.parquet", tmp_path / "hub")
    assert len(table) == 100
    assert [row for row, weight in enumerate(table["weight"]) if weight] == selected(finished)
    least = min(table["votes"][row] for row in selected(finished))
    assert max(vote for vote, weight in zip(table["votes"], table["weight"], strict=True) if not weight) <= least
    assert set(table["scores"][0]) == {task.get("group") or task["name"] for task in finished.raw["tasks"]}
    refused = finished.icons("export", tmp_path / "no", "--whole")
    assert refused.code == 2
    assert "--whole adds columns to the records; say in which form" in refused.err


def test_what_other_programs_cannot_read_is_said(finished: Project, tmp_path: Path) -> None:
    project = Project(tmp_path / "project", json.loads(json.dumps(finished.raw)))
    shutil.copytree(finished.root / "data", project.root / "data")
    path = project.root / "data" / "train.json"
    records = json.loads(path.read_text())
    for record in records:
        if "image" not in record:
            record["conversations"][0]["value"] += " <image>"
        record["conversations"] += [{"from": "human", "value": "And?"}, {"from": "gpt", "value": "No.", "loss": 0}]
    path.write_text(json.dumps(records))
    project.raw["model"]["adapter"] = str(finished.run / "warmup" / "final")
    project.raw["selection"] = {"percent": 100}
    project.save()
    assert project.icons("run").code == 0
    outcome = project.icons("export", tmp_path / "out", "--format", "sharegpt")
    assert outcome.code == 0, outcome.err
    texts = sum("image" not in record for record in records)
    assert f"! {texts} records have <image> more often than images" in outcome.out
    assert "! 100 records have answers that are not to be predicted, which this form cannot say" in outcome.out
    outcome = project.icons("export", tmp_path / "kept", "--format", "messages")
    first = json.loads((tmp_path / "kept" / "data.jsonl").read_text().splitlines()[0])
    assert first["messages"][-1] == {"role": "assistant", "content": "No.", "loss": False}
