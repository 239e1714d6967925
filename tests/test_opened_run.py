"""A run from Python: light to import, equal to the files, and nothing of the run is written; docs/python.md runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import icons
from icons.store.scores import read_scores
from tests.conftest import ROOT, Project

PAGE, NOTEBOOK = ROOT / "docs" / "python.md", ROOT / "docs" / "notebook.ipynb"


def files(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def test_importing_icons_loads_nothing_heavy() -> None:
    heavy = ["torch", "numpy", "transformers", "pydantic", "peft", "yaml", "typer"]
    code = f"import sys, icons; print([name for name in {heavy} if name in sys.modules], sorted(icons.__all__))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.stdout.split("]")[0] == "[", done.stdout + done.stderr
    assert all(getattr(icons, name) for name in icons.__all__)
    assert {*icons.__all__} <= {*dir(icons)}
    with pytest.raises(AttributeError, match="module 'icons' has no attribute 'select'"):
        _ = icons.select


def test_a_run_is_what_its_files_are(finished: Project) -> None:
    before = files(finished.run)
    run = icons.open_run(finished.config)
    indices = json.loads((finished.run / "selection" / "vote-20" / "selected_indices.json").read_text())["indices"]
    stored = read_scores(finished.run / "influence" / "scores.safetensors")
    assert run.config.selection.percent == 20
    np.testing.assert_array_equal(run.scores.scores, stored.scores)
    np.testing.assert_array_equal(run.votes, run.selection().votes)
    assert run.selections == ["vote-20"]
    assert np.flatnonzero(run.selection("vote-20").selected).tolist() == indices
    assert run.select().rows.tolist() == indices
    assert [run.records[row] for row in indices] == json.loads(
        (finished.run / "selection" / "vote-20" / "selected_data.json").read_text()
    )
    assert len(run.select("proportional", 10).rows) == 10
    drawn = [run.select("random", seed=seed).rows.tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert files(finished.run) == before


def test_a_plugin_selects_from_python(finished: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "highest_loss.py").write_text(
        "from icons.selection.registry import method\n@method('highest-loss')\ndef f(seen):\n    return seen.losses\n"
    )
    monkeypatch.chdir(tmp_path)
    run = icons.open_run(str(finished.config), ["selection.percent=5"])
    selected = run.select("highest-loss", plugin="highest_loss.py")
    assert set(selected.rows.tolist()) == set(np.argsort(run.scores.losses)[-5:].tolist())


def test_the_table_of_scores_is_a_data_frame(finished: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = icons.open_run(finished.config).scores
    scores.valid[3] = False
    frame = scores.table()
    tasks = [f"score_{name}" for name in scores.columns]
    assert list(frame) == ["valid", *tasks, "merged", "loss", "norm"]
    assert frame.index.name == "row"
    np.testing.assert_array_equal(np.delete(frame[tasks].to_numpy(), 3, 0), np.delete(scores.scores, 3, 0))
    assert frame.loc[3].drop("valid").isna().all()
    assert {str(kind) for kind in frame.dtypes} == {"bool", "float32"}
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(icons.UserError, match="needs the package pandas; pip install pandas"):
        scores.table()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"method": "voted"}, "'voted' is none of"),
        ({"percent": 0}, "selection.percent: Input should be greater than 0"),
        ({"precent": 5}, "selection.precent: "),
        ({"method": "less", "task": "nothing"}, "'nothing' is not scored"),
    ],
)
def test_mistakes_are_told_in_one_line(keys: dict[str, Any], words: str, finished: Project) -> None:
    with pytest.raises(icons.UserError, match=re.escape(words)) as error:
        icons.open_run(finished.config).select(**keys)
    assert "\n" not in str(error.value)


def test_a_selection_that_is_not_there_is_told_with_those_that_are(finished: Project) -> None:
    with pytest.raises(icons.UserError, match=r"no selection 'vote-30' in .*; there are: vote-20"):
        icons.open_run(finished.config).selection("vote-30")


def run_in_order(sources: list[str], title: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Executes the pieces as one program would; returns what they print."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, source in enumerate(sources):
        exec(compile(source, f"{title} piece {number}", "exec"), names)
    return capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks for it
def test_the_page_runs_as_written(
    finished: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == PAGE.read_text().count("```python") >= 4
    monkeypatch.chdir(finished.root)
    before = files(finished.run)
    out = run_in_order(blocks, PAGE.name, capsys)
    assert "100 records" in out
    assert files(finished.run) == before


def test_the_notebook_runs_from_top_to_bottom(
    finished: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    book = json.loads(NOTEBOOK.read_text())
    assert (book["nbformat"], {cell["cell_type"] for cell in book["cells"]}) == (4, {"markdown", "code"})
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    monkeypatch.chdir(finished.root)
    out = run_in_order(["".join(cell["source"]) for cell in cells], NOTEBOOK.name, capsys)
    assert "100 records" in out
