"""Peak memory of the gradient engine above the model's own, by count of samples."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import yaml

from icons.data.batches import Batch
from icons.demo.drawing import draw_vqa_set


def host_memory(folder: Path, counts: tuple[int, int], tokens_per_batch: int, dim: int) -> dict[str, int]:
    """Peak resident bytes of `icons train-grads` above those of loading the model, by count of samples. Linux only."""
    data = folder / "memory"
    model = {"base": str(folder / "model"), "adapter": str(folder / "adapter"), "dtype": "float32", "device": "cpu"}
    own, peaks = peak(LOAD, str(folder)), {}
    for count in counts:
        draw_vqa_set(data, train_records=count, val_records=1)
        config = {
            "output_dir": str(folder / f"run-{count}"),
            "model": model,
            "train": {"data": str(data / "train.json"), "images": str(data / "images")},
            "tasks": [{"name": "unused", "data": str(data / "train.json"), "images": str(data / "images")}],
            "gradients": {"dim": dim, "tokens_per_batch": tokens_per_batch, "shard_rows": counts[0] // 2},
        }
        (folder / "memory.yaml").write_text(yaml.safe_dump(config))
        peaks[str(count)] = peak(TRAIN_GRADS, str(folder / "memory.yaml")) - own
    return peaks


LOAD = """
import sys
from pathlib import Path
from icons.config import ModelConfig
import icons.stages.specialist.collect, icons.stages.specialist.train_grads
from icons.models.adapters import attach_adapter
from icons.models.loading import load_base
folder = Path(sys.argv[1])
attach_adapter(load_base(ModelConfig(base=str(folder / "model"), dtype="float32", device="cpu")), folder / "adapter")
"""
TRAIN_GRADS = """
import sys
from pathlib import Path
from icons.config_file import load_config
from icons.stages.specialist.train_grads import train_grads
train_grads(load_config(Path(sys.argv[1])))
"""
# The kernel's own count of this process: ru_maxrss would take over that of the process which started it.
_HIGH_WATER = """
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peak(program: str, argument: str) -> int:
    """Runs a Python program to its end in a process of its own; its peak resident bytes."""
    command = [sys.executable, "-c", f"import torch; torch.set_num_threads({torch.get_num_threads()})\n"]
    command[-1] += program + _HIGH_WATER
    process = subprocess.run([*command, argument], capture_output=True, text=True, check=False)
    if process.returncode:
        raise RuntimeError(process.stderr[-2000:])
    return int(process.stdout.split()[-1]) * 1024


def gpu_memory(engine: Callable[[Batch], object], batches: list[Batch]) -> dict[str, int]:
    """Peak bytes that torch allocates above what is there before, by count of samples: half the batches, then all."""
    peaks = {}
    for part in (batches[: (len(batches) + 1) // 2], batches):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        for batch in part:
            engine(batch)
        peaks[str(sum(len(batch.rows) for batch in part))] = torch.cuda.max_memory_allocated() - before
    return peaks
