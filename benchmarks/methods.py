"""What each selection method costs at full size: `icons generalist` by every method, on a made-up store.

    python benchmarks/methods.py [--rows 665298] [--only METHOD ...] [--warm] [--folder DIR] [--json FILE]

The store is that of benchmarks/selection.py (random unit rows of 5120 numbers, 22 validation sets in ten tasks), with
random losses and norms. Each method runs in a process of its own with the page cache dropped (as root; said otherwise):
seconds and peak memory are those of the whole command, start-up and the writing of the selected records included.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from selection import drop_cache, icons, make_store, project, shown
from setting import circumstances, describe

from icons.config_file import load_config
from icons.selection.methods import built_in

OPTIONS = {"less": ["--set", "selection.task=task0"]}


def main(
    rows: Annotated[int, typer.Option(help="training rows of the store")] = 665_298,
    val_rows: Annotated[int, typer.Option(help="rows of each of the 22 validation sets")] = 256,
    only: Annotated[list[str] | None, typer.Option(help="these methods alone; repeatable")] = None,
    warm: Annotated[bool, typer.Option("--warm", help="leave the page cache alone")] = False,
    folder: Annotated[Path | None, typer.Option(help="where the store is made, and left; default: temporary")] = None,
    results: Annotated[Path | None, typer.Option("--json", help="write the numbers there too")] = None,
) -> None:
    """Measure every built-in method."""
    facts = circumstances(torch.device("cpu"))
    typer.echo(describe(facts))
    with tempfile.TemporaryDirectory() as temporary:
        path = project((folder or Path(temporary)) / "store", rows, val_rows)
        config = load_config(path)
        make_store(config)
        for stage in ("merge", "specialist"):
            icons(stage, path, cold=not warm)
        cache = "left alone" if warm else drop_cache()
        typer.echo(f"\n{rows:,} rows x 5120, 22 validation sets in ten tasks, page cache {cache}\n")
        begin, found = time.time(), dict[str, Any]()
        for name in only or ["vote", *(name for name in built_in() if name != "vote")]:
            options = ["--set", f"selection.method={name}", *OPTIONS.get(name, [])]
            found[name] = shown(name, icons("generalist", path, *options, cold=not warm))
            if name == "spice":
                chosen = config.output_dir / "selection" / "spice-20" / "selected_indices.json"
                found[name]["notes"] = json.loads(chosen.read_bytes())["notes"]
        typer.echo(f"\nall: {time.time() - begin:.0f} s")
    if results:
        results.write_text(json.dumps(facts | {"rows": rows, "results": found}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
