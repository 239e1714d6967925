"""From rows to a selection at full size: merge, specialist and generalist on a made-up store, against plain reading.

    python benchmarks/selection.py [--rows 665298] [--generalist-rows 7000000] [--folder DIR] [--json FILE]

Writes a store as train-grads and val-grads would (real manifests and fingerprints, random unit rows), runs the commands
on it, each in a process of its own with the page cache dropped (as root; said otherwise), and prints seconds, GB/s,
its share of reading the same files alone, and peak memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
import yaml
from setting import circumstances, describe

from icons.config import Config
from icons.config_file import load_config
from icons.data.records import chunk_range
from icons.data.sets import data_digest, open_records
from icons.models.tiny import TINY, build_tiny_llava
from icons.stages.specialist.fingerprints import feature_fingerprint, train_fingerprint, val_fingerprint
from icons.stages.training.warmup import warmup
from icons.store.layout import RunFolder
from icons.store.rows import RowWriter
from icons.store.scores import Scores, write_scores

MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_maxrss, used.ru_utime + used.ru_stime)
sys.exit(done.returncode)
"""
MME = 13  # of the 22 validation sets, one task together


@dataclass(frozen=True)
class Taken:
    """What one process took: seconds, those of its threads on a core, peak resident bytes."""

    seconds: float
    cpu: float
    peak: int


def main(
    rows: Annotated[int, typer.Option(help="training rows of the store")] = 665_298,
    generalist_rows: Annotated[int, typer.Option(help="rows of the second table of scores; 0: none")] = 7_000_000,
    val_rows: Annotated[int, typer.Option(help="rows of each of the 22 validation sets")] = 256,
    folder: Annotated[Path | None, typer.Option(help="where the store is made, and left; default: temporary")] = None,
    warm: Annotated[bool, typer.Option("--warm", help="leave the page cache alone")] = False,
    results: Annotated[Path | None, typer.Option("--json", help="write the numbers there too")] = None,
) -> None:
    """Measure merge, specialist and generalist at full size."""
    facts = circumstances(torch.device("cpu"))
    typer.echo(describe(facts))
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = folder or Path(temporary)
        if rows:
            path = project(root / "store", rows, val_rows)
            make_store(load_config(path))
            found["store"] = measure_store(path, rows, cold=not warm)
        if generalist_rows:
            path = project(root / "scores", generalist_rows, val_rows)
            config = load_config(path)
            make_scores(config, generalist_rows)
            found["generalist"] = shown(f"generalist on {generalist_rows:,} rows x 10 tasks", icons("generalist", path))
    if results:
        results.write_text(json.dumps(facts | {"results": found}, indent=1) + "\n")


def project(root: Path, rows: int, val_rows: int) -> Path:
    """A config with a tiny model, its warm-up, and data files of small text records."""
    root.mkdir(parents=True, exist_ok=True)
    record = {"conversations": [{"from": "human", "value": "How many?"}, {"from": "gpt", "value": "three"}]}
    text = json.dumps(record)[1:-1]
    for name, count in (("train", rows), ("val", val_rows), ("few", 64)):
        with (root / f"{name}.jsonl").open("w") as file:
            file.writelines(f'{{"id": {row}, {text}}}\n' for row in range(count))
    build_tiny_llava(root / "model", size=TINY)
    names = [f"task{number}" for number in range(9)] + [f"mme{number}" for number in range(MME)]
    config = {
        "output_dir": "run",
        "model": {"base": "./model", "dtype": "float32", "device": "cpu", "lora": {"r": 4, "alpha": 8}},
        "train": {"data": "few.jsonl"},
        "warmup": {"fraction": 1.0, "max_steps": 1},
        "tasks": [{"name": n, "group": "mme" if n.startswith("mme") else None, "data": "val.jsonl"} for n in names],
        "influence": {"save_matrix": False},
    }
    path = root / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    with redirect_stdout(StringIO()):
        warmup(load_config(path))
    adapter = str(RunFolder(root / "run").adapter("final", None))
    config["model"]["adapter"] = adapter  # type: ignore[index]
    config["train"] = {"data": "train.jsonl", "num_chunks": min(200, max(1, rows // 3000))}
    path.write_text(yaml.safe_dump(config))
    return path


def unit_rows(count: int, dim: int, seed: int) -> Iterator[np.ndarray[Any, Any]]:
    """Blocks of at most 4096 random unit rows, float16: one block drawn, its columns moved on for each."""
    block = np.random.default_rng(seed).standard_normal((4096, dim), dtype=np.float32)
    block = (block / np.linalg.norm(block, axis=1, keepdims=True)).astype(np.float16)
    for number, start in enumerate(range(0, count, 4096)):
        yield np.ascontiguousarray(np.roll(block, 7 * number, axis=1)[: min(4096, count - start)])


def fill(writer: RowWriter, dim: int, seed: int) -> None:
    start, stop = writer.manifest.start, writer.manifest.stop
    rng = np.random.default_rng(seed)
    for grads in unit_rows(stop - start, dim, seed):
        count = len(grads)
        tensors = {
            "grads": grads,
            "rows": np.arange(start, start + count, dtype=np.int64),
            "norms": rng.lognormal(0, 1, count).astype(np.float32),
            "losses": rng.gamma(2, 0.5, count).astype(np.float32),
            "target_tokens": np.ones(count, np.int32),
            "valid": np.ones(count, np.bool_),
        }
        writer.append(tensors, start, start + count, 0, [], 0.1)
        start += count


def make_store(config: Config) -> None:
    """Every chunk and task of the config, with random rows."""
    records, folder, dim = open_records(config.train.parts), RunFolder(config.output_dir), config.gradients.dim
    fingerprint = train_fingerprint(config, "final", records)
    chunks = config.train.num_chunks
    for chunk in range(chunks):
        start, stop = chunk_range(len(records), chunks, chunk)
        fill(RowWriter(folder.chunk("final", chunk, chunks), start, stop, fingerprint), dim, chunk)
    features = feature_fingerprint(config, "final")
    for number, task in enumerate(config.tasks):
        validation = open_records(task.parts)
        made_of = val_fingerprint(config, features, validation)
        fill(RowWriter(folder.task("final", task.name), 0, len(validation), made_of), dim, 10_000 + number)


def make_scores(config: Config, rows: int) -> None:
    """A table of scores as the specialist would leave it."""

    scores = np.random.default_rng(0).standard_normal((rows, len(config.columns)), dtype=np.float32)
    data = data_digest(config.train.parts)[:16]
    table = Scores(
        scores, np.ones(rows, np.bool_), *np.ones((3, rows), np.float32), list(config.columns), "0" * 16, data, {}
    )
    write_scores(RunFolder(config.output_dir).scores, table)


def measure_store(path: Path, rows: int, *, cold: bool) -> dict[str, Any]:
    run = load_config(path).output_dir
    files = sorted((run / "train_grads").rglob("*.safetensors"))
    size = sum(file.stat().st_size for file in files)
    cache = drop_cache() if cold else "left alone"
    typer.echo(f"\nstore: {rows:,} rows x 5120, {len(files)} shards, {size / 1e9:.2f} GB, page cache {cache}\n")
    plain = read_plainly(files, cold=cold)
    typer.echo(f"{'plain reading':<44} {plain:8.1f} s  {size / plain / 1e9:5.2f} GB/s")
    found: dict[str, Any] = {"rows": rows, "bytes": size, "plain_reading_s": plain}
    for stage in ("merge", "merge again", "specialist", "generalist"):
        taken = icons(stage.split()[0], path, cold=cold)
        found[stage] = shown(stage, taken, size, plain)
    again = read_plainly(files, cold=cold)
    typer.echo(f"{'plain reading, once more':<44} {again:8.1f} s  {size / again / 1e9:5.2f} GB/s")
    return found | {"plain_reading_again_s": again, "specialist_share": plain / found["specialist"]["seconds"]}


def drop_cache() -> str:
    """Tries to; the word for the state it leaves."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        return "warm (dropping it needs root)"
    return "dropped before each"


def read_plainly(files: list[Path], *, cold: bool) -> float:
    """Seconds to read the files one after the other, nothing done with the bytes."""
    if cold:
        drop_cache()
    buffer = bytearray(1 << 23)
    begin = time.perf_counter()
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(buffer):
                pass
    return time.perf_counter() - begin


def icons(command: str, path: Path, *options: str, cold: bool = True) -> Taken:
    """The command in a process of its own, by default with the page cache dropped."""
    if cold:
        drop_cache()
    begin = time.perf_counter()
    # Through a small process: the peak of one that a large one starts is never below the large one's own memory.
    measured = subprocess.run(
        [sys.executable, "-S", "-c", MEASURE, sys.executable, "-m", "icons", command, str(path), *options],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if measured.returncode:
        raise SystemExit(f"icons {command} {path} ended with {measured.returncode}")
    peak, cpu = measured.stdout.split()
    return Taken(time.perf_counter() - begin, float(cpu), int(peak) * 1024)


def shown(name: str, taken: Taken, size: int | None = None, plain: float | None = None) -> dict[str, float]:
    line = f"{name:<44} {taken.seconds:8.1f} s  "
    if size and plain and name == "specialist":
        line += f"{size / taken.seconds / 1e9:5.2f} GB/s, {plain / taken.seconds:.2f} of plain reading, "
    typer.echo(f"{line}({taken.cpu:.1f} s of a core)  peak {taken.peak / 1e9:.2f} GB")
    return {"seconds": round(taken.seconds, 2), "cpu_seconds": round(taken.cpu, 2), "peak_bytes": taken.peak}


if __name__ == "__main__":
    typer.run(main)
