"""icons: the forward pass and rows of `icons train-grads`, count sketch, without its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from served import Rows, adapted, padded, samples, serve

from icons.data.batches import Batch
from icons.data.batching import plan_batches
from icons.data.formats import LlavaFormat
from icons.gradients.projection import make_projector
from icons.gradients.rows import projections
from icons.gradients.types import sgd
from icons.models.vlm import VisionLanguageModel


def load(folder: Path, options: dict[str, Any]) -> Rows:
    found, peft = samples(folder), adapted(folder).requires_grad_(False)
    inputs = LlavaFormat(None, None, None, 0, pad_token_id=0, max_length=2048)
    model = VisionLanguageModel(peft, peft.get_base_model(), inputs, torch.device("cpu"))
    pairs, projector = model.lora_pairs(), make_projector("count_sketch", options["dim"], 0)
    # As the stage has them: a sample's last id predicts nothing.
    plan = plan_batches([len(sample["input_ids"]) - 1 for sample in found], options["tokens_per_batch"])
    batches = [_batch(indices, [found[index] for index in indices]) for indices in plan]

    def rows() -> np.ndarray:
        made = np.empty((len(found), options["dim"]), np.float32)
        for batch in batches:
            made[batch.rows] = projections(model.forward_pass(pairs, batch), projector, sgd).values_BD.numpy()
        return made

    return rows


def _batch(rows: list[int], chosen: list[dict[str, list[int]]]) -> Batch:
    ids, labels = padded(chosen)
    lengths = [len(sample["input_ids"]) - 1 for sample in chosen]
    return Batch(rows, lengths, ids[:, :-1].contiguous(), labels[:, 1:].contiguous(), [], [() for _ in rows])


if __name__ == "__main__":
    serve(load, ["icons", "torch", "transformers", "peft"])
