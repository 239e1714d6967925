"""What is said, where it is kept, and how soon a command says it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from icons import __version__, progress
from icons.progress import only_errors
from tests.cli.test_cli import COMMANDS
from tests.conftest import Project, icons


def test_the_version() -> None:
    assert icons("--version").out == f"icons {__version__}\n"


def test_help_stands_in_panels_the_pipeline_first() -> None:
    panels = re.findall(r"╭─ (.+?) ─", icons("--help").out)
    assert panels == ["Options", "Pipeline", "Training and use", "Look", "Set-up"]
    listed = re.findall(r"^│ ([a-z][a-z-]+) ", icons("--help").out, re.MULTILINE)
    assert listed[0] == "run"
    assert set(listed) >= set(COMMANDS)


def test_generalist_names_its_methods() -> None:
    told = " ".join(icons("generalist", "--help").out.split())
    assert "vote" in told
    assert "proportional" in told


def test_quiet_says_errors_and_answers_alone(finished: Project, tmp_path: Path) -> None:
    try:
        assert icons("--quiet", "generalist", finished.config).out == ""
        assert "generalist" in icons("-q", "status", finished.config).out
        outcome = icons("-q", "generalist", tmp_path / "none.yaml")
        assert outcome.err.startswith("error: ")
    finally:
        only_errors(False)


def test_the_log_has_every_line_with_its_time(finished: Project, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "run.log"
    code = "import sys; from icons.cli import main; main(sys.argv[1:])"
    for command in (["generalist", finished.config], ["generalist", tmp_path / "none.yaml"]):
        subprocess.run([sys.executable, "-c", code, "--log", log, *command], capture_output=True, check=False)
    lines = log.read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines)
    assert [line[20:27] for line in lines] == ["icons -", "general", "icons -", "error: "]


def test_the_lines_of_a_long_stage_have_their_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with progress.Progress("train-grads", 4) as bar:
        bar.advance(1)
    line = capsys.readouterr().err
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d train-grads: 1/4 samples \(25%\), ", line)


@pytest.mark.parametrize("command", ["train-grads", "merge", "val-grads", "validate", "inspect", "finetune", "export"])
def test_a_config_that_is_not_there_is_told_before_torch_is_loaded(command: str, tmp_path: Path) -> None:
    """4.5 seconds of waiting for a slip of the finger."""
    more = {"inspect": ["--row", "0"], "export": [str(tmp_path / "out")]}.get(command, [])
    code = (
        "import sys\nfrom icons.cli import main\n"
        "try:\n main(sys.argv[1:])\nexcept SystemExit as stop:\n assert stop.code == 2\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, command, str(tmp_path / "none.yaml"), *more], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "none.yaml: cannot be read" in done.stderr


@pytest.mark.parametrize("command", ["train-grads", "merge", "val-grads", "specialist", "generalist"])
def test_a_finished_stage_says_so_without_torch(command: str, finished: Project) -> None:
    code = (
        "import sys\nfrom icons.cli import main\n"
        "try:\n main(sys.argv[1:])\nexcept SystemExit as stop:\n assert not stop.code\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, command, finished.config], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "already done" in done.stdout
