"""Weights of several checkpoints from the warm-up's learning rates (LESS)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from icons.config_file import load_config
from icons.errors import UserError
from icons.stages.specialist.checkpoints import checkpoint_weights


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    rates = {1: 8.0, 2: 6.0, 3: 2.0, 4: 2.0, 5: 1.0}
    for step in (2, 4, 5):
        folder = tmp_path / "adapter" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        history = [{"step": s, "learning_rate": rate} for s, rate in rates.items() if s <= step]
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": history}))
    path = tmp_path / "config.yaml"
    path.write_text(
        "output_dir: run\nmodel: {base: ./m, adapter: adapter}\ntrain: {data: t.json}\n"
        "tasks: [{name: a, data: a.json}]\n"
    )
    return path


def weights(config_file: Path, *sets: str) -> list[float]:
    return checkpoint_weights(load_config(config_file, sets))


def test_each_counts_by_the_mean_rate_since_the_one_before(config_file: Path) -> None:
    assert weights(config_file, "gradients.checkpoints=[2, 4]") == pytest.approx([7 / 9, 2 / 9])
    assert weights(config_file, "gradients.checkpoints=[4, 2]") == pytest.approx([2 / 9, 7 / 9])
    assert weights(config_file, "gradients.checkpoints=[4, 5]") == pytest.approx([4.5 / 5.5, 1 / 5.5])


def test_given_weights_and_a_single_checkpoint(config_file: Path) -> None:
    assert weights(config_file, "gradients.checkpoints=[2]") == [1.0]
    sets = ["gradients.checkpoints=[2, 5]", "gradients.checkpoint_weights=[1, 3]"]
    assert weights(config_file, *sets) == [0.25, 0.75]


def test_without_a_history_weights_must_be_given(config_file: Path) -> None:
    (config_file.parent / "adapter" / "checkpoint-4" / "trainer_state.json").unlink()
    with pytest.raises(UserError, match=r"set gradients\.checkpoint_weights"):
        weights(config_file, "gradients.checkpoints=[2, 4]")
    with pytest.raises(UserError, match="expected one positive number"):
        weights(config_file, "gradients.checkpoints=[2, 4]", "gradients.checkpoint_weights=[1]")
