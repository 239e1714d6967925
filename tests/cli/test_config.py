"""The config file: one typed object, every mistake refused with file, line and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from icons.config_file import dump_config, load_config
from icons.errors import UserError
from tests.conftest import ROOT

GOOD = """\
output_dir: run
model: {base: models/m}
train: {data: train.json, images: images}
tasks:
  - {name: a, data: a.json}
  - {name: b, group: g, data: b.json}
  - {name: c, group: g, data: c.json}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def test_paths_are_relative_to_the_file_and_groups_are_one_column(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    assert config.output_dir == tmp_path / "run"
    assert config.train.data == tmp_path / "train.json"
    assert config.tasks[1].data == tmp_path / "b.json"
    assert config.columns == {"a": ["a"], "g": ["b", "c"]}


def test_published_values_are_the_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    assert (config.model.lora.r, config.model.lora.alpha, config.model.lora.dropout) == (128, 256, 0.05)
    assert (config.gradients.dim, config.gradients.seed, config.gradients.type) == (5120, 0, "sgd")
    assert (config.warmup.learning_rate, config.warmup.warmup_ratio, config.model.max_length) == (2e-4, 0.03, 2048)
    assert config.selection.percent == 20


def test_a_hub_id_stays_and_a_folder_becomes_absolute(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert load_config(path).model.base == "models/m"
    (tmp_path / "models" / "m").mkdir(parents=True)
    assert load_config(path).model.base == str(tmp_path / "models" / "m")
    assert load_config(path, ["model.base=./other"]).model.base == str(tmp_path / "other")


def test_the_saved_config_loads_to_the_same(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    assert load_config(write(tmp_path, dump_config(config))) == config


def test_overrides_are_read_as_yaml(tmp_path: Path) -> None:
    sets = ["selection.percent=10", "gradients.checkpoints=[500]", "tasks.0.name=z", "warmup.learning_rate=1e-3"]
    config = load_config(write(tmp_path, GOOD), sets)
    assert config.selection.percent == 10
    assert config.gradients.checkpoints == [500]
    assert config.tasks[0].name == "z"
    assert config.warmup.learning_rate == 1e-3


@pytest.mark.parametrize(
    ("change", "line", "words"),
    [
        (("output_dir: run", "output: run"), 1, ["unknown key 'output'", "output_dir"]),
        (("{base: models/m}", "{base: m, dtyp: float32}"), 2, ["unknown key 'model.dtyp'", "dtype"]),
        (("{name: b, group: g, data: b.json}", "{name: b, data: b.json, image: x}"), 6, ["tasks.1.image", "images"]),
        (("{base: models/m}", "{dtype: float32}"), 2, ["'model.base' is missing"]),
        (("{base: models/m}", "{base: m, dtype: int8}"), 2, ["model.dtype", "int8"]),
        (("name: b", "name: a"), None, ["'a' is used 2 times"]),
        (("group: g, data: b", "group: a, data: b"), None, ["'a' names both a group and a task"]),
        (("tasks:\n", "tasks:\n - [}\n"), 5, ["not valid YAML"]),
        (("tasks:\n", "train: {data: x}\ntasks:\n"), 4, ["'train' stands twice"]),
    ],
)
def test_a_mistake_is_named_with_its_line(
    tmp_path: Path, change: tuple[str, str], line: int | None, words: list[str]
) -> None:
    path = write(tmp_path, GOOD.replace(*change))
    with pytest.raises(UserError) as caught:
        load_config(path)
    message = str(caught.value)
    assert str(path) in message
    if line is not None:
        assert f"line {line}:" in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("override", ["selection", "train.data.x=1", "tasks.9.name=x", "a=[", "=3"])
def test_a_malformed_override_is_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(UserError, match="--set"):
        load_config(write(tmp_path, GOOD), [override])


def test_shipped_configs_load() -> None:
    shipped = sorted((ROOT / "configs").glob("*.yaml"))
    assert shipped
    for path in shipped:
        load_config(path)


@pytest.mark.parametrize("name", ["llava_665k", "cambrian_7m", "vision_flan_186k"])
def test_the_published_runs_have_ten_tasks_of_22_validation_sets(name: str) -> None:
    config = load_config(ROOT / "configs" / f"{name}.yaml")
    assert len(config.tasks) == 22
    assert len(config.columns) == 10
    assert len(config.columns["mme"]) == 13
    assert (config.gradients.dim, config.selection.percent, config.gradients.checkpoints) == (5120, 20, [500])
