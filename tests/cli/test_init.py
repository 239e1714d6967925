"""icons init: a config that loads, says what its keys mean, and agrees with the example's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from icons.config_file import dump_config, load_config
from icons.new_config import EXAMPLES, example_lines
from tests.conftest import ROOT, Project, icons


def test_the_answers_are_in_the_config_and_every_other_key_has_its_default(tmp_path: Path) -> None:
    folder, data = tmp_path / "mine", tmp_path / "with: odd #1 'name'.json"
    answers = ["--model", "owner/name", "--data", data, "--images", tmp_path, "--output", tmp_path / "out"]
    outcome = icons("init", folder, *answers, "--task", "gqa=hf:owner/gqa", "--task", f"text={data}")
    assert outcome.code == 0, outcome.err
    config = load_config(folder / "config.yaml")
    assert (config.model.base, config.train.data, config.train.images) == ("owner/name", data, tmp_path)
    assert [(task.name, str(task.data)) for task in config.tasks] == [("gqa", "hf:owner/gqa"), ("text", str(data))]
    assert {task.images for task in config.tasks} == {tmp_path}
    plain = tmp_path / "plain.yaml"
    plain.write_text(
        dump_config(config.model_validate(config.model_dump(include={"output_dir", "model", "train", "tasks"})))
    )
    assert config == load_config(plain)
    assert [path.name for path in folder.iterdir()] == ["config.yaml"]


def test_without_answers_it_is_the_examples_start_and_says_what_to_fill_in(tmp_path: Path) -> None:
    outcome = icons("init", tmp_path)
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("to be filled in: ") == 5
    config, example = load_config(tmp_path / "config.yaml"), load_config(ROOT / "configs" / "example.yaml")
    assert config.output_dir == tmp_path / "run"
    assert config.tasks == example.tasks[:1]
    assert (config.model, config.train, config.warmup) == (example.model, example.train, example.warmup)


def test_every_key_has_the_examples_comment(tmp_path: Path) -> None:
    icons("init", tmp_path)
    written = (tmp_path / "config.yaml").read_text()
    keys = [line.strip().partition(":")[0] for line in written.splitlines() if ":" in line and "#" not in line[:5]]
    assert {"base", "data", "num_chunks", "max_steps", "tokens_per_batch", "percent", "on_bad_record"} <= set(keys)
    for line in example_lines():
        if line.key in ("model.base", "train.data", "model.template", "selection.method", "evaluation.tasks"):
            assert [comment for comment in (*line.beside, *line.above) if f"# {comment}\n" not in written] == []


def test_paths_are_those_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    assert icons("init", "mine", "--model", "model", "--data", "a.json", "--task", "t=b.json").code == 0
    config = load_config(tmp_path / "mine" / "config.yaml")
    assert config.model.base == str(tmp_path / "model")
    assert (config.train.data, config.train.images) == (tmp_path / "a.json", None)
    assert config.tasks[0].data == tmp_path / "b.json"


def test_the_config_of_a_project_that_is_there_validates(project: Project, tmp_path: Path) -> None:
    data, model = project.root / "data", project.raw["model"]["base"]
    tasks = ["--task", f"text={data / 'tasks' / 'text.json'}"]
    answers = ["--model", model, "--data", data / "train.json", "--images", data / "images", *tasks]
    assert "filled in" not in icons("init", tmp_path / "mine", *answers).out
    outcome = icons("validate", tmp_path / "mine" / "config.yaml")
    assert outcome.code == 0, outcome.err


def test_copies_of_the_scripts_and_the_configs(tmp_path: Path) -> None:
    assert icons("init", tmp_path, "--slurm", "--configs").code == 0
    for name in ("scripts", "configs"):
        originals = {path.name: path.read_bytes() for path in (ROOT / name).iterdir()}
        assert {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} == originals
        if (ROOT / ".git").exists():  # a source archive has files in the places of links
            assert (EXAMPLES / name).resolve() == ROOT / name, "one copy, and a link to it"
    assert os.access(tmp_path / "scripts" / "submit.sh", os.X_OK)


@pytest.mark.parametrize(
    "answer",
    [
        ["--task", "a b=x.json"],
        ["--task", "gqa"],
        ["--task", "a=x", "--task", "a=y"],
        ["--data", ""],
        ["--data", "a\0b"],
    ],
)
def test_what_can_be_in_no_config_writes_nothing(answer: list[str], tmp_path: Path) -> None:
    outcome = icons("init", tmp_path / "mine", *answer)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "mine").exists()


def test_a_folder_in_use_is_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    outcome = icons("init", tmp_path)
    assert outcome.code == 2
    assert outcome.err == f"error: {tmp_path} is there already and not empty; choose a new folder\n"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
