"""The warm-up: which records, which parameters, what it leaves on disk."""

from __future__ import annotations

import json

import numpy as np
from safetensors.numpy import load_file

from icons.training.samples import random_part
from tests.conftest import Project


def test_the_random_part_is_seeded_and_has_the_asked_size() -> None:
    part = random_part(1000, 0.05, 0)
    assert len(part) == 50
    assert part == sorted(set(part)) == random_part(1000, 0.05, 0)
    assert part != random_part(1000, 0.05, 1)
    assert abs(np.mean(random_part(100_000, 0.1, 3)) - 50_000) < 1500


def test_only_the_language_models_lora_is_trained(finished: Project) -> None:
    tensors = load_file(finished.run / "warmup" / "final" / "adapter_model.safetensors")
    assert tensors
    assert all(".language_model.layers." in name for name in tensors)
    trained = [name for name in tensors if "lora_B" in name and np.abs(tensors[name]).max() > 0]
    assert len(trained) == sum("lora_B" in name for name in tensors)


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
    assert {name.split(".")[-3] for name in tensors} == {"q_proj", "v_proj"}
    assert all(".language_model.layers." in name for name in tensors)
    outcome = project.icons("warmup", "--set", "model.lora.target_modules=[nope]", "--set", "output_dir=other")
    assert outcome.code == 2
    assert "match no linear layer" in outcome.err
