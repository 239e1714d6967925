"""bergson: `collect_gradients` over a PEFT adapter, its own loading, batches, hooks and store on disk."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from bergson import GradientProcessor, IndexConfig, collect_gradients, load_gradients
from bergson.data import allocate_batches
from bergson.utils.worker_utils import setup_model_and_peft
from datasets import Dataset
from served import Rows, samples, serve, touched


def load(folder: Path, options: dict[str, Any]) -> Rows:
    """`projection`: per_module (width^2 numbers a LoRA matrix, two-sided) or global (dim numbers, a dense matrix)."""
    tokenised = samples(folder)
    lengths = [len(sample["input_ids"]) for sample in tokenised]
    data = Dataset.from_list([sample | {"length": length} for sample, length in zip(tokenised, lengths, strict=True)])
    target = options["projection"]
    dim = options["width"] if target == "per_module" else options["dim"]
    numbers = itertools.count()

    def config() -> IndexConfig:
        return IndexConfig(
            run_path=str(folder / f"bergson-{target}-{next(numbers)}"),
            model=str(folder / "adapter"),
            precision="fp32",
            projection_dim=dim,
            projection_target=target,
            token_batch_size=options["tokens_per_batch"],
            loss_reduction="mean",
        )

    first = config()
    model, modules = setup_model_and_peft(first)
    touched(model)
    processor = GradientProcessor(projection_dim=dim, projection_target=target)  # keeps its matrices between rounds
    batches = allocate_batches(lengths, options["tokens_per_batch"])

    def rows() -> np.ndarray:
        cfg = config()
        cfg.partial_run_path.mkdir(parents=True)
        collect_gradients(model, data, processor, cfg, batches=batches, target_modules=modules)
        return np.array(load_gradients(cfg.partial_run_path), dtype=np.float32)

    return rows


if __name__ == "__main__":
    serve(load, ["bergson", "torch", "transformers", "peft"])
