"""The command line itself: help, exit codes, start-up, and the commands that only look."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Project, icons
from tests.reference.selection import read_selection

STAGES = ("warmup", "train-grads", "merge", "val-grads", "specialist", "generalist")
COMMANDS = (*STAGES, "run", "report", "status", "validate", "inspect", "demo", "init", "tiny-model")


def test_help_names_every_command_and_does_not_import_torch() -> None:
    code = (
        "import sys\nfrom icons.cli import main\n"
        "try:\n main(['--help'])\nexcept SystemExit:\n pass\n"
        "heavy = {'torch', 'transformers', 'peft', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in COMMANDS:
        assert f" {command} " in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    outcome = icons(command, "--help")
    assert outcome.code == 0
    assert "Usage: icons" in outcome.out


def test_a_config_that_is_not_there() -> None:
    outcome = icons("run", "/nowhere/config.yaml")
    assert outcome.code == 2
    assert outcome.err == "error: /nowhere/config.yaml: cannot be read as a config file (No such file or directory)\n"


def test_an_unknown_option_is_a_users_mistake(finished: Project) -> None:
    assert finished.icons("run", "--fast").code == 2


def test_tiny_model_does_not_write_into_a_folder_in_use(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    outcome = icons("tiny-model", tmp_path)
    assert outcome.code == 2
    assert "is there already and not empty" in outcome.err


def test_inspect_shows_a_record_as_the_model_sees_it(finished: Project) -> None:
    records = json.loads((finished.root / "data" / "train.json").read_text())
    row = next(i for i, record in enumerate(records) if "image" in record)
    text = finished.icons("inspect", "--row", row).out
    answer = records[row]["conversations"][1]["value"]
    assert f"[[ {answer}</s>]]" in text or f"[[{answer}</s>]]" in text
    assert "USER: <image>" in text
    found = json.loads(finished.icons("inspect", "--row", row, "--json").out)
    assert found.keys() == {"input_ids", "labels", "image_sizes"}
    assert found["input_ids"].count(-200) == 1
    assert len(found["labels"]) == len(found["input_ids"])
    assert len(found["image_sizes"][0]) == 2


def test_inspect_cuts_where_the_model_would(finished: Project) -> None:
    whole = json.loads(finished.icons("inspect", "--row", 0, "--task", "text", "--json").out)
    length = len(whole["input_ids"]) - 1
    sets = ["--set", f"model.max_length={length}"]
    cut = json.loads(finished.icons("inspect", "--row", 0, "--task", "text", "--json", *sets).out)
    assert cut["input_ids"] == whole["input_ids"][:length]
    assert cut["labels"] == whole["labels"][:length]


def test_inspect_a_text_only_record_of_a_task(finished: Project) -> None:
    found = json.loads(finished.icons("inspect", "--row", 0, "--task", "text", "--json").out)
    assert found["image_sizes"] == []
    assert -200 not in found["input_ids"]


@pytest.mark.parametrize("options", [("--row", "1000"), ("--row", "-1"), ("--row", "0", "--task", "nope")])
def test_inspect_refuses_what_is_not_there(options: tuple[str, ...], finished: Project) -> None:
    assert finished.icons("inspect", *options).code == 2


def test_inspect_writes_nothing(project: Project) -> None:
    assert project.icons("inspect", "--row", 0).code == 0
    assert not project.run.exists()


def test_the_resolved_config_lies_beside_the_results(copy_of_finished: Project) -> None:
    (copy_of_finished.run / "selection" / "vote-20" / "selected_indices.json").unlink()
    assert copy_of_finished.icons("generalist").code == 0
    resolved = copy_of_finished.run / "config.yaml"
    again = icons("generalist", resolved)
    assert again.code == 0, again.err
    assert "already done" in again.out
    assert read_selection(copy_of_finished.run)["percent"] == 20
