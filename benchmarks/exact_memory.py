"""Peak memory of exact influence (projection none) against the count of tasks.

    python benchmarks/exact_memory.py [--counts 1,8,22]

For each count: `icons val-grads`, then the peak resident bytes of `icons train-grads` above those of loading the model,
and what the tasks' mean gradients take by themselves (count x LoRA parameters x 4 bytes in float32).
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
import yaml
from memory import LOAD, TRAIN_GRADS, peak
from setting import circumstances, describe, tiny_model

from icons.config_file import load_config
from icons.demo.drawing import draw_vqa_set
from icons.models.tiny import BENCHMARK
from icons.stages.specialist.val_grads import val_grads

RANK = 128  # many parameters for so small a model, so that the tasks' share shows


def main(counts: Annotated[str, typer.Option(help="counts of tasks")] = "1,8,22", samples: int = 64) -> None:
    """Measure the peak memory of exact influence."""
    typer.echo(describe(circumstances(torch.device("cpu"))))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = tiny_model(folder, BENCHMARK, RANK)
        parameters = sum(tensor.numel() for pair in model.lora_pairs() for _, tensor in pair.tensors)
        drawn = draw_vqa_set(folder / "data", train_records=samples, val_records=4)
        own = peak(LOAD, str(folder))
        typer.echo(f"{parameters} LoRA parameters; {own / 2**20:.0f} MiB with the model loaded\n")
        for count in map(int, counts.split(",")):
            task = {"data": str(drawn.tasks["digit"]), "images": str(drawn.images)}
            config = {
                "output_dir": f"run-{count}",
                "model": {"base": "./model", "adapter": "adapter", "dtype": "float32", "device": "cpu"},
                "train": {"data": str(drawn.train), "images": str(drawn.images)},
                "tasks": [{"name": f"t{number}", **task} for number in range(count)],
                "gradients": {"projection": "none"},
            }
            path = folder / f"{count}.yaml"
            path.write_text(yaml.safe_dump(config))
            with contextlib.redirect_stdout(io.StringIO()):
                val_grads(load_config(path))
            used = peak(TRAIN_GRADS, str(path)) - own
            alone = count * parameters * 4
            typer.echo(f"{count:>3} tasks: {used / 2**20:6.0f} MiB, of which mean gradients {alone / 2**20:.1f} MiB")


if __name__ == "__main__":
    typer.run(main)
