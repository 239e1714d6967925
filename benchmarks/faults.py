"""Kills and damages: does a run that was disturbed end as one that was not?

    python benchmarks/faults.py [--kills 100] [--writes 100] [--damages 200] [--seed 0] [--json FILE]

Kills: `icons run` is killed (SIGKILL, its whole process group) at a random moment of a random stage, again and again
until it ends; then a new run begins. Every finished shard must stay the file that it was, and the selection must be
the undisturbed one's, byte for byte.

Writes: a command is killed just before the n-th time that it opens a file to write, renames, removes or makes one, n at
random. So stages are met that are too short to be hit by the clock: the merge, the offset index of a large file, the
specialist, the selection, the report, the end of a training, an evaluation, a model folder. The same command, run
again, must end as if nothing had been.

Damages: one file of a finished run, its kind drawn first, is flipped, cut, filled with zeros, replaced by another or
deleted; running all again must end in the same selection, adapters and answers, or be refused in words, and then in the
same when what they name is deleted.
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
ALL = (("run",), ("finetune", "--name", "tuned"), ("evaluate",))
"""What is run again after a damage."""
ROUNDS = 6  # of running and deleting what a refusal names


def main(
    kills: int = 100,
    writes: int = 100,
    damages: int = 200,
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
        for command, *options in ALL[1:]:
            in_process(command, config, *options)
        shutil.copytree(root / "run", root / "finished")
        found: dict[str, Any] = {}
        if kills:
            shutil.rmtree(root / "run")
            found["kills"] = kill_runs(root, config, wanted, kills, rng, (stage,) if stage else STAGES)
        if writes:
            found["writes"] = kill_writes(root, config, writes, rng)
        if damages:
            found["damages"] = damage_files(root, config, damages, rng)
    if results:
        results.write_text(json.dumps(facts | {"results": found}, indent=1) + "\n")
    if any(part["wrong_selections"] or part["lost_shards"] or part.get("unclear") for part in found.values()):
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
        "finetune": {"max_steps": 4, "batch_size": 4, "save_steps": 2, "learning_rate": 1.0e-3},
    }
    (root / "config.yaml").write_text(yaml.safe_dump(content))
    return root / "config.yaml"


def selection(run: Path) -> dict[str, bytes]:
    return {name: (run / "selection" / "vote-20" / name).read_bytes() for name in SELECTION}


def results_of(run: Path) -> dict[str, bytes]:
    """The selection, the tuned adapter and every answer, without times."""
    found = selection(run)
    for path in sorted(run.glob("evaluation/*/*.safetensors")):
        found[str(path.relative_to(run))] = path.read_bytes()
    for name in ("warmup/final", "finetune/tuned/final"):
        found[name] = (run / name / "adapter_model.safetensors").read_bytes()
    return found


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


KILLER = """
import os, signal, sys
at, root, count = int(sys.argv[1]), sys.argv[2], 0
def hook(event, arguments):
    global count
    name = arguments[0] if arguments else None
    writes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate") or (
        event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    if writes and isinstance(name, (str, bytes)) and root in os.fsdecode(name):
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
import icons.data.json_records
icons.data.json_records.SMALL = 0  # every data file gets an offset index
from icons.cli import main
try:
    main(sys.argv[3:])
finally:
    print("writes", count)
"""
"""Runs a command and kills it just before its n-th change of a file below a folder; counts them when it is not hit."""


def write_cases(root: Path, config: Path) -> dict[str, tuple[tuple[str, ...], list[object]]]:
    """Name -> what of a finished run is taken away first, and the command that makes it again."""
    run = ["run"]
    return {
        "index of the data": ((".icons-cache",), ["specialist", config]),
        "warmup": (("warmup",), ["warmup", config]),
        "end of the warmup": (("warmup/final",), ["warmup", config]),
        "val-grads": (("val_grads",), ["val-grads", config]),
        "train-grads": (("train_grads",), ["train-grads", config]),
        "merge": (("train_grads/final/index.json",), ["merge", config]),
        "specialist": (("influence",), ["specialist", config]),
        "generalist": (("selection",), ["generalist", config]),
        "report": (("report",), ["report", config]),
        "run's last stages": (("train_grads/final/index.json", "influence", "selection", "report"), [*run, config]),
        "finetune": (("finetune",), ["finetune", config, "--name", "tuned", "--merge"]),
        "evaluate": (("evaluation",), ["evaluate", config]),
        "tiny-model": ((), ["tiny-model", root / "run" / "tiny"]),
    }


def kill_writes(root: Path, config: Path, count: int, rng: random.Random) -> dict[str, Any]:
    run, cases = root / "run", write_cases(root, config)
    hit, lost, wrong = Counter[str](), 0, 0
    totals: dict[str, int] = {}
    wanted: dict[str, dict[str, bytes]] = {}
    names = list(cases)

    def fresh(name: str) -> None:
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(root / "finished", run)
        for taken in cases[name][0]:
            for place in (run / taken, root / "data" / taken, root / "data" / "tasks" / taken):
                shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)

    def command(name: str, at: int) -> subprocess.CompletedProcess[str]:
        arguments = [str(each) for each in cases[name][1]]
        line = [sys.executable, "-c", KILLER, str(at), str(root), *arguments]
        return subprocess.run(line, capture_output=True, text=True, check=False)

    for number in range(count):
        name = names[number % len(names)]
        if name not in totals:
            fresh(name)
            done = command(name, 0)
            totals[name] = int(re.findall(r"writes (\d+)", done.stdout)[-1])
            wanted[name] = made(run, name)
            if done.returncode or not totals[name]:
                typer.echo(f"  {name}: {done.stderr[-300:]}")
        fresh(name)
        at = rng.randint(1, totals[name])
        before = shards(run)
        killed = command(name, at)
        hit[name] += killed.returncode == -signal.SIGKILL
        after = shards(run)
        lost += sum(after.get(path) != state for path, state in before.items())
        again = command(name, 0)
        if again.returncode or made(run, name) != wanted[name]:
            wrong += 1
            typer.echo(f"  wrong: {name} killed before change {at} of {totals[name]}: {again.stderr.strip()[-300:]}")
    typer.echo(f"\n{hit.total()} kills before a change of a file; ended otherwise: {wrong}, lost shards: {lost}")
    for name in names:
        typer.echo(f"  {name:<20} {hit[name]:4} of its {totals.get(name, 0)} changes")
    by_stage = {name: {"kills": hit[name], "changes": totals.get(name, 0)} for name in names}
    return {"kills": hit.total(), "by_stage": by_stage, "wrong_selections": wrong, "lost_shards": lost}


def made(run: Path, name: str) -> dict[str, bytes]:
    """What a case's command leaves, times left out."""
    if name == "tiny-model":
        return {path.name: path.read_bytes() for path in sorted((run / "tiny").glob("*"))}
    found = {}
    for pattern in ("**/*.safetensors", "selection/*/*.json", "report/figures/*.svg"):
        for path in sorted(run.glob(pattern)):
            if path.is_file() and not path.name.startswith(".") and ".icons-tmp" not in str(path):
                found[str(path.relative_to(run))] = path.read_bytes()
    return found


def damage_files(root: Path, config: Path, count: int, rng: random.Random) -> dict[str, Any]:
    run, outcomes, wrong, unclear = root / "run", Counter[str](), 0, 0
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(root / "finished", run)
    wanted = results_of(run)
    for _ in range(count):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(root / "finished", run)
        # What comes after is sometimes not there yet, so that the damage meets the stage that reads the file.
        later = ("evaluation", "finetune", "report", "selection", "influence")
        for name in later[: rng.choice((0, 0, 1, 2, 3, 4, 5))]:
            shutil.rmtree(run / name)
        files = sorted(path for path in run.rglob("*") if path.is_file() and path.stat().st_size)
        kinds = sorted({kind_of(path.relative_to(run)) for path in files})
        kind = rng.choice(kinds)
        path = rng.choice([path for path in files if kind_of(path.relative_to(run)) == kind])
        how = damage(path, rng, files)
        refused, code, message = False, 2, ""
        for _attempt in range(ROUNDS):
            code, output = all_again(config)
            if code != 2:
                break
            refused, message = True, output
            if not follow(output, run):
                break
        same = code == 0 and results_of(run) == wanted
        wrong += code == 0 and not same
        if code != 0 or not same:
            unclear += code != 0
            others = [key for key, content in wanted.items() if code == 0 and results_of(run).get(key) != content]
            typer.echo(
                f"  {'other ' + str(others) if others else 'not mended'}: {how} {path.relative_to(run)}: "
                f"{message.strip()[-300:]}"
            )
        outcomes[f"{kind}: {'refused, then mended' if refused else 'harmless'}" if same else f"{kind}: not mended"] += 1
    typer.echo(f"\n{count} damages; wrong results: {wrong}, not mended by what the message says: {unclear}")
    for outcome, number in sorted(outcomes.items()):
        typer.echo(f"  {outcome:<64} {number:4}")
    return {
        "damages": count,
        "outcomes": dict(outcomes),
        "wrong_selections": wrong,
        "lost_shards": 0,
        "unclear": unclear,
    }


def all_again(config: Path) -> tuple[int, str]:
    """Every command in turn, up to the first that does not end well."""
    code, output = 0, ""
    for command, *options in ALL:
        code, output = in_process(command, config, *options)
        if code != 0:
            break
    return code, output


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
