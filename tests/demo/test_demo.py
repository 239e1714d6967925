"""The demo as a new user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import icons
from tests.reference.selection import read_selection


def test_the_demo_ends_with_a_table_and_can_be_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With half of the records and a short training of its model, which decide no line that is looked at here."""
    monkeypatch.setattr("icons.demo.start.STEPS", 30)
    monkeypatch.setattr("icons.demo.start.RECORDS", 480)
    monkeypatch.setattr("icons.demo.demo.TRAIN_RECORDS", 600)
    folder = tmp_path / "a demo"
    outcome = icons("demo", "--out", folder)
    assert outcome.code == 0, outcome.err
    tasks = ["shape", "colour", "count", "position", "digit", "text"]
    for task in tasks:
        assert f"\n{task} " in outcome.out
    assert "wrong answers: " in outcome.out
    page = folder / "run" / "report" / "index.html"
    assert f"\nTo look at: {page}\n" in outcome.out
    assert "120 of the 600 records of train.json" in page.read_text()
    selection = read_selection(folder / "run")
    assert selection["tasks"] == tasks
    assert len(selection["indices"]) == 120
    other = json.loads((folder / "run" / "selection" / "proportional-20" / "selected_indices.json").read_text())
    assert len(other["indices"]) == 120
    chosen = json.loads((folder / "run" / "selection" / "vote-20" / "selected_data.json").read_text())
    assert len(chosen) == 120
    again = icons("demo", "--out", folder)
    assert again.code == 0, again.err
    # warm-up, training rows, merge, seven tasks, specialist, generalist, report; then the other selection and the page
    assert again.out.count("already done") == 15
    assert read_selection(folder / "run") == selection
    other = icons("generalist", folder / "config.yaml", "--set", "selection.method=mean")
    assert "generalist mean-20: 120 of 600 selected" in other.out, other.err


def test_the_demo_leaves_other_peoples_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.json").write_text("mine")
    outcome = icons("demo", "--out", tmp_path)
    assert outcome.code == 2
    assert list(tmp_path.iterdir()) == [tmp_path / "data"]
    assert (tmp_path / "data" / "train.json").read_text() == "mine"
