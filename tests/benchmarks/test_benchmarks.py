"""The benchmark programs run, small; their numbers are not looked at here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

BENCHMARKS = ROOT / "benchmarks"

# The path that a GPU takes: a model built from its config in bfloat16, made-up samples.
BUILT_FROM_A_CONFIG = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from gradients import race
from setting import synthetic
from transformers import AutoConfig

from tests.conftest import ROOT
setting = synthetic(AutoConfig.from_pretrained(sys.argv[2]), torch.device("cpu"), 4, 4)
rates, batches = race(setting, 64, 3, 1024, 1, 1)
assert {"sequential", "ceiling", "published", "ours count_sketch", "ours rademacher", "ours none"} <= rates.keys()
assert sum(len(batch.rows) for batch in batches) == 4
"""


def run(*command: object) -> str:
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_race_on_the_tiny_model(tmp_path: Path) -> None:
    options = ["--samples", 6, "--rounds", 1, "--published-samples", 0, "--no-memory", "--json", tmp_path / "r.json"]
    out = run(BENCHMARKS / "gradients.py", *options)
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


def test_the_race_on_a_model_built_from_its_config(tiny_model: Path) -> None:
    run("-c", BUILT_FROM_A_CONFIG, BENCHMARKS, tiny_model)


def test_the_costs_of_the_methods(tmp_path: Path) -> None:
    options = ["--rows", 300, "--val-rows", 2, "--warm", "--only", "mean", "--only", "spice"]
    run(BENCHMARKS / "methods.py", *options, "--json", tmp_path / "m.json")
    found = json.loads((tmp_path / "m.json").read_text())["results"]
    assert found.keys() == {"mean", "spice"}
    assert all(taken["seconds"] > 0 and taken["peak_bytes"] > 0 for taken in found.values())
    assert found["spice"]["notes"]["spice"]["rows"] == 60
