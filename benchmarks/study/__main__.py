"""`python benchmarks/study` starts here; see `program`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch: the last bits of a gradient depend on it
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.path[0] = str(Path(__file__).parents[1])  # not this folder, whose files have short names
    import typer

    from study.program import main

    typer.run(main)
