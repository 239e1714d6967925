"""Settings or files changed behind finished stages: whatever would use the results says what differs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from icons.settings import MARK
from tests.conftest import Project

CHANGES = {
    "gradients.seed=5": "gradients.seed is 0 there, 5 in the config",
    "gradients.dim=256": "gradients.dim is 512 there, 256 in the config",
    "gradients.type=sign": "gradients.type is 'sgd' there, 'sign' in the config",
    "gradients.layers=last-1": "gradients.layers is 'all' there, 'last-1' in the config",
    "gradients.projection=rademacher": "gradients.projection is 'count_sketch' there",
    "model.max_length=1000": "model.max_length is 2048 there, 1000 in the config",
    "model.image_aspect_ratio=square": "model.image_aspect_ratio is 'pad' there",
    "model.template=chat_template": "model.template is 'vicuna_v1' there",
    "gradients.checkpoint_weights=[2.0]": "gradients.checkpoint_weights is None there, '2.0' in the config",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_setting_is_told_by_every_stage(change: str, finished: Project) -> None:
    before = (finished.run / "config.yaml").read_bytes()
    for command in ("specialist", "generalist", "report"):
        if change.startswith("gradients.checkpoint_weights") and command == "specialist":
            continue  # which scores anew, as weights are its own business
        outcome = finished.icons(command, "--set", change)
        assert outcome.code == 2, (command, outcome.out)
        assert CHANGES[change] in outcome.err, (command, outcome.err)
        assert len(outcome.err.splitlines()) == 1
    assert (finished.run / "config.yaml").read_bytes() == before
    pieces = json.loads(finished.icons("status", "--json", "--set", change).out)["pieces"]
    stale = {piece["stage"] for piece in pieces if piece["state"] == "stale"}
    assert "specialist" in stale
    if "weights" not in change:
        assert {"val-grads", "train-grads", "merge"} <= stale
    assert any(CHANGES[change].partition(" there")[0] in piece["detail"] for piece in pieces)


def test_runs_made_before_there_was_a_choice_of_layers_stay_as_they_are(finished: Project) -> None:
    """What is made of all layers does not say so, as nothing did before."""
    manifests = [json.loads(path.read_text()) for path in finished.run.glob("*_grads/final/*/manifest.json")]
    assert len(manifests) > 3
    assert all("layers" not in manifest["fingerprint"] for manifest in manifests)
    outcome = finished.icons("specialist", "--set", "gradients.layers=all")
    assert "already done" in outcome.out, outcome.err


def test_swapped_task_files_are_told_by_every_stage(copy_of_finished: Project) -> None:
    project = copy_of_finished
    tasks = project.root / "data" / "tasks"
    (tasks / "count.json").rename(tasks / "x")
    (tasks / "colour.json").rename(tasks / "count.json")
    (tasks / "x").rename(tasks / "colour.json")
    for command in ("specialist", "generalist", "report", "run"):
        outcome = project.icons(command)
        assert outcome.code == 2, outcome.out
        assert "colour" in outcome.err
    assert "the file of task colour is another file by now" in project.icons("generalist").err
    assert "stale" in project.icons("status").out


def test_what_is_gone_is_not_compared(copy_of_finished: Project) -> None:
    """Gradients and adapters may be deleted once all is scored."""
    import shutil

    for name in ("train_grads", "val_grads", "warmup"):
        shutil.rmtree(copy_of_finished.run / name)
    outcome = copy_of_finished.icons("generalist", "--set", "selection.percent=10")
    assert outcome.code == 0, outcome.err


def test_rows_that_are_newer_than_the_scores_are_not_read(copy_of_finished: Project) -> None:
    project = copy_of_finished
    config = project.run / "val_grads" / "final" / "colour"
    from icons.store.files import read_sealed, write_sealed

    manifest = read_sealed(config / "manifest.json", "")
    shard = manifest["shards"][0]
    content = bytearray((config / shard["file"]).read_bytes())
    content[-100] ^= 1
    (config / shard["file"]).write_bytes(content)
    import hashlib

    shard["sha256"] = hashlib.sha256(content).hexdigest()
    write_sealed(config / "manifest.json", manifest)
    for method in ("spice", "proportional", "coverage"):
        outcome = project.icons("generalist", "--set", f"selection.method={method}")
        assert outcome.code == 2, method
        assert "is not of the gradient rows that are there by now" in outcome.err


def settings(path: Path) -> dict[str, object]:
    text = path.read_text()
    assert text.startswith(MARK)
    content: dict[str, object] = yaml.safe_load(text)
    return content


def test_the_kept_settings_are_those_of_each_stage(copy_of_finished: Project) -> None:
    project = copy_of_finished
    path = project.run / "config.yaml"
    before = settings(path)
    assert project.icons("generalist", "--set", "selection.percent=10", "--set", "warmup.max_steps=99").code == 0
    after = settings(path)
    assert after["selection"]["percent"] == 10  # type: ignore[index]
    for section in after.keys() - {"selection", "output_dir"}:
        assert after[section] == before[section], section
    assert project.icons("report", "--set", "finetune.epochs=7").code == 0
    assert settings(path) == after


def test_a_users_own_config_in_the_output_folder_is_left_alone(copy_of_finished: Project) -> None:
    project = copy_of_finished
    other = project.root / "experiment.yaml"
    raw = {**project.raw, "output_dir": "."}
    other.write_text(yaml.safe_dump(raw))
    project.config.write_text("# another experiment\n")
    from tests.conftest import icons

    outcome = icons("warmup", other)
    assert outcome.code == 0, outcome.err
    assert project.config.read_text() == "# another experiment\n"
    assert settings(project.root / "config.icons.yaml")["output_dir"] == str(project.root)
