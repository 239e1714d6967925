"""A run of 40 array tasks on a real Slurm, with two failures and one preemption, against the same run in one process.

    python benchmarks/slurm_run.py [--chunks 40]      # as root, with slurm-wlm and munge installed

Prints what `squeue` and `icons status` show at each step, and whether the selections are the same, byte for byte.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import yaml  # noqa: E402

from icons.cli import main as icons  # noqa: E402
from icons.demo.drawing import draw_vqa_set  # noqa: E402
from tests.conftest import project_config  # noqa: E402
from tests.slurm.cluster import Cluster, cluster, missing  # noqa: E402

RECORDS_A_CHUNK, SHARD_ROWS = 30, 5


class Run:
    """A run's folder on a cluster, and what is done to it."""

    def __init__(self, root: Path, slurm: Cluster) -> None:
        self.root, self.slurm = root, slurm
        self.chunks = root / "run" / "train_grads" / "final"
        self.begin = time.monotonic()

    def submit(self) -> None:
        self.say("$ bash scripts/submit.sh config.yaml")
        print(self.slurm.run("bash", ROOT / "scripts" / "submit.sh", self.root / "config.yaml").rstrip())

    def show(self) -> None:
        self.say("$ squeue; icons status config.yaml")
        print(self.slurm.run("squeue", "--format=%.12i %.9P %.24j %.10T %.6M %r").rstrip())
        shown = self.slurm.run("icons", "status", self.root / "config.yaml")
        print(shown.replace(f"{self.root}/", "").rstrip(), flush=True)

    def say(self, text: str) -> None:
        print(f"\n[{time.monotonic() - self.begin:4.0f} s] {text}", flush=True)

    def under_way(self) -> dict[int, dict[str, Any]]:
        """Chunk -> its heartbeat, of the chunks that have a first shard and are being computed."""
        found = {}
        for path in self.chunks.glob("chunk-*/heartbeat.json"):
            with contextlib.suppress(OSError, ValueError):
                beat = json.loads(path.read_text())
                if beat["state"] == "running" and (path.parent / "manifest.json").is_file():
                    found[int(path.parent.name.split("-")[1])] = beat
        return found

    def done(self) -> int:
        manifests = [json.loads(path.read_text()) for path in self.chunks.glob("chunk-*/manifest.json")]
        return sum(manifest["complete"] for manifest in manifests)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=40)
    chunks = parser.parse_args().chunks
    if reason := missing():
        sys.exit(f"slurm_run: {reason}")
    os.environ |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    folder = Path(tempfile.mkdtemp(prefix="slurm-run-"))
    try:
        draw(folder / "one", chunks)
        shutil.copytree(folder / "one", folder / "many")
        with cluster(folder / "s") as slurm:
            through_everything(Run(folder / "many", slurm), chunks)
        begin = time.monotonic()
        with contextlib.redirect_stdout(io.StringIO()):
            icons_run(folder / "one" / "config.yaml")
        print(f"\nthe same in one process: {time.monotonic() - begin:.0f} s")
        compare(folder / "one" / "run", folder / "many" / "run")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def draw(root: Path, chunks: int) -> None:
    from icons.models.tiny import build_tiny_llava

    draw_vqa_set(root / "data", train_records=RECORDS_A_CHUNK * chunks, val_records=4)
    build_tiny_llava(root / "tiny")
    raw = project_config(root, Path("tiny"))
    raw["train"]["num_chunks"] = chunks
    slow = {"projection": "rademacher", "dim": 4096, "tokens_per_batch": 1, "shard_rows": SHARD_ROWS}
    raw["gradients"] = slow  # about a second a chunk, so that there is something to interrupt
    (root / "config.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))


def through_everything(run: Run, chunks: int) -> None:
    spoilt = 3 * chunks // 4
    image = own_image(run.root, spoilt)
    good = image.read_bytes()
    image.write_bytes(b"not an image")

    run.submit()
    run.show()

    run.slurm.wait_until(lambda: run.done() >= chunks // 8 and bool(run.under_way()), 600)
    run.say("a job of the partition `urgent` takes the whole node")
    run.slurm.run("sbatch", "--partition=urgent", "--cpus-per-task=8", "--output=/dev/null", "--wrap=sleep 2")
    run.slurm.wait_until(lambda: any(state == "RUNNING" and name == "wrap" for _, name, state in run.slurm.queue()))
    run.show()

    run.slurm.wait_until(lambda: run.done() >= chunks // 2 and bool(run.under_way()), 600)
    number, beat = next(iter(run.under_way().items()))
    os.kill(beat["pid"], signal.SIGKILL)
    run.say(f"chunk {number} is killed (kill -9) in the middle")
    run.show()

    run.slurm.wait_until_empty(600)
    run.say(f"the queue is empty; chunk {spoilt} has met an image that is none")
    run.show()

    run.say("the image is mended")
    image.write_bytes(good)
    run.submit()
    run.show()
    run.slurm.wait_until_empty(600)
    run.show()
    run.submit()


def own_image(root: Path, chunk: int) -> Path:
    """An image that records of this chunk alone show."""
    records = json.loads((root / "data" / "train.json").read_text())
    users: dict[str, set[int]] = {}
    for row, record in enumerate(records):
        if "image" in record:
            users.setdefault(record["image"], set()).add(row // RECORDS_A_CHUNK)
    return root / "data" / "images" / next(name for name, used in users.items() if used == {chunk})


def icons_run(config: Path) -> None:
    with contextlib.suppress(SystemExit):
        icons(["run", str(config)])


def compare(one: Path, many: Path) -> None:
    same = True
    for folder in ("train_grads", "val_grads", "selection"):
        paths = [path.relative_to(one) for path in sorted((one / folder).rglob("*")) if path.suffix == ".safetensors"]
        paths += [path.relative_to(one) for path in sorted((one / folder).rglob("selected_*.json"))]
        equal = sum((one / path).read_bytes() == (many / path).read_bytes() for path in paths)
        same = same and equal == len(paths) > 0
        print(f"{folder}: {equal} of {len(paths)} files are the same, byte for byte")
    if not same:
        sys.exit("slurm_run: the runs differ")


if __name__ == "__main__":
    main()
