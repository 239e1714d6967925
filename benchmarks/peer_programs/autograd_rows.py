"""Plain autograd, one sample at a time, without padding: every LoRA gradient made, and dropped, projected or kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from served import Rows, adapted, padded, samples, serve, sum_of_means


def load(folder: Path, options: dict[str, Any]) -> Rows:
    """`keep`: nothing (the rows are the norms), sketch (icons' count sketch), or cosines (exact ones, in float64)."""
    found, model, keep = samples(folder), adapted(folder), options["keep"]
    alone = [padded([sample]) for sample in found]
    lora = {name.replace(".default", ""): weight for name, weight in model.named_parameters() if "lora_" in name}
    projector = None
    if keep == "sketch":
        from icons.gradients.projection import make_projector

        projector = make_projector("count_sketch", options["dim"], 0)

    def row(ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        loss = sum_of_means(model(input_ids=ids, use_cache=False).logits, labels)
        gradients = torch.autograd.grad(loss, list(lora.values()))
        if keep == "cosines":
            return torch.cat([gradient.flatten() for gradient in gradients])
        if projector is None:
            return torch.stack([gradient.norm() for gradient in gradients])
        out = torch.zeros(1, options["dim"])
        for name, gradient in zip(lora, gradients, strict=True):
            projector.add(name, gradient.reshape(1, -1), out)
        return out[0]

    def rows() -> np.ndarray:
        made = torch.stack([row(ids, labels) for ids, labels in alone])
        if keep != "cosines":
            return made.numpy()
        unit = made.double()
        unit /= unit.norm(dim=1, keepdim=True)
        return (unit @ unit.T).numpy()

    return rows


if __name__ == "__main__":
    serve(load, ["torch", "transformers", "peft"])
