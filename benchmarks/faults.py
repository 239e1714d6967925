"""Kills and damages: does a run that was disturbed end in the selection of one that was not?

    python benchmarks/faults.py [--kills 50] [--damages 100] [--seed 0] [--stage NAME] [--json FILE]

Kills: `icons run` is killed (SIGKILL, its whole process group) at a random moment of a random stage, again and again
until it ends; then a new run begins. Every finished shard must stay the file that it was, and the selection must be
the undisturbed one's, byte for byte.

Damages: one file of a finished run is flipped, cut, filled with zeros, replaced by another or deleted; running the
stages again must end in the same selection, or be refused in words, and then in the same selection when what they name
is deleted.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
import yaml
from setting import circumstances, describe

from icons.cli import main as icons_main
from icons.demo.drawing import draw_vqa_set
from icons.models.tiny import build_tiny_llava

STAGES = ("warmup", "val-grads", "train-grads", "merge", "specialist", "generalist")
SELECTION = ("selected_indices.json", "selected_data.json", "votes.safetensors")
ROUNDS = 6  # of running and deleting what a refusal names


def main(
    kills: int = 50,
    damages: int = 100,
    seed: int = 0,
    stage: Annotated[str, typer.Option(help="kill in this stage alone")] = "",
    results: Annotated[Path | None, typer.Option("--json", help="write the numbers there too")] = None,
) -> None:
    """Kill and damage runs, and compare their selections with an undisturbed one."""
    facts = circumstances(torch.device("cpu"))
    typer.echo(describe(facts))
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        config = project(root)
        begin = time.monotonic()
        in_process("run", config)
        typer.echo(f"\nundisturbed run: {time.monotonic() - begin:.1f} s in this process")
        wanted = selection(root / "run")
        shutil.copytree(root / "run", root / "finished")
        found: dict[str, Any] = {}
        if kills:
            shutil.rmtree(root / "run")
            found["kills"] = kill_runs(root, config, wanted, kills, rng, (stage,) if stage else STAGES)
        if damages:
            found["damages"] = damage_files(root, config, wanted, damages, rng)
    if results:
        results.write_text(json.dumps(facts | {"results": found}, indent=1) + "\n")
    if any(part["wrong_selections"] or part["lost_shards"] for part in found.values()):
        raise typer.Exit(1)


def project(root: Path) -> Path:
    drawn = draw_vqa_set(root / "data", train_records=96, val_records=6)
    build_tiny_llava(root / "model")
    content = {
        "output_dir": "run",
        "model": {"base": "./model", "dtype": "float32", "device": "cpu", "lora": {"r": 4, "alpha": 8}},
        "train": {"data": str(drawn.train), "images": str(drawn.images), "num_chunks": 3},
        "warmup": {"fraction": 0.3, "max_steps": 8, "batch_size": 4, "save_steps": 2, "learning_rate": 1.0e-3},
        "tasks": [{"name": n, "data": str(path), "images": str(drawn.images)} for n, path in drawn.tasks.items()],
        "gradients": {"dim": 512, "shard_rows": 8},
    }
    (root / "config.yaml").write_text(yaml.safe_dump(content))
    return root / "config.yaml"


def selection(run: Path) -> dict[str, bytes]:
    return {name: (run / "selection" / "vote-20" / name).read_bytes() for name in SELECTION}


def shards(run: Path) -> dict[str, tuple[int, int]]:
    """Finished gradient shards, by name: inode and time, which a file that is written again would not keep."""
    found = {}
    for manifest in run.rglob("manifest.json"):
        if manifest.parts[-3:-1] and ("train_grads" in manifest.parts or "val_grads" in manifest.parts):
            for shard in json.loads(manifest.read_bytes())["shards"]:
                stat = (manifest.parent / shard["file"]).stat()
                found[str(manifest.parent / shard["file"])] = (stat.st_ino, stat.st_mtime_ns)
    return found


def stage_of(run: Path, config: Path) -> str:
    """The first stage that is not done."""
    output = in_process("status", config, "--json")[1]
    states = {stage["stage"]: stage["counts"] for stage in json.loads(output)["stages"]}
    return next((stage for stage in STAGES if set(states.get(stage, {"missing": 1})) != {"done"}), "after the last")


def kill_runs(
    root: Path, config: Path, wanted: dict[str, bytes], kills: int, rng: random.Random, stages: tuple[str, ...]
) -> dict[str, Any]:
    run, hit, lost, wrong, runs = root / "run", Counter[str](), 0, 0, 0
    while hit.total() < kills:
        process = subprocess.Popen(
            [sys.executable, "-m", "icons", "run", str(config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_for(process, run, rng, rng.choice(stages))
        if process.poll() is None:
            before = shards(run) if run.is_dir() else {}
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            after = shards(run) if run.is_dir() else {}
            lost += sum(after.get(name) != state for name, state in before.items())
            at = stage_of(run, config)
            hit[at] += 1
            if at != "after the last":
                continue
        runs += 1
        ended = process.returncode in (0, -signal.SIGKILL)
        wrong += not ended or selection(run) != wanted
        shutil.rmtree(run)
    typer.echo(f"\n{hit.total()} kills in {runs} runs that ended; wrong selections: {wrong}, lost shards: {lost}")
    for stage in (*STAGES, "after the last"):
        typer.echo(f"  {stage:<16} {hit[stage]:4}")
    return {"kills": hit.total(), "by_stage": dict(hit), "runs": runs, "wrong_selections": wrong, "lost_shards": lost}


def wait_for(process: subprocess.Popen[bytes], run: Path, rng: random.Random, stage: str) -> None:
    """Until a random moment in a stage, or, where that is over, soon after the start; or until it ends."""
    chunks = [run / "train_grads" / "final" / f"chunk-0000{number}-of-00003" / "manifest.json" for number in range(3)]
    begun = {  # what appears when the stage begins or is about to, and how long it takes
        "val-grads": (run / "warmup" / "final", 1.0),
        "train-grads": (chunks[0], 1.0),
        "merge": (chunks[2].parent / "shard-00003.safetensors", 0.1),
        "specialist": (run / "train_grads" / "final" / "index.json", 0.05),
        "generalist": (run / "influence" / "scores.safetensors", 0.004),
    }
    sign, span = begun.get(stage, (None, 0.0))
    if sign is None or sign.exists():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(2, 8))
        return
    while not sign.exists() and process.poll() is None:
        time.sleep(0.003)
    time.sleep(rng.uniform(0, span))


def damage_files(root: Path, config: Path, wanted: dict[str, bytes], count: int, rng: random.Random) -> dict[str, Any]:
    run, outcomes, wrong, unclear = root / "run", Counter[str](), 0, 0
    for _ in range(count):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(root / "finished", run)
        # What comes after is sometimes not there yet, so that the damage meets the stage that reads the file.
        for name in rng.choice([(), ("selection",), ("selection", "influence")]):
            shutil.rmtree(run / name)
        files = sorted(path for path in run.rglob("*") if path.is_file() and path.stat().st_size)
        path = rng.choice(files)
        kind, how = kind_of(path.relative_to(run)), damage(path, rng, files)
        refused, code, message = False, 2, ""
        for _attempt in range(ROUNDS):
            code, output = in_process("run", config)
            if code != 2:
                break
            refused, message = True, output
            if not follow(output, run):
                break
        same = code == 0 and selection(run) == wanted
        wrong += code == 0 and not same
        if code != 0:
            unclear += 1
            typer.echo(f"  not mended: {how} {path.relative_to(run)}: {message.strip()[-300:]}")
        outcomes[f"{kind}: {'refused, then mended' if refused else 'harmless'}" if same else f"{kind}: not mended"] += 1
    typer.echo(f"\n{count} damages; wrong selections: {wrong}, not mended by what the message says: {unclear}")
    for outcome, number in sorted(outcomes.items()):
        typer.echo(f"  {outcome:<56} {number:4}")
    return {
        "damages": count,
        "outcomes": dict(outcomes),
        "wrong_selections": wrong,
        "lost_shards": 0,
        "unclear": unclear,
    }


def kind_of(path: Path) -> str:
    name = re.sub(r"\d+", "N", path.name)
    return f"{path.parts[0]}/.../{name}" if len(path.parts) > 1 else name


def damage(path: Path, rng: random.Random, files: list[Path]) -> str:
    how = rng.choice(["flip", "flip", "cut", "zeros", "foreign", "delete"])
    content = bytearray(path.read_bytes())
    if how == "flip":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del content[rng.randrange(len(content)) :]
    elif how == "zeros":
        start = rng.randrange(len(content))
        content[start : start + 64] = bytes(len(content[start : start + 64]))
    elif how == "foreign":
        same = [other for other in files if other.suffix == path.suffix and other != path]
        content = bytearray(rng.choice(same).read_bytes()) if same else content[:-1]
    path.unlink()
    if how != "delete":
        path.write_bytes(content)
    return how


def follow(message: str, run: Path) -> bool:
    """Deletes what a refusal tells to delete; False when it names nothing of the run."""
    named = re.search(r"delete (?:the folder )?(it|\S+)", message)
    target = named[1].rstrip(",;") if named else None
    if target == "it":
        found = re.search(rf"({re.escape(str(run))}\S*)", message)
        target = found[1].rstrip(":;,") if found else None
    if target is None or not Path(target).is_relative_to(run):
        return False
    place = Path(target)
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
    return True


def in_process(*arguments: object) -> tuple[int, str]:
    """Exit code and output of a command, run here: torch starts once."""
    out, code = io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            icons_main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        except Exception as error:  # a crash is an outcome to be counted
            out.write(f"{type(error).__name__}: {error}")
            code = 1
    return code, out.getvalue()


if __name__ == "__main__":
    typer.run(main)
