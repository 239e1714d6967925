"""Does selection help? Trains one model on everything and on parts chosen by every method, and tests it.

    python benchmarks/study --folder DIR [--setting pictures|text] [--size full|quick] [--arms core,sizes,methods,steps]
                            [--workers 2] [--json FILE] [--plot FILE]

The data have redundant, irrelevant and wrong-answer parts, and six target tasks with test sets of their own (data.py).
Every training of a seed begins with the same model: a small LLaVA that was taught to describe pictures, or, in words, a
pretrained language model (settings.py). Selecting, training and testing are icons' own stages. Pieces that are finished
lie in the folder and are not done again, so a killed study goes on. The relative score is the mean over the tasks of
score / score after training on everything (ICONS, arXiv 2501.00654).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from setting import circumstances, describe

from icons.parent import end_with_the_parent
from study.jobs import GROUPS, Study, at_start, prepare, start, train
from study.settings import SETTINGS
from study.table import plot, summary, table


def main(
    folder: Annotated[Path, typer.Option(help="where everything is kept; give it again to go on")],
    setting: Annotated[str, typer.Option(help=f"one of {', '.join(SETTINGS)}")] = "pictures",
    size: Annotated[str, typer.Option(help="full; quick, one seed in minutes, no evidence; tiny, for tests")] = "full",
    arms: Annotated[str, typer.Option(help=f"of {', '.join(GROUPS)}, separated by commas")] = ",".join(GROUPS),
    seeds: Annotated[int | None, typer.Option(min=1, help="so many instead of the size's own")] = None,
    workers: Annotated[int, typer.Option(min=1, help="pieces at a time, each on one core")] = 2,
    results: Annotated[Path | None, typer.Option("--json", help="write the numbers there")] = None,
    picture: Annotated[Path | None, typer.Option("--plot", help="write the figure there (PNG)")] = None,
) -> None:
    """Train on everything and on selections by every method, at several seeds, and compare test scores."""
    if setting not in SETTINGS or size not in SETTINGS[setting].sizes:
        raise typer.BadParameter(f"--setting {setting} --size {size}: there is no such study")
    groups = tuple(group for group in GROUPS if group in arms.split(","))
    own = SETTINGS[setting].sizes[size]
    own = own if seeds is None else replace(own, seeds=seeds)
    study = Study(folder.absolute(), setting, own, groups)
    folder.mkdir(parents=True, exist_ok=True)
    marker, expected = folder / "size.json", json.dumps({"setting": setting, **vars(replace(own, seeds=0))})
    if marker.is_file() and marker.read_text() != expected:
        raise typer.BadParameter(f"{folder} holds a study of another size; choose another folder")
    marker.write_text(expected)
    facts = circumstances(torch.device("cpu"))
    typer.echo(describe(facts))
    clock = folder / "seconds.txt"  # of all runs that ended a piece here
    begin = time.monotonic() - (float(clock.read_text()) if clock.is_file() else 0)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=end_with_the_parent) as pool:
        pool.submit(start, study).result()
        waiting: dict[Future[None], str] = {}

        def submit(title: str, work: Callable[..., None], *arguments: Any) -> None:
            waiting[pool.submit(work, study, *arguments)] = title

        for seed in range(own.seeds):
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
                    for arm in sorted(study.arms, key=lambda arm: arm.method is None):  # the dearest last
                        submit(f"seed {seed}: {arm.name}", train, seed, arm)
    numbers = summary(study)
    typer.echo(table(numbers))
    if results:
        options = "".join(
            f" --{name} {value}"
            for name, value, default in (
                ("setting", setting, "pictures"), ("size", size, "full"), ("arms", arms, ",".join(GROUPS)),
                ("seeds", seeds, None),
            )
            if value != default
        )  # fmt: skip
        minutes = round((time.monotonic() - begin) / 60, 1)
        content = facts | {"command": f"python benchmarks/study --folder DIR{options}", "setting": setting}
        content |= {"size": vars(own), "minutes": minutes, "results": numbers}
        results.write_text(json.dumps(content, indent=1) + "\n")
    if picture:
        picture.write_bytes(plot(numbers))
