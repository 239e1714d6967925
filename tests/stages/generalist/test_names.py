"""Two selections never share a folder, and what is damaged or edited is not used."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from icons.config import SelectionConfig
from icons.selection.consensus import budget
from tests.conftest import Project, icons


def names(project: Project) -> set[str]:
    return {path.name for path in (project.run / "selection").iterdir()}


def test_percentages_that_differ_have_names_that_differ(copy_of_finished: Project) -> None:
    for percent in ("33.33333", "33.33334", "7.5", "20"):
        assert copy_of_finished.icons("generalist", "--set", f"selection.percent={percent}").code == 0
    assert {"vote-33.33333", "vote-33.33334", "vote-7.5", "vote-20"} <= names(copy_of_finished)
    assert SelectionConfig(percent=1e-5).name == "vote-1e-05"


@pytest.mark.parametrize(
    ("method", "first", "second", "words"),
    [
        ("vote", "tie_break=rank", "tie_break=index", "selection.tie_break 'rank', and the config has 'index'"),
        ("spice", "spice.pool=64", "spice.pool=32", "selection.spice"),
        ("proportional", "proportional.approve=10", "proportional.approve=20", "selection.proportional"),
    ],
)
def test_other_settings_do_not_take_a_finished_ones_place(
    method: str, first: str, second: str, words: str, copy_of_finished: Project
) -> None:
    project = copy_of_finished
    made = project.icons("generalist", "--set", f"selection.method={method}", "--set", f"selection.{first}")
    assert made.code == 0, made.err
    content = (project.run / "selection" / f"{method}-20" / "selected_indices.json").read_bytes()
    other = ("--set", f"selection.method={method}", "--set", f"selection.{second}")
    refused = project.icons("generalist", *other)
    assert refused.code == 2
    assert words in refused.err
    assert "choose another selection.name" in refused.err
    assert (project.run / "selection" / f"{method}-20" / "selected_indices.json").read_bytes() == content
    assert project.icons("generalist", *other, "--set", "selection.name=mine").code == 0


def test_another_plugin_does_not_take_a_finished_ones_place(copy_of_finished: Project) -> None:
    plugin = copy_of_finished.root / "own.py"
    code = "from icons.selection.registry import method\n@method('own')\ndef own(seen):\n    return {}seen.losses\n"
    plugin.write_text(code.format(""))
    options = ("--set", f"selection.plugin={plugin}", "--set", "selection.method=own")
    assert copy_of_finished.icons("generalist", *options).code == 0
    plugin.write_text(code.format("-"))
    refused = copy_of_finished.icons("generalist", *options)
    assert refused.code == 2
    assert "selection.plugin" in refused.err


def test_the_selection_of_earlier_scores_is_kept_beside(copy_of_finished: Project) -> None:
    project = copy_of_finished
    path = project.run / "selection" / "vote-20" / "selected_indices.json"
    old = json.loads(path.read_text())
    project.raw["tasks"] = project.raw["tasks"][:-1]
    project.save()
    outcome = project.icons("run")
    assert outcome.code == 0, outcome.err
    beside = project.run / "selection" / f"vote-20.{old['fingerprint'][:8]}" / "selected_indices.json"
    assert json.loads(beside.read_text()) == old
    assert f"the selection of earlier scores is kept as {beside.parent.name}" in outcome.out
    assert json.loads(path.read_text())["tasks"] == old["tasks"][:-1]


def edited(path: Path) -> None:
    content = json.loads(path.read_text())
    content["indices"] = sorted({*content["indices"][1:], next(n for n in range(100) if n not in content["indices"])})
    path.write_text(json.dumps(content))


def test_an_edited_selection_is_used_by_nobody(copy_of_finished: Project, finished: Project) -> None:
    project = copy_of_finished
    path = project.run / "selection" / "vote-20" / "selected_indices.json"
    whole = finished.run / "selection" / "vote-20" / "selected_indices.json"
    edited(path)
    for outcome in (
        project.icons("finetune"),
        project.icons("finetune", "--indices", path),
        project.icons("report"),
        icons("compare", path, whole),
        icons("compare", whole, path),
    ):
        assert outcome.code == 2, outcome.out
        assert f"{path} is damaged" in outcome.err
    assert "damaged" in project.icons("status").out


def test_damaged_votes_are_compared_by_nobody(copy_of_finished: Project, finished: Project) -> None:
    folder = copy_of_finished.run / "selection" / "vote-20"
    content = bytearray((folder / "votes.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "votes.safetensors").write_bytes(content)
    whole = finished.run / "selection" / "vote-20" / "selected_indices.json"
    outcome = icons("compare", folder / "selected_indices.json", whole)
    assert outcome.code == 2
    assert "votes.safetensors is not as it was written" in outcome.err


def test_flipped_bytes_in_a_matrix_do_not_change_the_stability(copy_of_finished: Project) -> None:
    project = copy_of_finished
    asked = ("--set", "selection.stability=true")
    assert project.icons("generalist", *asked).code == 0
    path = sorted((project.run / "influence" / "colour").glob("matrix-*"))[0]
    whole = path.read_bytes()
    for at in np.random.default_rng(0).integers(0, len(whole), 12).tolist():
        content = bytearray(whole)
        content[at] ^= 0x40
        path.write_bytes(content)
        outcome = project.icons("generalist", *asked)
        told = outcome.code == 2 and str(path) in outcome.err
        assert told or "run `icons specialist` again" in outcome.out, (at, outcome.out)
        path.write_bytes(whole)


def test_an_id_is_the_same_as_text_and_as_number(tmp_path: Path) -> None:
    """Other trainers get copies with text ids; where two records share an id, their contents tell them apart."""
    records = [
        {"id": number // 2, "conversations": [{"from": "human", "value": str(number)}, {"from": "gpt", "value": "x"}]}
        for number in range(6)
    ]
    (tmp_path / "a.json").write_text(json.dumps(records))
    (tmp_path / "b.json").write_text(json.dumps([{**record, "id": str(record["id"])} for record in records]))
    report = json.loads(icons("compare", tmp_path / "a.json", tmp_path / "b.json", "--json").out)
    assert (report["both"], report["both_with_other_content"]) == (6, 0)


@pytest.mark.parametrize(
    ("rows", "percent", "count"), [(100, 29, 29), (100, 57, 57), (1000, 0.7, 7), (665_298, 20, 133_059)]
)
def test_whole_percentages_give_whole_numbers(rows: int, percent: float, count: int) -> None:
    assert budget(rows, percent) == count
    assert all(budget(100, whole) == whole for whole in range(1, 101))
