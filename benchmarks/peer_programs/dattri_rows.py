"""dattri-llm: `HookManager` over a plain loop, its LoGRA projection of every LoRA matrix as it is captured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from dattri_llm import HookManager, HookManagerConfig
from dattri_llm.gradient.callbacks import CaptureCallback
from served import Rows, adapted, padded, samples, serve, sum_of_means


def load(folder: Path, options: dict[str, Any]) -> Rows:
    """width^2 numbers a LoRA matrix. The loop has the race's batches: neighbours in length under the token budget."""
    found, model = samples(folder), adapted(folder)
    batches = [(indices, *padded([found[index] for index in indices])) for indices in options["batches"]]
    captured = CaptureCallback()
    projection = {"style": "logra", "proj_dim": options["width"], "proj_max_batch_size": 32, "proj_type": "rademacher"}
    config = HookManagerConfig(
        # Capture alone: the layers leave out the batch's own weight gradients.
        invasive_linear_io=[r"lora_[AB]"],
        capture_style="auto",
        projection_kwargs={"__default__": projection},
    )
    manager = HookManager(model, config=config, callbacks=[captured])

    def rows() -> np.ndarray:
        made: dict[int, torch.Tensor] = {}
        with manager.collect():
            for indices, ids, labels in batches:
                sum_of_means(model(input_ids=ids, use_cache=False).logits, labels).backward()
                layers = captured.record.gradient.materialize().data
                block = torch.cat([layers[name].flatten(1) for name in sorted(layers)], dim=1).float()
                made.update(zip(indices, block, strict=True))
        return torch.stack([made[index] for index in range(len(found))]).detach().numpy()

    return rows


if __name__ == "__main__":
    serve(load, ["dattri-llm", "dattri", "torch", "transformers", "peft"])
