"""How soon every command answers: its help, a config that is not there, and a finished run.

    python benchmarks/startup.py [--run CONFIG.yaml] [--only COMMAND ...] [--rounds 5] [--json FILE]

CONFIG.yaml is of a run in which all is done (`icons demo --out demo` leaves demo/config.yaml). Each command in a
process of its own, the median of some rounds, beside a Python that does nothing and one that imports torch.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from setting import circumstances, describe

CONFIG = "CONFIG"
COMMANDS: dict[str, list[str] | None] = {
    "run": [CONFIG],
    "warmup": [CONFIG],
    "train-grads": [CONFIG],
    "val-grads": [CONFIG],
    "merge": [CONFIG],
    "specialist": [CONFIG],
    "generalist": [CONFIG],
    "trial": None,
    "finetune": None,
    "evaluate": None,
    "export": None,
    "validate": [CONFIG],
    "inspect": [CONFIG, "--row", "0"],
    "status": [CONFIG],
    "report": [CONFIG],
    "compare": None,
    "table": None,
    "demo": None,
    "init": None,
    "tiny-model": None,
    "assemble": None,
    "import-adapter": None,
}
"""What each is given in a finished run; None: it has nothing finished to look at, or more to be told."""
TAKES_CONFIG = {"trial", "finetune", "evaluate", "export", "table"}


def main(
    run: Annotated[Path | None, typer.Option(help="the config of a finished run; default: none is tried")] = None,
    only: Annotated[list[str] | None, typer.Option(help="this command alone; may be repeated")] = None,
    rounds: Annotated[int, typer.Option(help="times each is started")] = 5,
    results: Annotated[Path | None, typer.Option("--json", help="write the numbers there too")] = None,
) -> None:
    """Time every command."""
    facts = circumstances(torch.device("cpu"))
    typer.echo(describe(facts))
    with tempfile.TemporaryDirectory() as temporary:
        missing = str(Path(temporary) / "missing.yaml")
        bare = {"python -c pass": ["-c", "pass"], "python -c 'import torch'": ["-c", "import torch"]}
        times = {name: seconds(arguments, rounds) for name, arguments in bare.items()}
        for name, taken in times.items():
            typer.echo(f"{name:<26}{taken:6.2f} s")
        typer.echo(f"\n{'seconds':<16}{'--help':>10}{'no such file':>14}{'finished run':>14}")
        times["icons"] = seconds(["-m", "icons", "--help"], rounds)
        typer.echo(f"{'icons':<16}{times['icons']:>10.2f}")
        for command in only or COMMANDS:
            finished = COMMANDS[command]
            row = {"help": seconds(["-m", "icons", command, "--help"], rounds)}
            if finished or command in TAKES_CONFIG:
                more = {"export": [str(Path(temporary) / "out")], "inspect": ["--row", "0"]}.get(command, [])
                row["missing"] = seconds(["-m", "icons", command, missing, *more], rounds, code=2)
            if finished and run:
                given = [str(run) if part == CONFIG else part for part in finished]
                row["finished"] = seconds(["-m", "icons", command, *given], rounds)
            times[command] = row
            cells = [f"{row[key]:.2f}" if key in row else "" for key in ("help", "missing", "finished")]
            typer.echo(f"{command:<16}{cells[0]:>10}{cells[1]:>14}{cells[2]:>14}")
    if results:
        results.write_text(json.dumps(facts | {"results": times}, indent=1) + "\n")


def seconds(arguments: list[str], rounds: int, code: int = 0) -> float:
    """The median time of a process; SystemExit with what it said when it ends with another code."""
    taken = []
    for _ in range(rounds):
        begin = time.perf_counter()
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
        taken.append(time.perf_counter() - begin)
        if done.returncode != code:
            raise SystemExit(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
    return round(statistics.median(taken), 2)


if __name__ == "__main__":
    typer.run(main)
