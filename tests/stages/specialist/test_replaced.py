"""Files replaced or written to while a stage reads them: the rows never get another file's digest."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icons.data.sets import open_records
from icons.errors import UserError
from icons.store.rows import read_manifest
from tests.conftest import Project


def before(monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[], None]) -> None:
    """`act` once, just before the first call of a function, which stays the real one."""
    module, _, function = name.rpartition(".")
    real = getattr(__import__(module, fromlist=[function]), function)
    done: list[bool] = []

    def first(*args: Any, **kwargs: Any) -> Any:
        if not done:
            done.append(True)
            act()
        return real(*args, **kwargs)

    monkeypatch.setattr(name, first)


def reverse(path: Path) -> None:
    """Another file takes the name: the same records from the last to the first."""
    other = path.with_suffix(".new")
    other.write_text(json.dumps(json.loads(path.read_text())[::-1]))
    os.replace(other, path)


@pytest.fixture
def trained(copy_of_finished: Project) -> Project:
    """With a warm-up and nothing behind it."""
    import shutil

    for name in ("train_grads", "val_grads", "influence", "selection", "report"):
        shutil.rmtree(copy_of_finished.run / name)
    return copy_of_finished


def test_a_tasks_file_replaced_during_another_task(trained: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    path = trained.root / "data" / "tasks" / "shape.json"
    old = open_records(path).sha256[:16]
    before(monkeypatch, "icons.stages.specialist.collect.collect", lambda: reverse(path))
    assert trained.icons("val-grads").code == 0
    manifest = read_manifest(trained.run / "val_grads" / "final" / "shape")
    assert manifest is not None
    assert manifest.fingerprint["data"] == old
    again = trained.icons("val-grads")
    assert again.code == 2
    assert "shape was begun with other inputs: data is" in again.err


def test_the_training_file_replaced_at_the_start(trained: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    path = trained.root / "data" / "train.json"
    old = open_records(path).sha256[:16]
    assert trained.icons("val-grads").code == 0
    before(monkeypatch, "icons.stages.specialist.train_grads.train_fingerprint", lambda: reverse(path))
    assert trained.icons("train-grads").code == 0
    for folder in (trained.run / "train_grads" / "final").glob("chunk-*"):
        manifest = read_manifest(folder)
        assert manifest is not None
        assert manifest.fingerprint["data"] == old
    merged = trained.icons("merge")
    assert merged.code == 2
    assert "data is" in merged.err


def test_workers_that_find_another_file_say_so(trained: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    path = trained.root / "data" / "train.json"
    assert trained.icons("val-grads").code == 0
    before(monkeypatch, "icons.stages.specialist.workers._start", lambda: reverse(path))
    outcome = trained.icons("train-grads", "--set", "gradients.workers=2")
    assert outcome.code == 2
    assert "train.data changed while this stage began; run it again" in outcome.err


def test_an_adapter_replaced_while_it_is_loaded(trained: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = trained.root / "adapter"
    (trained.run / "warmup" / "final").rename(adapter)
    weights = adapter / "adapter_model.safetensors"

    def other() -> None:
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)

    before(monkeypatch, "icons.stages.specialist.extractor.load_base", other)
    outcome = trained.icons("val-grads", "--set", f"model.adapter={adapter}")
    assert outcome.code == 2
    assert "adapter changed while this stage began; run it again" in outcome.err
    assert not list((trained.run / "val_grads").rglob("shard-*"))


def test_a_file_written_to_while_it_is_read(trained: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    path = trained.root / "data" / "tasks" / "colour.json"

    def append() -> None:
        with path.open("a") as file:
            file.write(" ")

    before(monkeypatch, "icons.stages.specialist.collect._shard", append)
    outcome = trained.icons("val-grads", "--task", "colour")
    assert outcome.code == 2
    assert f"{path}: changed while it was read" in outcome.err


def test_finetune_keeps_the_digest_of_what_it_read(copy_of_finished: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project = copy_of_finished
    path = project.root / "data" / "train.json"
    old = open_records(path).sha256[:16]
    before(monkeypatch, "icons.training.readable.unreadable", lambda: reverse(path))
    steps = ("--everything", "--set", "finetune.max_steps=2", "--set", "finetune.batch_size=4")
    assert project.icons("finetune", *steps).code == 0
    manifest = json.loads((project.run / "finetune" / "everything" / "manifest.json").read_text())
    assert manifest["fingerprint"]["data"] == old
    again = project.icons("finetune", *steps)
    assert again.code == 2
    assert "data is" in again.err


def test_records_opened_again_are_of_the_same_file(tmp_path: Path) -> None:
    import pickle

    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"id": number} for number in range(5)]))
    packed = pickle.dumps(open_records(path))
    assert pickle.loads(packed)[3] == {"id": 3}
    reverse(path)
    with pytest.raises(UserError, match="was replaced by another file"):
        pickle.loads(packed)


def test_a_damaged_header_of_the_cache_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every byte of the index in turn, as far as its metadata goes: the digest that it gives is always the file's."""
    monkeypatch.setattr("icons.data.json_records.SMALL", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"id": number} for number in range(50)]))
    digest = open_records(path).sha256
    index = tmp_path / ".icons-cache" / "a.json.safetensors"
    whole = index.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    rng = np.random.default_rng(0)
    for at in [whole.index(b'"sha256"') + 12, whole.index(b'"size"') + 9, *rng.integers(0, end, 40).tolist()]:
        damaged = bytearray(whole)
        damaged[at] = damaged[at] ^ 1
        index.write_bytes(damaged)
        records = open_records(path)
        assert records.sha256 == digest, at
        assert records[49] == {"id": 49}
