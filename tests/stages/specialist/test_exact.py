"""Exact influence, gradient types, layers and several checkpoints, against full gradients of plain autograd."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor

from icons.config_file import load_config
from icons.data.samples import DataSource
from icons.data.sets import open_records
from icons.models.adapters import adam_moments, attach_adapter
from icons.models.loading import load_base
from tests.conftest import Project
from tests.reference.gradients import sequential_gradients
from tests.reference.projection import MATRIX
from tests.reference.selection import read_rows, read_selection, scores_from_disk, vote_from_scores


@pytest.fixture
def exact(copy_of_finished: Project) -> Project:
    """Few rows and two tasks, so that autograd can follow one by one; the finished run's adapter."""
    project = copy_of_finished
    records = json.loads((project.root / "data" / "train.json").read_text())
    (project.root / "data" / "train.json").write_text(json.dumps(records[:18]))
    project.raw["model"]["adapter"] = "run/warmup/final"
    project.raw["tasks"] = [t for t in project.raw["tasks"] if t["name"] in {"digit", "text"}]
    project.raw["output_dir"] = "exact"
    project.raw["gradients"] |= {"projection": "none", "shard_rows": 4}
    project.save()
    return project


def full_gradients(project: Project, checkpoint: int | str = "final") -> dict[str, list[dict[str, Tensor]]]:
    """Every sample's own gradient, one dictionary a sample, of the training data and of each task."""
    config = load_config(project.config)
    adapter = config.model.adapter
    assert adapter is not None
    folder = adapter if checkpoint == "final" else adapter.parent / f"checkpoint-{checkpoint}"
    model = attach_adapter(load_base(config.model), folder)
    found = {}
    for name, data in [("train", config.train), *((task.name, task) for task in config.tasks)]:
        source = DataSource(open_records(data.data, data.images), model.inputs)  # type: ignore[attr-defined]
        samples, _ = source.samples(range(len(source.records)))
        found[name], _ = sequential_gradients(model, source, samples)
    return found


def flat(gradient: dict[str, Tensor]) -> Tensor:
    return torch.cat([gradient[name].flatten().double() for name in sorted(gradient)])


def mean_cosines(train: list[Tensor], val: list[Tensor]) -> np.ndarray:
    unit = torch.stack([g / g.norm() for g in val]).mean(0)
    return np.array([float(g @ unit / g.norm()) for g in train])


def stored_scores(project: Project) -> np.ndarray:
    scores = load_file(project.root / project.raw["output_dir"] / "influence" / "scores.safetensors")["scores"]
    return np.asarray(scores)


def test_exact_scores_are_the_cosines_of_whole_gradients(exact: Project) -> None:
    outcome = exact.icons("run")
    assert outcome.code == 0, outcome.err
    gradients = full_gradients(exact)
    train = [flat(g) for g in gradients["train"]]
    for column, task in enumerate(["digit", "text"]):
        expected = mean_cosines(train, [flat(g) for g in gradients[task]])
        np.testing.assert_allclose(stored_scores(exact)[:, column], expected, rtol=0, atol=1e-5)
    rows = read_rows(exact.root / "exact" / "train_grads" / "final")
    assert "grads" not in rows
    assert rows["scores"].shape == (18, 2)
    np.testing.assert_allclose(rows["norms"], [float(g.norm()) for g in train], rtol=1e-4)
    _, selected = vote_from_scores(stored_scores(exact), rows["valid"], 20)
    assert read_selection(exact.root / "exact")["indices"] == selected


def test_exact_training_rows_need_the_tasks_first_and_notice_a_new_one(exact: Project) -> None:
    outcome = exact.icons("train-grads")
    assert outcome.code == 2
    assert "icons val-grads --task digit" in outcome.err
    assert exact.icons("run").code == 0
    exact.raw["tasks"][0]["name"] = "another"
    exact.save()
    assert exact.icons("val-grads").code == 0
    outcome = exact.icons("train-grads")
    assert outcome.code == 2
    assert "tasks is 'digit,text" in outcome.err


def test_exact_skips_bad_validation_records(exact: Project) -> None:
    path = exact.root / "data" / "tasks" / "digit.json"
    records = json.loads(path.read_text())
    path.write_text(json.dumps([{"id": "bad"}, *records]))
    outcome = exact.icons("run", "--set", "on_bad_record=skip")
    assert outcome.code == 0, outcome.err
    path.write_text(json.dumps(records))
    gradients = full_gradients(exact)
    expected = mean_cosines([flat(g) for g in gradients["train"]], [flat(g) for g in gradients["digit"]])
    np.testing.assert_allclose(stored_scores(exact)[:, 0], expected, rtol=0, atol=1e-5)


def test_sign_gradients(exact: Project) -> None:
    assert exact.icons("run", "--set", "gradients.type=sign").code == 0
    gradients = full_gradients(exact)
    train = [flat(g).sign() for g in gradients["train"]]
    expected = mean_cosines(train, [flat(g).sign() for g in gradients["digit"]])
    # The sign of an element of a rounding error's size is up to chance.
    np.testing.assert_allclose(stored_scores(exact)[:, 0], expected, rtol=0, atol=2e-3)


def adam_updates(project: Project, gradients: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """What Adam would make of each gradient, with the warm-up's moments."""
    config = load_config(project.config)
    assert config.model.adapter is not None
    moments, *_ = adam_moments(attach_adapter(load_base(config.model), config.model.adapter), config.model.adapter)

    def update(name: str, gradient: Tensor) -> Tensor:
        m, v = (moment.double() for moment in moments[name])
        g = gradient.flatten().double()
        return (0.9 * m + 0.1 * g) / torch.sqrt(0.999 * v + 0.001 * g * g + 1e-8)

    return [{name: update(name, gradient) for name, gradient in each.items()} for each in gradients]


def test_adam_gradients_on_the_training_side_alone(exact: Project) -> None:
    outcome = exact.icons("run", "--set", "gradients.type=adam")
    assert outcome.code == 0, outcome.err
    gradients = full_gradients(exact)
    updates = [flat(g) for g in adam_updates(exact, gradients["train"])]
    expected = mean_cosines(updates, [flat(g) for g in gradients["digit"]])
    np.testing.assert_allclose(stored_scores(exact)[:, 0], expected, rtol=0, atol=1e-5)
    plain = mean_cosines([flat(g) for g in gradients["train"]], [flat(g) for g in gradients["digit"]])
    assert np.abs(expected - plain).max() > 1e-3


def of_the_last_layer(gradients: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Of the second of two."""
    found = [{name: g for name, g in each.items() if ".layers.1." in name} for each in gradients]
    assert all(0 < len(some) < len(each) for some, each in zip(found, gradients, strict=True))
    return found


def test_exact_scores_of_the_last_layer_alone(exact: Project) -> None:
    outcome = exact.icons("run", "--set", "gradients.layers=last-1")
    assert outcome.code == 0, outcome.err
    assert "gradients of 9,760 of them (the last 1 of 2 layers)" in outcome.out
    gradients = {name: [flat(g) for g in of_the_last_layer(each)] for name, each in full_gradients(exact).items()}
    for column, task in enumerate(["digit", "text"]):
        expected = mean_cosines(gradients["train"], gradients[task])
        np.testing.assert_allclose(stored_scores(exact)[:, column], expected, rtol=0, atol=1e-5)
    rows = read_rows(exact.root / "exact" / "train_grads" / "final")
    np.testing.assert_allclose(rows["norms"], [float(g.norm()) for g in gradients["train"]], rtol=1e-4)


def test_rows_of_the_last_layer_are_projected_by_the_matrices_of_all(exact: Project) -> None:
    """Adam on the training side; a task's rows are plain gradients."""
    sets = ["gradients.layers=last-1", "gradients.projection=count_sketch", "gradients.dim=64", "gradients.type=adam"]
    outcome = exact.icons("run", *[part for each in sets for part in ("--set", each)])
    assert outcome.code == 0, outcome.err
    gradients = full_gradients(exact)
    sides = {
        "train_grads/final": of_the_last_layer(adam_updates(exact, gradients["train"])),
        "val_grads/final/digit": of_the_last_layer(gradients["digit"]),
    }
    sizes = {name: g.numel() for name, g in sides["train_grads/final"][0].items()}
    matrices = {name: MATRIX["count_sketch"](64, 0, name, size) for name, size in sizes.items()}
    for folder, expected in sides.items():
        rows = read_rows(exact.root / "exact" / folder)
        sums = [sum(matrices[name] @ g.flatten().double().numpy() for name, g in each.items()) for each in expected]
        unit = [row / np.linalg.norm(row) for row in sums]
        np.testing.assert_allclose(rows["grads"].astype(np.float64), unit, rtol=0, atol=1e-3)
    norms = [float(flat(g).norm()) for g in of_the_last_layer(gradients["train"])]
    np.testing.assert_allclose(read_rows(exact.root / "exact" / "train_grads/final")["norms"], norms, rtol=1e-4)


def test_adams_moments_are_given_to_the_right_tensors(project: Project) -> None:
    """After one step from B = 0, B is -lr · sign(m) wherever it moved."""
    sets = ["warmup.max_steps=1", "warmup.warmup_ratio=0", "warmup.save_steps=1"]
    assert project.icons("warmup", *[part for text in sets for part in ("--set", text)]).code == 0
    folder = project.run / "warmup" / "final"
    model = attach_adapter(load_base(load_config(project.config).model), folder)
    moments, *betas = adam_moments(model, folder)
    assert betas == [0.9, 0.999, 1e-8]
    stored = load_file(folder / "adapter_model.safetensors")
    assert moments.keys() == {name for name in stored if "lora_" in name}
    for name in moments:
        if "lora_B" in name:
            moved = np.abs(stored[name].flatten()) > 1e-5
            assert moved.any()
            np.testing.assert_array_equal(
                np.sign(stored[name].flatten()[moved]), -np.sign(moments[name][0].numpy()[moved])
            )


def test_adam_without_an_optimizer_is_refused(exact: Project) -> None:
    (exact.run / "warmup" / "final" / "optimizer.pt").unlink()
    assert exact.icons("val-grads", "--set", "gradients.type=adam").code == 0
    outcome = exact.icons("train-grads", "--set", "gradients.type=adam")
    assert outcome.code == 2
    assert "has no optimizer.pt" in outcome.err


@pytest.mark.parametrize("projection", ["none", "count_sketch"])
def test_checkpoints_are_summed_with_their_weights(projection: str, copy_of_finished: Project) -> None:
    project = copy_of_finished
    project.raw["gradients"] |= {"projection": projection}
    project.raw["output_dir"] = "several"
    project.raw["tasks"] = [t for t in project.raw["tasks"] if t["name"] in {"digit", "text"}]
    project.save()
    (project.root / "several").mkdir()
    (project.run / "warmup").rename(project.root / "several" / "warmup")
    weights = {2: 0.75, 4: 0.25}
    own = {}
    for step in weights:
        assert project.icons("run", "--set", f"gradients.checkpoints=[{step}]").code == 0
        own[step] = stored_scores(project)
    sets = ["--set", "gradients.checkpoints=[2, 4]", "--set", "gradients.checkpoint_weights=[3, 1]"]
    outcome = project.icons("run", *sets)
    assert outcome.code == 0, outcome.err
    expected = sum(weight * own[step] for step, weight in weights.items())
    np.testing.assert_allclose(stored_scores(project), expected, rtol=0, atol=1e-6)

    learned = project.icons("run", "--set", "gradients.checkpoints=[2, 4]")
    assert learned.code == 0, learned.err
    history = json.loads((project.root / "several" / "warmup" / "checkpoint-4" / "trainer_state.json").read_text())
    rates = {e["step"]: e["learning_rate"] for e in history["log_history"] if "learning_rate" in e}
    first, second = (rates[1] + rates[2]) / 2, (rates[3] + rates[4]) / 2
    expected = (first * own[2] + second * own[4]) / (first + second)
    np.testing.assert_allclose(stored_scores(project), expected, rtol=0, atol=1e-6)


def test_the_reference_reads_what_a_sketch_run_wrote(finished: Project) -> None:
    """So that the oracle of the other tests is known to look at real numbers."""
    scores = scores_from_disk(finished.run, {"digit": ["digit"]})
    assert np.abs(scores).max() > 0.01


def test_exact_scores_are_never_given_to_other_tasks(exact: Project) -> None:
    assert exact.icons("run").code == 0
    exact.raw["tasks"].reverse()
    exact.save()
    outcome = exact.icons("specialist")
    assert outcome.code == 2
    assert "the exact scores of final were made against other tasks" in outcome.err
    exact.raw["tasks"].pop()
    exact.save()
    assert exact.icons("specialist").code == 2


@pytest.mark.parametrize("projection", ["none", "count_sketch"])
def test_the_stored_norm_is_the_gradients_own_whatever_its_type(projection: str, exact: Project) -> None:
    sets = ["--set", "gradients.type=sign", "--set", f"gradients.projection={projection}"]
    assert exact.icons("run", *sets).code == 0
    rows = read_rows(exact.root / "exact" / "train_grads" / "final")
    expected = [float(flat(gradient).norm()) for gradient in full_gradients(exact)["train"]]
    np.testing.assert_allclose(rows["norms"], expected, rtol=1e-4)
