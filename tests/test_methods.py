"""Every selection method against NumPy, through the command line; a third party's, by the documented steps."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from icons.selection.cut import cut_of
from icons.selection.methods import built_in
from icons.selection.registry import find_method, method
from tests.conftest import Project

DOCS = Path(__file__).parents[1] / "docs" / "methods.md"


def generalist(project: Project, **settings: Any) -> dict[str, Any]:
    sets = [part for key, value in settings.items() for part in ("--set", f"selection.{key}={value}")]
    outcome = project.icons("generalist", *sets)
    assert outcome.code == 0, outcome.err
    names = sorted((project.run / "selection").glob("*/selected_indices.json"), key=lambda path: path.stat().st_mtime)
    found: dict[str, Any] = json.loads(names[-1].read_text()) | {"folder": names[-1].parent, "said": outcome.out}
    return found


def rows_of(project: Project, name: str) -> np.ndarray:
    """A tensor of every training row, from the shards of the chunks."""
    parts = [load_file(path) for path in (project.run / "train_grads" / "final").glob("*/shard-*.safetensors")]
    rows, values = (np.concatenate([part[key] for part in parts]) for key in ("rows", name))
    return values[np.argsort(rows)]


def top(values: np.ndarray, count: int) -> list[int]:
    return sorted(np.argsort(-values, kind="stable")[:count].tolist())


@pytest.mark.parametrize("name", ["mean", "max", "norm", "loss", "grad-norm", "direct-merge", "less"])
def test_a_method_selects_the_rows_of_its_definition(copy_of_finished: Project, name: str) -> None:
    scores = load_file(copy_of_finished.run / "influence" / "scores.safetensors")["scores"].astype(np.float64)
    columns = list(dict.fromkeys(task.get("group") or task["name"] for task in copy_of_finished.raw["tasks"]))
    grads = rows_of(copy_of_finished, "grads").astype(np.float64)
    merged = np.zeros(len(grads))
    for path in (copy_of_finished.run / "val_grads" / "final").glob("*/shard-*.safetensors"):
        merged += (grads @ load_file(path)["grads"].T.astype(np.float64)).sum(axis=1)
    values = {
        "mean": scores.mean(1),
        "max": scores.max(1),
        "norm": ((scores - scores.mean(0)) / scores.std(0)).mean(1),
        "loss": rows_of(copy_of_finished, "losses"),
        "grad-norm": rows_of(copy_of_finished, "norms"),
        "direct-merge": merged,
        "less": scores[:, columns.index("count")],
    }[name]
    found = generalist(copy_of_finished, method=name, **({"task": "count"} if name == "less" else {}))
    assert found["indices"] == top(values, 20)
    assert found["folder"].name == ("less-count-20" if name == "less" else f"{name}-20")
    assert found["method"] == name


def test_every_method_gives_the_same_files_side_by_side(copy_of_finished: Project) -> None:
    for name in built_in():
        settings = {"task": "text"} if name == "less" else {}
        found = generalist(copy_of_finished, method=name, percent=10, **settings)
        assert len(found["indices"]) == 10
        records = json.loads((found["folder"] / "selected_data.json").read_text())
        train = json.loads((copy_of_finished.root / "data" / "train.json").read_text())
        assert records == [train[row] for row in found["indices"]]
        stored = load_file(found["folder"] / "votes.safetensors")
        chosen = np.isin(np.arange(len(train)), found["indices"])
        assert stored["values"][chosen].min() >= stored["values"][~chosen].max()
        assert stored["votes"].dtype == np.int16
    assert len(list((copy_of_finished.run / "selection").iterdir())) == len(built_in()) + 1
    assert "already done" in copy_of_finished.icons("generalist").out


def test_random_follows_its_seed(copy_of_finished: Project) -> None:
    first, other = (generalist(copy_of_finished, method="random", seed=seed) for seed in (0, 1))
    assert first["indices"] != other["indices"]
    assert [first["folder"].name, other["folder"].name] == ["random-20", "random-20-seed1"]


def test_spice_says_how_its_choice_compares(copy_of_finished: Project) -> None:
    found = generalist(copy_of_finished, method="spice", spice={"pool": 10, "keep": 5})
    assert "log-determinant" in found["said"]
    assert found["notes"]["spice"]["log_determinant"] > found["notes"]["random"]["log_determinant"]
    assert found["notes"]["spice"]["rows"] == 20


def test_the_cut_is_counted(copy_of_finished: Project) -> None:
    found = generalist(copy_of_finished)
    votes = load_file(found["folder"] / "votes.safetensors")["votes"]
    lowest = votes[found["indices"]].min()
    above, tied = int((votes > lowest).sum()), int((votes == lowest).sum())
    expected = {"value": float(lowest), "above": above, "tie_class": tied, "taken": 20 - above}
    assert found["cut"] == expected | {"share_by_tie_break": (20 - above) / 20 if 20 - above < tied else 0.0}


def test_a_clean_cut_leaves_nothing_to_the_tie_break() -> None:
    values, valid = np.array([3.0, 1.0, 2.0, 2.0, 3.0]), np.array([True, True, True, True, False])
    clean = cut_of(values, valid, np.array([0, 2, 3]))
    assert (clean.value, clean.above, clean.tie_class, clean.taken, clean.share_by_tie_break) == (2.0, 1, 2, 2, 0.0)
    assert cut_of(values, valid, np.array([0, 2])).share_by_tie_break == 0.5


def test_stability_compares_selections_of_halves(copy_of_finished: Project) -> None:
    found = generalist(copy_of_finished, method="mean", stability="true")
    report = json.loads((found["folder"] / "stability.json").read_text())
    grads = rows_of(copy_of_finished, "grads").astype(np.float64)
    chosen = []
    for half in (0, 1):
        columns: dict[str, list[np.ndarray]] = {}
        for task in copy_of_finished.raw["tasks"]:
            (path,) = (copy_of_finished.run / "val_grads" / "final" / task["name"]).glob("shard-*.safetensors")
            cosines = grads @ load_file(path)["grads"][half::2].T.astype(np.float64)
            columns.setdefault(task["group"] or task["name"], []).append(cosines.mean(1))
        chosen.append(set(top(np.mean([np.max(own, axis=0) for own in columns.values()], axis=0), 20)))
    assert report["halves"]["both"] == pytest.approx(len(chosen[0] & chosen[1]), abs=1)  # matrices are float16
    assert report["halves"]["expected_by_chance"] == 4.0
    assert report["other_run"] is None


def test_stability_against_another_run(copy_of_finished: Project, tmp_path: Path) -> None:
    other = tmp_path / "other"
    sets = ["--set", f"output_dir={other}", "--set", "gradients.seed=1", "--set", "influence.save_matrix=false"]
    sets += ["--set", f"model.adapter={copy_of_finished.run / 'warmup' / 'final'}"]
    assert copy_of_finished.icons("run", *sets).code == 0
    found = generalist(copy_of_finished, stability="true", stability_with=other)
    report = json.loads((found["folder"] / "stability.json").read_text())
    theirs = json.loads((other / "selection" / "vote-20" / "selected_indices.json").read_text())
    assert report["other_run"]["both"] == len({*found["indices"]} & {*theirs["indices"]})
    outcome = copy_of_finished.icons("generalist", *sets, "--set", "selection.stability=true")
    assert outcome.code == 0
    assert "save_matrix is off" in outcome.out


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["method=vot"], "'vot' is none of direct-merge, grad-norm, less, loss, max, mean, norm, random, rank, spice"),
        (["method=less"], "name it in selection.task: "),
        (["method=less", "task=nowhere"], "'nowhere' is not scored"),
        (["plugin=nowhere.py", "method=mine"], "nowhere.py is not a file"),
        (["stability_with=nowhere"], "nowhere is not a folder"),
    ],
)
def test_what_cannot_be_selected_is_said_in_one_line(finished: Project, settings: list[str], said: str) -> None:
    sets = [part for setting in settings for part in ("--set", f"selection.{setting}")]
    outcome = finished.icons("generalist", *sets)
    assert outcome.code == 2
    assert said in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1


def test_scores_of_an_earlier_version_are_named(copy_of_finished: Project) -> None:
    from icons.store.files import write_tensors

    path = copy_of_finished.run / "influence" / "scores.safetensors"
    write_tensors(path, {name: tensor for name, tensor in load_file(path).items() if name in {"scores", "valid"}})
    outcome = copy_of_finished.icons("generalist")
    assert outcome.code == 2
    assert "earlier version; run `icons specialist` again" in outcome.err
    assert copy_of_finished.icons("specialist").code == 0
    assert copy_of_finished.icons("generalist").code == 0


def test_a_third_party_adds_a_method_by_the_documented_steps(copy_of_finished: Project) -> None:
    section = DOCS.read_text().split("## A method of your own")[1]
    (code,) = re.findall(r"```python\n# my_method.py\n(.*?)```", section, re.DOTALL)
    (command,) = re.findall(r"```sh\nicons generalist mine.yaml (.*?)\n```", section, re.DOTALL)
    (copy_of_finished.root / "my_method.py").write_text(code)
    outcome = copy_of_finished.icons("generalist", *command.split())
    assert outcome.code == 0, outcome.err
    found = json.loads((copy_of_finished.run / "selection" / "second-best-20" / "selected_indices.json").read_text())
    scores = load_file(copy_of_finished.run / "influence" / "scores.safetensors")["scores"]
    assert found["indices"] == top(np.sort(scores, axis=1)[:, -2], 20)


def test_a_plugin_that_fails_is_named(copy_of_finished: Project) -> None:
    plugin = copy_of_finished.root / "broken.py"
    for code, said in (
        ("import nothing_of_this_name", "broken.py: ModuleNotFoundError"),
        ("from icons.selection.registry import method\n@method('vote')\ndef f(e): ...", "'vote' already"),
        ("from icons.selection.registry import method\n@method('few')\ndef f(e): return [1.0]", "values of shape (1,)"),
    ):
        plugin.write_text(code)
        outcome = copy_of_finished.icons(
            "generalist", "--set", f"selection.plugin={plugin}", "--set", "selection.method=few"
        )
        assert outcome.code == 2, said
        assert said in outcome.err


def test_a_name_is_registered_once() -> None:
    method("only-once")(lambda evidence: evidence.losses)
    with pytest.raises(ValueError, match="already"):
        method("only-once")(lambda evidence: evidence.losses)
    with pytest.raises(KeyError, match="vote"):
        find_method("unknown")


def test_the_docs_name_every_method() -> None:
    table = DOCS.read_text()
    assert all(f"`{name}`" in table for name in built_in())
    config = yaml.safe_load((DOCS.parents[1] / "configs" / "example.yaml").read_text())
    assert config["selection"]["method"] in built_in()
