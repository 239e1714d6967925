"""What a person asks a finished run: why a row is in, what there is, how two selections differ."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import Project, icons


@pytest.fixture(scope="module")
def asked(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The finished run with a second selection."""
    root = tmp_path_factory.mktemp("asked")
    shutil.copytree(finished.root, root, dirs_exist_ok=True)
    project = Project(root, finished.raw)
    outcome = project.icons("generalist", "--set", "selection.method=mean")
    assert outcome.code == 0, outcome.err
    return project


def test_inspect_says_why_a_row_is_in_or_out(asked: Project) -> None:
    indices = json.loads((asked.run / "selection" / "vote-20" / "selected_indices.json").read_text())["indices"]
    out = next(row for row in range(100) if row not in indices)
    for row, state in ((indices[0], "in"), (out, "out")):
        told = asked.icons("inspect", "--row", row).out
        assert "scores (percent of the rows that are not above it): " in told
        assert re.search(rf"^vote-20: {state}, place \d+ of 100: \d+ votes?, ", told, re.MULTILINE)
        assert re.search(r"^mean-20: (in|out), place \d+ of 100: value ", told, re.MULTILINE)
    places = [
        int(re.search(r"^vote-20: \w+, place (\d+)", asked.icons("inspect", "--row", row).out, re.MULTILINE)[1])  # type: ignore[index]
        for row in indices[:3]
    ]
    assert all(place <= 20 for place in places)


def test_status_lists_what_there_is(asked: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    out = asked.icons("status").out
    assert re.search(r"^selection    mean-20 +20 of 100 records by mean$", out, re.MULTILINE)
    assert re.search(r"^ +vote-20 +20 of 100 records by vote$", out, re.MULTILINE)
    assert re.search(r"^report +index\.html", out, re.MULTILINE)
    found = json.loads(asked.icons("status", "--json").out)["results"]
    assert {(each["kind"], each["name"]) for each in found} >= {("selection", "vote-20"), ("report", "index.html")}
    shutil.rmtree(asked.run / "train_grads" / "final" / "chunk-00001-of-00003")
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "again    icons train-grads or icons run" in asked.icons("status").out


def test_compare_takes_the_names_of_a_run_and_folders(asked: Project, tmp_path: Path) -> None:
    by_name = icons("compare", asked.config, "vote-20", "mean-20")
    assert by_name.code == 0, by_name.err
    folders = [asked.run / "selection" / name for name in ("vote-20", "mean-20")]
    by_folder = icons("compare", *folders, "--data", asked.config)
    assert by_folder.out == by_name.out
    missing = icons("compare", asked.config, "vote-20", "vote-30")
    assert missing.code == 2
    assert "no selection vote-30 in " in missing.err
    assert "there are mean-20, vote-20" in missing.err
