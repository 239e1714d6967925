"""The benchmark programs run, small; their numbers are not looked at here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from icons.models.tiny import build_tiny_llava
from tests.cli.test_cli import COMMANDS
from tests.conftest import ROOT, Project
from tests.warm import ran

BENCHMARKS = ROOT / "benchmarks"

# The path that a GPU takes: a model built from its config in bfloat16, made-up samples.
BUILT_FROM_A_CONFIG = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from gradients import race
from setting import synthetic
from turns import take_turns
from transformers import AutoConfig

from tests.conftest import ROOT
setting = synthetic(AutoConfig.from_pretrained(sys.argv[2]), torch.device("cpu"), 4, 4)
ran, batches = race(setting, 64, 3, 1024, 1, 1)
rates = ran.rates
assert {"sequential", "ceiling", "published", "ours count_sketch", "ours rademacher", "ours none"} <= rates.keys()
assert sum(len(batch.rows) for batch in batches) == 4
chosen, _ = race(setting, 64, 3, 1024, 1, 1, ["bare"])
assert chosen.rates.keys() == {"bare"}

def full():
    raise torch.OutOfMemoryError("no more")

left = take_turns({"goes on": lambda: 2, "full": full}, 2, torch.device("cpu"))
assert left.out_of_memory == ["full"] and left.rates.keys() == {"goes on"} and len(left.rates["goes on"]) == 2
"""


def test_the_race_on_the_tiny_model(tmp_path: Path) -> None:
    options = ["--samples", 4, "--dim", 256, "--rounds", 1, "--published-samples", 0, "--no-memory"]
    options += ["--tokens-per-batch", 512, "--tokens-per-batch", 2048, "--json", tmp_path / "r.json"]
    out = ran(BENCHMARKS / "gradients.py", *options)
    assert "ours, count_sketch" in out
    found = json.loads((tmp_path / "r.json").read_text())
    assert {
        "published_per_s",
        "sequential_per_s",
        "ceiling_per_s",
        "ours_per_s",
        "hardware",
        "versions",
    } <= found.keys()
    assert found["ours_per_s"].keys() == {"count_sketch", "rademacher", "none"}
    assert [budget["tokens_per_batch"] for budget in found["budgets"]] == [512, 2048]
    assert all(len(budget["share_of_floor"]) == 3 for budget in found["budgets"])
    assert out.count("of plain products") == 6


def test_the_race_on_a_model_built_from_its_config(tiny_model: Path) -> None:
    ran("-c", BUILT_FROM_A_CONFIG, BENCHMARKS, tiny_model)


def test_the_costs_of_the_methods(tmp_path: Path) -> None:
    names = ("spice", "less")
    options = ["--rows", 300, "--val-rows", 2, "--warm", *(part for name in names for part in ("--only", name))]
    ran(BENCHMARKS / "methods.py", *options, "--json", tmp_path / "m.json")
    found = json.loads((tmp_path / "m.json").read_text())["results"]
    assert found.keys() == set(names)
    assert all(taken["seconds"] > 0 and taken["peak_bytes"] > 0 for taken in found.values())
    assert found["spice"]["notes"]["spice"]["rows"] == 60


def test_the_memory_of_exact_influence_in_its_smallest_form() -> None:
    line = ran(BENCHMARKS / "exact_memory.py", "--counts", "1", "--samples", 8).splitlines()[-1]
    assert line.split()[:2] == ["1", "tasks:"]
    assert line.endswith("of which mean gradients 9.5 MiB")


def test_how_good_the_influence_is_in_its_smallest_form(tmp_path: Path) -> None:
    build_tiny_llava(tmp_path / "quality" / "model")  # a folder that has a model keeps it: untaught here
    options = ["--records", 60, "--halves", 3, "--workers", 1, "--json", tmp_path / "q.json"]
    ran(BENCHMARKS / "quality.py", "--folder", tmp_path / "quality", *options)
    results = json.loads((tmp_path / "q.json").read_text())["results"]
    assert {"sgd, exact", "sgd, sketched"} <= results["influence"].keys()
    for row in results["influence"].values():
        assert -1 <= row["lds"]["low"] <= row["lds"]["high"] <= 1
        assert 0 <= row["same_task"]["mean"] <= 1
    assert all(0 <= area <= 1 for area in results["wrong_answers"].values())


def test_how_soon_commands_answer(finished: Project, tmp_path: Path) -> None:
    options = ["--run", finished.config, "--only", "merge", "--rounds", 1, "--json", tmp_path / "s.json"]
    ran(BENCHMARKS / "startup.py", *options)
    assert json.loads((tmp_path / "s.json").read_text())["results"]["merge"].keys() == {"help", "missing", "finished"}
    text = (BENCHMARKS / "startup.py").read_text()
    assert [name for name in COMMANDS if f'"{name}": ' not in text] == []


EVERY_HELP = """
import contextlib, io, runpy, sys, traceback
for program in sys.argv[1:]:
    sys.argv, text, code = [program, "--help"], io.StringIO(), None
    sys.path[0] = program if program.endswith("study") else program.rpartition("/")[0]
    with contextlib.redirect_stdout(text):
        try:
            runpy.run_path(program, run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            code = traceback.format_exc()
    print(program, "starts" if code == 0 and "--" in text.getvalue() else code)
"""


def programs() -> list[Path]:
    files = [path for path in sorted(BENCHMARKS.glob("*.py")) if 'if __name__ == "__main__"' in path.read_text()]
    return [*files, *(path.parent for path in sorted(BENCHMARKS.glob("*/__main__.py")))]


def test_every_program_starts() -> None:
    """All in one process, which imports torch once."""
    said = ran("-c", EVERY_HELP, *programs()).splitlines()
    assert said == [f"{program} starts" for program in programs()]
    assert len(said) >= 10


def test_fidelity_in_its_smallest_form(tmp_path: Path) -> None:
    options = ["--samples", 24, "--val-samples", 2, "--seeds", 2, "--dims", 128, "--steps", 2, "--rank", 2]
    out = ran(BENCHMARKS / "fidelity.py", *options, "--json", tmp_path / "f.json")
    assert "seeds" in out
    rows = json.loads((tmp_path / "f.json").read_text())["rows"]
    assert {row["kind"] for row in rows} == {"count_sketch", "rademacher"}
    assert all(0 <= row["vote"] <= 1 and row["rmse"] > 0 for row in rows)


def test_quantised_weights_in_their_smallest_form(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    options = ["--samples", 24, "--val-samples", 2, "--seeds", 1, "--steps", 2, "--rank", 2, "--random"]
    ran(BENCHMARKS / "quantized.py", *options, "--json", tmp_path / "q.json")
    (found,) = json.loads((tmp_path / "q.json").read_text())["seeds"]
    assert found["8bit"]["rmse"] < found["4bit"]["rmse"]
    assert all(0 <= row["vote"] <= 1 for row in found.values())


def test_larger_models_on_a_card_and_on_several() -> None:
    lines = ran(BENCHMARKS / "larger.py", "--cards", "1,2", "--sizes", "13B").splitlines()
    assert [line.split()[-2] for line in lines[-3:]] == ["-", "782", "1,424"]


def test_fidelity_of_the_last_layers_in_its_smallest_form(tmp_path: Path) -> None:
    options = ["--samples", 24, "--val-samples", 2, "--seeds", 2, "--dims", 128, "--steps", 2, "--rank", 2]
    options += ["--depth", 3, "--last", "1,2", "--rounds", 2, "--json", tmp_path / "f.json"]
    ran(BENCHMARKS / "fidelity.py", *options, "--models", 1)
    first = json.loads((tmp_path / "f.json").read_text())["models"]
    out = ran(BENCHMARKS / "fidelity.py", *options, "--models", 2)
    found = json.loads((tmp_path / "f.json").read_text())
    assert found["models"][:1] == first
    assert [model["seed"] for model in found["models"]] == [0, 1]
    (whole, *_), (last, *_) = ([row for row in first[0]["rows"] if row["layers"] == n] for n in ("all", "last-2"))
    assert (whole["rmse"], whole["vote"], whole["spearman"]) == (0, 1, pytest.approx(1))
    assert last["rmse"] > 0
    assert 3 * last["parameters"] == 2 * whole["parameters"]
    assert [row["layers"] for row in first[0]["costs"]] == ["all", "last-1", "last-2"]
    shares = [row["flop"] for row in first[0]["costs"]]
    assert shares[0] == 1
    assert shares[1] < shares[2] < 1
    assert "last-2" in out


def test_the_costs_with_the_specialist_measured() -> None:
    out = ran(BENCHMARKS / "costs.py", "--specialist", "--shard-rows", 64, "--val-rows", 4)
    assert "319,815,680 of LoRA" in out
    assert "| `train-grads` | 665,298 x" in out
    assert "`specialist`: scores" in out
    assert out.count("Estimated, not measured on a GPU") == 2
    assert "| last-8 | 79,953,920 |" in out


def test_from_rows_to_a_selection_in_its_smallest_form(tmp_path: Path) -> None:
    options = ["--rows", 300, "--val-rows", 2, "--generalist-rows", 0, "--warm", "--json", tmp_path / "s"]
    out = ran(BENCHMARKS / "selection.py", *options)
    assert "plain reading" in out
    found = json.loads((tmp_path / "s").read_text())["results"]
    assert found["store"].keys() >= {"merge", "specialist", "generalist"}


def test_the_page_in_its_smallest_form(tmp_path: Path) -> None:
    out = ran(BENCHMARKS / "report.py", "--rows", 400, "--warm", "--json", tmp_path / "r.json")
    assert "MB" in out
    assert json.loads((tmp_path / "r.json").read_text())["results"]["rows"] == 400


def test_odd_inputs_are_taken_or_refused(tmp_path: Path) -> None:
    ran(BENCHMARKS / "fuzz.py", "--cases", 12, "--seed", 7, "--json", tmp_path / "f.json")
    found = json.loads((tmp_path / "f.json").read_text())["results"]
    assert found.keys() == {"records", "images", "config", "folders"}
    assert all(sum(counts.values()) == 12 for counts in found.values())


def test_a_kill_before_a_write_and_a_damage(tmp_path: Path) -> None:
    options = ["--kills", 0, "--writes", 1, "--damages", 1, "--seed", 3, "--json", tmp_path / "f.json"]
    ran(BENCHMARKS / "faults.py", *options)
    found = json.loads((tmp_path / "f.json").read_text())["results"]
    assert found["writes"]["kills"] == found["damages"]["damages"] == 1


def test_parquet_beside_a_folder(tmp_path: Path) -> None:
    ran(BENCHMARKS / "parquet.py", "--rows", 250, "--side", 64, "--count", 20, "--json", tmp_path / "p.json")
    found = json.loads((tmp_path / "p.json").read_text())["results"]
    assert sum(key.startswith("Parquet, ") for key in found) == 3
