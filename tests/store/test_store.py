"""The store under damage: what is lost is computed again alone, what is not as it was written is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from icons.store.files import read_sealed, write_sealed
from tests.conftest import Project

SELECTION = ("selected_indices.json", "selected_data.json", "votes.safetensors")


def selection(project: Project) -> list[bytes]:
    return [(project.run / "selection" / "vote-20" / name).read_bytes() for name in SELECTION]


def chunk(project: Project, number: int = 1) -> Path:
    return project.run / "train_grads" / "final" / f"chunk-{number:05d}-of-00003"


def identity(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("shard-*")}


def flip(path: Path, at: int = -200) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)


def again(project: Project) -> None:
    """The last stages anew, from what lies in the store."""
    shutil.rmtree(project.run / "influence")
    shutil.rmtree(project.run / "selection")
    outcome = project.icons("run")
    assert outcome.code == 0, outcome.err


def test_a_shard_lost_in_the_middle_is_computed_again_alone(copy_of_finished: Project) -> None:
    before, kept = selection(copy_of_finished), identity(chunk(copy_of_finished))
    assert len(kept) == 3
    (chunk(copy_of_finished) / "shard-00001.safetensors").unlink()
    outcome = copy_of_finished.icons("merge")
    assert outcome.code == 2
    assert "shard-00001.safetensors is missing" in outcome.err
    assert "--chunk 1" in outcome.err
    assert copy_of_finished.icons("train-grads", "--chunk", 1).code == 0
    after = identity(chunk(copy_of_finished))
    assert {name for name in kept if after[name] != kept[name]} == {"shard-00001.safetensors"}
    again(copy_of_finished)
    assert selection(copy_of_finished) == before


def test_merge_names_a_flipped_bit_and_what_mends_it(copy_of_finished: Project) -> None:
    before, shard = selection(copy_of_finished), chunk(copy_of_finished) / "shard-00002.safetensors"
    flip(shard)
    outcome = copy_of_finished.icons("merge")
    assert outcome.code == 2
    assert f"{shard} is not as it was written" in outcome.err
    assert "delete it and run `icons train-grads --chunk 1`, then `icons merge`" in outcome.err
    shard.unlink()
    assert copy_of_finished.icons("train-grads", "--chunk", 1).code == 0
    again(copy_of_finished)
    assert selection(copy_of_finished) == before


def test_a_second_merge_reads_no_shard_again(copy_of_finished: Project) -> None:
    """A byte that changes under an unchanged time is not looked for by merge; the specialist finds it."""
    import os

    shard = chunk(copy_of_finished) / "shard-00000.safetensors"
    times = shard.stat()
    flip(shard)
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    index = copy_of_finished.run / "train_grads" / "final" / "index.json"
    content = read_sealed(index, "")
    content["checked"] = {path: (index.parent / path).stat().st_mtime_ns for path in content["checked"]}
    write_sealed(index, content)
    assert "already done" in copy_of_finished.icons("merge").out
    shutil.rmtree(copy_of_finished.run / "influence")
    outcome = copy_of_finished.icons("specialist")
    assert outcome.code == 2
    assert f"{shard} is not as it was written" in outcome.err


def test_a_flipped_bit_in_a_tasks_rows_is_named_with_the_task(copy_of_finished: Project) -> None:
    before, shard = selection(copy_of_finished), copy_of_finished.run / "val_grads" / "final" / "digit"
    flip(shard / "shard-00000.safetensors", -700)
    shutil.rmtree(copy_of_finished.run / "influence")
    outcome = copy_of_finished.icons("specialist")
    assert outcome.code == 2
    assert "delete it and run `icons val-grads --task digit`" in outcome.err
    (shard / "shard-00000.safetensors").unlink()
    assert copy_of_finished.icons("run").code == 0
    assert selection(copy_of_finished) == before


def test_a_shard_of_another_chunk_is_refused(copy_of_finished: Project) -> None:
    foreign = chunk(copy_of_finished, 0) / "shard-00000.safetensors"
    shutil.copy(foreign, chunk(copy_of_finished, 2) / "shard-00000.safetensors")
    assert "is not as it was written" in copy_of_finished.icons("merge").err


@pytest.mark.parametrize("change", ["flip", "cut", "by hand"])
def test_a_manifest_that_changed_is_refused_with_the_way_out(change: str, copy_of_finished: Project) -> None:
    path = chunk(copy_of_finished) / "manifest.json"
    if change == "flip":
        flip(path, -120)
    elif change == "cut":
        path.write_bytes(path.read_bytes()[:-50])
    else:
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "rows": [0, 1]}))
    for command in ("train-grads", "merge"):
        outcome = copy_of_finished.icons(command)
        assert outcome.code == 2
        assert f"{path} is damaged" in outcome.err
        assert f"delete the folder {path.parent}" in outcome.err


def test_an_entry_that_stands_twice_leaves_a_gap_that_is_refused(copy_of_finished: Project) -> None:
    path = chunk(copy_of_finished) / "manifest.json"
    content = read_sealed(path, "")
    content["shards"][1] = content["shards"][0]
    write_sealed(path, content)
    assert copy_of_finished.icons("merge").code == 2


def test_damaged_scores_are_made_again(copy_of_finished: Project) -> None:
    before, scores = selection(copy_of_finished), copy_of_finished.run / "influence" / "scores.safetensors"
    flip(scores, -300)
    assert "is damaged" in copy_of_finished.icons("generalist").err
    assert copy_of_finished.icons("run").code == 0
    assert selection(copy_of_finished) == before


@pytest.mark.parametrize("name", SELECTION)
def test_a_damaged_selection_is_written_again(name: str, copy_of_finished: Project) -> None:
    before, path = selection(copy_of_finished), copy_of_finished.run / "selection" / "vote-20" / name
    flip(path, -30)
    assert copy_of_finished.icons("generalist").code == 0
    assert selection(copy_of_finished) == before


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_damaged_adapter_is_refused_and_the_warmup_writes_it_again(name: str, copy_of_finished: Project) -> None:
    folder = copy_of_finished.run / "warmup" / "final"
    before = (folder / name).read_bytes()
    flip(folder / name, -40)
    outcome = copy_of_finished.icons("train-grads")
    assert outcome.code == 2
    assert f"{folder / name} is damaged" in outcome.err
    shutil.rmtree(folder)
    assert copy_of_finished.icons("run").code == 0
    assert (folder / name).read_bytes() == before


def test_stale_temporary_files_are_harmless(copy_of_finished: Project) -> None:
    before = selection(copy_of_finished)
    for folder in (chunk(copy_of_finished), copy_of_finished.run / "influence", copy_of_finished.run / "warmup"):
        (folder / ".shard-00000.safetensors.1-abc.tmp").write_bytes(b"half")
    again(copy_of_finished)
    assert selection(copy_of_finished) == before
