"""What is noticed: every change of input that changes a gradient, and every byte of a shard."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from icons.store.fingerprint import model_digest, tensors_digest
from icons.store.whole import mark_whole
from tests.conftest import Project


def test_a_change_in_any_tensor_changes_the_models_digest(tmp_path: Path) -> None:
    tensors = {name: np.zeros(size, np.float32) for name, size in [("a", 200_000), ("small", 3), ("z", 90_000)]}
    path = tmp_path / "model.safetensors"
    digests = set()
    for name in ("none", *tensors):
        changed = {key: value + np.float32(key == name) for key, value in tensors.items()}
        save_file(changed, path)
        digests.add(tensors_digest(path))
    assert len(digests) == 4
    before = model_digest(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert model_digest(tmp_path) != before


@pytest.mark.parametrize("change", [{"use_rslora": True}, {"alpha_pattern": {"q_proj": 99}}, {"lora_alpha": 3}])
def test_an_adapters_settings_are_part_of_what_a_row_was_made_of(
    change: dict[str, object], copy_of_finished: Project
) -> None:
    path = copy_of_finished.run / "warmup" / "final" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    outcome = copy_of_finished.icons("train-grads")
    assert outcome.code == 2
    assert f"{path} is damaged" in outcome.err
    mark_whole(path.parent)
    outcome = copy_of_finished.icons("train-grads")
    assert outcome.code == 2
    assert "lora is" in outcome.err


@pytest.mark.parametrize("name", ["train_grads/final/chunk-00001-of-00003", "val_grads/final/digit"])
def test_a_changed_byte_in_a_shard_is_never_used(name: str, copy_of_finished: Project) -> None:
    shard = copy_of_finished.run / name / "shard-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-2000] ^= 1
    shard.write_bytes(content)
    (copy_of_finished.run / "influence" / "scores.safetensors").unlink()
    (copy_of_finished.run / "influence" / "parts" / "manifest.json").unlink()
    outcome = copy_of_finished.icons("specialist")
    assert outcome.code == 2
    assert f"{shard} is not as it was written" in outcome.err
    shard.unlink()
    assert copy_of_finished.icons("run").code == 0


def test_rows_that_were_skipped_are_not_silently_kept(copy_of_finished: Project) -> None:
    project = copy_of_finished
    project.raw["model"]["adapter"] = "run/warmup/final"
    project.raw["output_dir"] = "other"
    project.save()
    image = (
        project.root / "data" / "images" / json.loads((project.root / "data" / "train.json").read_text())[5]["image"]
    )
    image.rename(image.with_suffix(".away"))
    assert project.icons("train-grads", "--set", "on_bad_record=skip").code == 0
    image.with_suffix(".away").rename(image)
    outcome = project.icons("train-grads")
    assert outcome.code == 2
    assert "an earlier run skipped" in outcome.err
    assert "row 5 " in outcome.err


def test_matrices_of_another_run_do_not_stay_beside_new_ones(copy_of_finished: Project) -> None:
    folder = copy_of_finished.run / "influence" / "digit"
    (folder / "matrix-00099.safetensors").write_bytes(b"old")
    copy_of_finished.raw["influence"] = {"save_matrix": True}
    copy_of_finished.raw["tasks"].pop()
    copy_of_finished.save()
    assert copy_of_finished.icons("specialist").code == 0
    assert not (folder / "matrix-00099.safetensors").exists()
    first = folder / "matrix-00000.safetensors"
    before = load_file(first)["influence"]
    first.unlink()
    outcome = copy_of_finished.icons("specialist")
    assert "already done" not in outcome.out
    np.testing.assert_array_equal(load_file(first)["influence"], before)


def test_the_users_own_config_is_never_written_to(copy_of_finished: Project) -> None:
    resolved = copy_of_finished.run / "config.yaml"
    before = resolved.read_bytes()
    assert copy_of_finished.icons("train-grads", "--set", "gradients.dim=32").code == 2
    assert resolved.read_bytes() == before
    copy_of_finished.raw["output_dir"] = "."
    text = "# mine\n" + copy_of_finished.config.read_text().replace("output_dir: run", "output_dir: .")
    copy_of_finished.config.write_text(text)
    for folder in ("warmup", "train_grads", "val_grads", "influence"):
        (copy_of_finished.run / folder).rename(copy_of_finished.root / folder)
    outcome = copy_of_finished.icons("generalist")
    assert outcome.code == 0, outcome.err
    assert copy_of_finished.config.read_text() == text
