"""Every selection method against NumPy, through the command line; a third party's, by the documented steps."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from icons.selection.cut import cut_of
from icons.selection.methods import built_in
from icons.selection.registry import find_method, method
from tests.conftest import ROOT, Project
from tests.reference.selection import generalist, rows_of, top

DOCS = ROOT / "docs" / "methods.md"


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


def test_a_null_name_follows_the_method(copy_of_finished: Project) -> None:
    found = generalist(copy_of_finished, name="null", method="spice", percent=12.5, seed=3)
    assert found["folder"].name == "spice-12.5-seed3"


def test_another_methods_selection_is_never_overwritten(copy_of_finished: Project) -> None:
    path = copy_of_finished.run / "selection" / "vote-20" / "selected_indices.json"
    before = path.read_bytes()
    sets = ["--set", "selection.method=mean", "--set", "selection.name=vote-20"]
    outcome = copy_of_finished.icons("generalist", *sets)
    assert outcome.code == 2
    assert f"{path} is a selection by vote, not by mean; choose another selection.name" in outcome.err
    assert path.read_bytes() == before


@pytest.mark.parametrize("method_name", ["mean", "spice"])
def test_finetune_and_status_follow_the_methods_selection(copy_of_finished: Project, method_name: str) -> None:
    generalist(copy_of_finished, method=method_name, percent=5)
    sets = ["--set", f"selection.method={method_name}", "--set", "selection.percent=5"]
    assert f"{method_name}-5: 5 of 100 selected" in copy_of_finished.icons("status", *sets).out
    outcome = copy_of_finished.icons("finetune", *sets, "--set", "finetune.max_steps=1")
    assert outcome.code == 0, outcome.err
    assert (copy_of_finished.run / "finetune" / f"{method_name}-5" / "final").is_dir()


def test_invalid_rows_are_never_selected(copy_of_finished: Project) -> None:
    path = copy_of_finished.root / "data" / "train.json"
    records = json.loads(path.read_text())
    broken = [0, 17, 50, 99]
    for row in broken:
        records[row] = {"id": "broken"}
    path.write_text(json.dumps(records))
    sets = ["--set", "on_bad_record=skip", "--set", "output_dir=skipped", "--set", "model.adapter=run/warmup/final"]
    outcome = copy_of_finished.icons("run", *sets)
    assert outcome.code == 0, outcome.err
    for name in built_in():
        chosen = ["--set", f"selection.method={name}", "--set", "selection.percent=100"]
        outcome = copy_of_finished.icons("generalist", *sets, *chosen, "--set", "selection.task=text")
        assert outcome.code == 0, outcome.err
        assert "96 of 100 selected (only 96 rows are valid)" in outcome.out
        folder = "less-text-100" if name == "less" else f"{name}-100"
        found = json.loads(
            (copy_of_finished.root / "skipped" / "selection" / folder / "selected_indices.json").read_text()
        )
        assert not {*found["indices"]} & {*broken}


NEED_GRADIENTS = {"spice", "proportional", "coverage"}


def test_exact_influence_has_every_method_that_needs_no_gradients(copy_of_finished: Project) -> None:
    sets = ["--set", "gradients.projection=none", "--set", "output_dir=exact"]
    sets += ["--set", "model.adapter=run/warmup/final"]
    for name in NEED_GRADIENTS:
        outcome = copy_of_finished.icons("run", *sets, "--set", f"selection.method={name}")
        assert outcome.code == 2
        assert f"selection.method {name} needs projected gradients" in outcome.err
        assert not (copy_of_finished.root / "exact").exists()
    assert copy_of_finished.icons("run", *sets).code == 0
    for name in set(built_in()) - NEED_GRADIENTS:
        chosen = ["--set", f"selection.method={name}", "--set", "selection.task=text"]
        assert copy_of_finished.icons("generalist", *sets, *chosen).code == 0, name


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


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            ["method=vot"],
            "'vot' is none of coverage, direct-merge, grad-norm, less, loss, max, mean, norm, pro",
        ),
        (["name=run", "method=less"], "name it in selection.task: "),
        (["method=less", "task=nowhere"], "'nowhere' is not scored"),
        (["plugin=nowhere.py", "method=mine"], "nowhere.py is not a file"),
        (["stability_with=nowhere"], "nowhere is not a folder"),
        (["seed=-1", "method=random"], "selection.seed: Input should be greater than or equal to 0"),
        (["percent=200"], "selection.percent: Input should be less than or equal to 100"),
        (["method=spice", "spice={alpha: .inf}"], "selection.spice.alpha: expected a finite number"),
        (["method=spice", "spice={penalty: 1.0e+300}"], "selection.spice.penalty: Input should be less than or equal"),
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
    page = (DOCS.parent / "own-method.md").read_text()
    (code,) = re.findall(r"```python\n# my_method.py\n(.*?)```", page, re.DOTALL)
    (command,) = re.findall(r"```sh\nicons generalist mine.yaml (.*?)\n```", page, re.DOTALL)
    (copy_of_finished.root / "my_method.py").write_text(code)
    outcome = copy_of_finished.icons("generalist", *command.split())
    assert outcome.code == 0, outcome.err
    found = json.loads((copy_of_finished.run / "selection" / "second-best-20" / "selected_indices.json").read_text())
    scores = load_file(copy_of_finished.run / "influence" / "scores.safetensors")["scores"]
    assert found["indices"] == top(np.sort(scores, axis=1)[:, -2], 20)


def test_a_plugin_that_fails_is_named(copy_of_finished: Project) -> None:
    for number, (code, said) in enumerate(
        (
            ("import nothing_of_this_name", "PLUGIN: ModuleNotFoundError"),
            ("from icons.selection.registry import method\n@method('vote')\ndef f(e): ...", "'vote' already"),
            (few("[1.0]"), "values of shape (1,)"),
            (few("e.losses + 1j"), "values of type complex64, expected a number for every row"),
            (few("[None] * len(e.losses)"), "values of type object"),
            (few("e.losses * float('nan')"), "of PLUGIN: its value of row 0 is not a finite number"),
            (few("{}['task']"), "of PLUGIN line 3: KeyError: 'task'"),
            (few("e.scores.sort(axis=0)"), "line 3: ValueError: "),
            (few("e.votes.fill(0)"), "line 3: ValueError: "),
            (few("e.valid.fill(True)"), "line 3: ValueError: "),
            (few("Ranking(e.losses, ['none'])"), "its notes are a list, expected a dict"),
            (few("Ranking(e.losses, {'of': e})"), "its notes cannot be written as JSON (Evidence is not a JSON type)"),
            (few("Ranking(e.losses, {'of': '\\ud800'})"), "its notes cannot be written as JSON"),
        )
    ):
        plugin = copy_of_finished.root / f"broken{number}.py"
        plugin.write_text(code.replace("few", f"few{number}"))
        outcome = copy_of_finished.icons(
            "generalist", "--set", f"selection.plugin={plugin}", "--set", f"selection.method=few{number}"
        )
        assert outcome.code == 2, said
        assert said.replace("PLUGIN", str(plugin)) in outcome.err
        assert len(outcome.err.strip().splitlines()) == 1
    assert [path.name for path in (copy_of_finished.run / "selection").iterdir()] == ["vote-20"]


def few(value: str) -> str:
    return f"from icons.selection.registry import Ranking, method\n@method('few')\ndef f(e): return {value}"


def test_notes_come_back_as_they_were_written(copy_of_finished: Project) -> None:
    notes = "{10: np.int64(3), 9: np.arange(2), 'mean': np.float32(0.5)}"
    (copy_of_finished.root / "noted.py").write_text(
        "import numpy as np\nfrom icons.selection.registry import Ranking, method\n"
        f"@method('noted')\ndef noted(e): return Ranking(e.losses, {notes})"
    )
    assert generalist(copy_of_finished, plugin="noted.py", method="noted")["notes"] == {
        "10": 3,
        "9": [0, 1],
        "mean": 0.5,
    }
    assert "already done" in generalist(copy_of_finished, plugin="noted.py", method="noted")["said"]
    assert copy_of_finished.icons("report", "--selection", "noted-20").code == 0


def test_a_plugin_that_fails_is_told_before_the_long_work(project: Project) -> None:
    (project.root / "broken.py").write_text("raise RuntimeError('not today')")
    outcome = project.icons("run", "--set", "selection.plugin=broken.py")
    assert outcome.code == 2
    assert "broken.py: RuntimeError: not today" in outcome.err
    assert not (project.run / "warmup").exists()


def test_the_config_is_read_without_torch() -> None:
    code = "import sys, icons.config, icons.stages.generalist.generalist; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_name_is_registered_once() -> None:
    method("only-once")(lambda evidence: evidence.losses)
    with pytest.raises(ValueError, match="already"):
        method("only-once")(lambda evidence: evidence.losses)
    with pytest.raises(KeyError, match="vote"):
        find_method("unknown")


def test_the_docs_name_every_method() -> None:
    table = DOCS.read_text()
    assert all(f"`{name}`" in table for name in built_in())
    config = yaml.safe_load((ROOT / "configs" / "example.yaml").read_text())
    assert config["selection"]["method"] in built_in()


def test_a_method_of_ones_own_has_options_and_checks_them(copy_of_finished: Project) -> None:
    (copy_of_finished.root / "weighted.py").write_text(
        "from dataclasses import dataclass\nfrom icons.selection.registry import method\n"
        "@dataclass\nclass Weights:\n    loss: float = 1.0\n"
        "@method('weighted', options=Weights)\n"
        "def weighted(e): return e.options.loss * e.losses + e.norms\n"
    )
    own = {"plugin": "weighted.py", "method": "weighted"}
    first = generalist(copy_of_finished, **own, name="plain")
    other = generalist(copy_of_finished, **own, name="turned", options="{loss: -1}")
    assert first["indices"] != other["indices"]
    assert first["fingerprint"] != other["fingerprint"]
    wrong = copy_of_finished.icons(
        "generalist", "--set", "selection.plugin=weighted.py", "--set", "selection.method=weighted",
        "--set", "selection.options={los: 2}",
    )  # fmt: skip
    assert wrong.code == 2
    assert "selection.options" in wrong.err
    assert "'los'" in wrong.err
    none = copy_of_finished.icons("generalist", "--set", "selection.options={loss: 2}")
    assert none.code == 2
    assert "the method vote has none" in none.err


def test_the_key_of_another_method_makes_nothing_anew(copy_of_finished: Project) -> None:
    outcome = copy_of_finished.icons("generalist", "--set", "selection.spice.pool=64", "--set", "selection.seed=7")
    assert outcome.code == 0
    assert "already done" in outcome.out
