"""The race against other programs, small, without their environment; its numbers of speed are not looked at."""

from __future__ import annotations

import json
import math
from pathlib import Path

from tests.benchmarks.test_benchmarks import BENCHMARKS
from tests.warm import ran


def test_what_is_not_installed_is_left_out_and_named(tmp_path: Path) -> None:
    small = ["--samples", 8, "--longest", 40, "--hidden", 64, "--layers", 2, "--vocab", 128, "--rank", 4]
    small += [part for name in ("icons", "autograd sketch", "products", "bergson") for part in ("--only", name)]
    options = [*small, "--dim", 512, "--rounds", 1, "--folder", tmp_path / "none", "--json", tmp_path / "p.json"]
    out = ran(BENCHMARKS / "peers.py", *options)
    assert f"left out: bergson: not installed in {tmp_path / 'none'}; --install does that" in out
    found = json.loads((tmp_path / "p.json").read_text())
    assert found["contestants"].keys() == {"icons", "autograd sketch", "products"}
    assert found["contestants"]["products"]["dim"] is found["contestants"]["products"]["cosine_rmse"] is None
    ours, sketched = (found["contestants"][name] for name in ("icons", "autograd sketch"))
    assert ours["dim"] == sketched["dim"] == 512
    # The same sketch of the same gradients, made one at a time by autograd: the same error, about 1 / sqrt(512).
    assert math.isclose(ours["cosine_rmse"], sketched["cosine_rmse"], rel_tol=1e-3)
    assert 0.01 < ours["cosine_rmse"] < 0.09
    assert len(ours["cpu_s"]) == 1
    assert found["settings"]["width"] == math.isqrt(512 // 28 - 1) + 1
