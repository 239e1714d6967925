"""The warm-up: which records, which parameters, what it leaves on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file

from icons.training.samples import random_part
from tests.conftest import Project


def test_the_random_part_is_seeded_and_has_the_asked_size() -> None:
    part = random_part(1000, 0.05, 0)
    assert len(part) == 50
    assert part == sorted(set(part)) == random_part(1000, 0.05, 0)
    assert part != random_part(1000, 0.05, 1)
    assert abs(np.mean(random_part(100_000, 0.1, 3)) - 50_000) < 1500


def test_the_language_models_lora_and_the_projector_are_trained(finished: Project, tiny_model: Path) -> None:
    tensors = load_file(finished.run / "warmup" / "final" / "adapter_model.safetensors")
    lora = {name for name in tensors if "lora_" in name}
    assert lora
    assert all(".language_model.layers." in name for name in lora)
    trained = [name for name in lora if "lora_B" in name and np.abs(tensors[name]).max() > 0]
    assert len(trained) == sum("lora_B" in name for name in lora)
    before = load_file(tiny_model / "model.safetensors")
    beside = {name: tensors[name] for name in tensors.keys() - lora}
    assert len(beside) == 4
    for name, tensor in beside.items():
        assert ".multi_modal_projector." in name
        (own,) = (array for stored, array in before.items() if name.endswith(stored))
        moved = np.abs(tensor - own).max()
        assert 0 < moved < 4 * 2e-5 * 1.01, "four of Adam's steps at the projector's own rate"


def test_the_projector_can_stay_as_it_is(project: Project) -> None:
    assert project.icons("warmup", "--set", "warmup.projector_learning_rate=null").code == 0
    tensors = load_file(project.run / "warmup" / "final" / "adapter_model.safetensors")
    assert all("lora_" in name for name in tensors)


def test_what_is_trained_is_float32_and_the_optimizer_has_two_groups(project: Project) -> None:
    outcome = project.icons("warmup", "--set", "model.dtype=bfloat16")
    assert outcome.code == 0, outcome.err
    checkpoint = project.run / "warmup" / "checkpoint-2"
    tensors = load_file(checkpoint / "adapter_model.safetensors")
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"float32"}
    optimizer = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    lora, projector = optimizer["param_groups"]
    assert (lora["initial_lr"], projector["initial_lr"]) == (1e-3, 2e-5)
    assert projector["lr"] / lora["lr"] == pytest.approx(2e-5 / 1e-3)
    assert 0 < lora["lr"] < 1e-3
    with safe_open(checkpoint / "adapter_model.safetensors", framework="np") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    lora_shapes = sorted(shape for name, shape in shapes.items() if "lora_" in name)
    assert sorted(tuple(optimizer["state"][number]["exp_avg"].shape) for number in lora["params"]) == lora_shapes
    assert len(projector["params"]) == len(shapes) - len(lora_shapes)


def test_a_log_and_a_plot_of_the_loss(finished: Project) -> None:
    entries = [json.loads(line) for line in (finished.run / "warmup" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [1, 2, 3, 4]
    for entry in entries:
        assert entry["loss"] > 0
        assert entry["tokens_per_second"] > entry["samples_per_second"] > 0
    assert entries[-1]["epoch"] == pytest.approx(1)
    with Image.open(finished.run / "warmup" / "loss.png") as image:
        assert image.size[0] > 400


def test_the_adapter_loads_in_plain_peft_and_the_optimizer_is_kept(finished: Project, tiny_model: object) -> None:
    from peft import PeftConfig

    for name in ("checkpoint-2", "checkpoint-4", "final"):
        folder = finished.run / "warmup" / name
        assert PeftConfig.from_pretrained(folder).r == 4
        assert (folder / "optimizer.pt").is_file()
        assert (folder / "trainer_state.json").is_file()


def test_the_loss_falls(project: Project) -> None:
    sets = ["--set", "warmup.max_steps=30", "--set", "warmup.epochs=20", "--set", "warmup.learning_rate=0.01"]
    assert project.icons("warmup", *sets).code == 0
    state = json.loads((project.run / "warmup" / "final" / "trainer_state.json").read_text())
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert losses[-1] < losses[0] - 1
    assert state["log_history"][-1]["step"] == 30


def test_other_settings_are_refused_not_mixed(copy_of_finished: Project) -> None:
    outcome = copy_of_finished.icons("warmup", "--set", "warmup.learning_rate=0.5")
    assert outcome.code == 2
    assert "learning_rate is 0.001, expected 0.5" in outcome.err


def test_an_adapter_of_ones_own_needs_no_warm_up(copy_of_finished: Project) -> None:
    outcome = copy_of_finished.icons("warmup", "--set", "model.adapter=run/warmup/final")
    assert outcome.code == 0
    assert "nothing to do" in outcome.out


def test_target_modules_can_be_named(project: Project) -> None:
    assert project.icons("warmup", "--set", "model.lora.target_modules=[q_proj, v_proj]").code == 0
    tensors = load_file(project.run / "warmup" / "final" / "adapter_model.safetensors")
    lora = [name for name in tensors if "lora_" in name]
    assert {name.split(".")[-3] for name in lora} == {"q_proj", "v_proj"}
    assert all(".language_model.layers." in name for name in lora)
    outcome = project.icons("warmup", "--set", "model.lora.target_modules=[nope]", "--set", "output_dir=other")
    assert outcome.code == 2
    assert "match no linear layer" in outcome.err
