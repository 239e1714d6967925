"""Does selection help? Trains a small model on everything and on parts chosen by every method, and tests it.

    python benchmarks/study --folder DIR [--quick] [--workers 2] [--json FILE] [--plot FILE]

The data are the demo's questions at study size (data.py), with redundant, irrelevant and wrong-answer parts; six
target tasks with test sets of their own. Every training of a seed begins with the same model (model.py). Pieces
that are finished lie in the folder and are not done again, so a killed study goes on. The relative score is the mean
over the tasks of score / score after training on everything (ICONS, arXiv 2501.00654).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from setting import circumstances, describe

from study.jobs import FULL, QUICK, arms_of, at_start, prepare, start, train
from study.table import plot, summary, table


def main(
    folder: Annotated[Path, typer.Option(help="where everything is kept; give it again to go on")],
    quick: Annotated[bool, typer.Option("--quick", help="small data, one seed: ten minutes, and no evidence")] = False,
    workers: Annotated[int, typer.Option(min=1, help="pieces at a time, each on one core")] = 2,
    results: Annotated[Path | None, typer.Option("--json", help="write the numbers there")] = None,
    picture: Annotated[Path | None, typer.Option("--plot", help="write the figure there (PNG)")] = None,
) -> None:
    """Train on everything and on selections by every method, at several seeds, and compare test scores."""
    size = QUICK if quick else FULL
    folder.mkdir(parents=True, exist_ok=True)
    marker, wanted = folder / "size.json", json.dumps(vars(size))
    if marker.is_file() and marker.read_text() != wanted:
        raise typer.BadParameter(f"{folder} holds a study of another size; choose another folder")
    marker.write_text(wanted)
    facts = circumstances(torch.device("cpu"))
    typer.echo(describe(facts))
    clock = folder / "seconds.txt"  # of all runs that ended a piece here
    begin = time.monotonic() - (float(clock.read_text()) if clock.is_file() else 0)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        pool.submit(start, folder, size).result()
        waiting: dict[Future[None], str] = {}

        def submit(title: str, work: Callable[..., None], *arguments: Any) -> None:
            waiting[pool.submit(work, folder, size, *arguments)] = title

        for seed in range(size.seeds):
            submit(f"prepared seed {seed}", prepare, seed)
        while waiting:
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                title = waiting.pop(future)
                future.result()
                clock.write_text(f"{time.monotonic() - begin:.0f}\n")
                typer.echo(f"{time.monotonic() - begin:6.0f} s  {title}", err=True)
                if title.startswith("prepared"):
                    seed = int(title.rpartition(" ")[2])
                    submit(f"seed {seed}: at the start", at_start, seed)
                    for arm in arms_of(seed):
                        submit(f"seed {seed}: {arm.name}", train, seed, arm)
    found = summary(folder, size.seeds)
    typer.echo(table(found))
    if results:
        command = f"python benchmarks/study --folder DIR{' --quick' if quick else ''}"
        minutes = round((time.monotonic() - begin) / 60, 1)
        content = facts | {"command": command, "size": vars(size), "minutes": minutes, "results": found}
        results.write_text(json.dumps(content, indent=1) + "\n")
    if picture:
        picture.write_bytes(plot(found))
