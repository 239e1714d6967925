"""The samples a model is fine-tuned on, collated for the Trainer; seeded random parts of a data file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from icons.data.images import load_image, pixel_values
from icons.data.samples import DataSource, Sample
from icons.data.templates import IGNORE


def random_part(num_rows: int, fraction: float, seed: int) -> list[int]:
    """Ascending rows of a seeded random part, at least one; the same on every machine."""
    return random_rows(num_rows, max(1, round(fraction * num_rows)), seed)


def random_rows(num_rows: int, count: int, seed: int) -> list[int]:
    """`count` seeded random rows, ascending; the same on every machine."""
    lottery = np.random.PCG64(seed).random_raw(num_rows)
    return sorted(np.argsort(lottery, kind="stable")[:count].tolist())


class TrainingSamples(Dataset[dict[str, Any]]):
    """Samples with their image decoded on access."""

    def __init__(self, source: DataSource, samples: Sequence[Sample]) -> None:
        self.source, self.samples = source, samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.samples[index]
        item: dict[str, Any] = {"row": sample.row, "ids": sample.tokens.ids, "labels": sample.tokens.labels}
        if sample.image is not None:
            item["pixels"] = pixel_values(load_image(sample.image), self.source.inputs.image_processor)
        return item

    def collate(self, items: list[dict[str, Any]]) -> dict[str, Tensor]:
        """input_ids, labels, attention_mask [B, T] right-padded, pixel_values [I, 3, H, W], rows [B]."""
        shape = len(items), max(len(item["ids"]) for item in items)
        batch = {
            "input_ids": torch.full(shape, self.source.inputs.pad_token_id),
            "labels": torch.full(shape, IGNORE),
            "attention_mask": torch.zeros(shape, dtype=torch.long),
            "rows": torch.tensor([item["row"] for item in items]),
        }
        for index, item in enumerate(items):
            length = len(item["ids"])
            batch["input_ids"][index, :length] = torch.tensor(item["ids"])
            batch["labels"][index, :length] = torch.tensor(item["labels"])
            batch["attention_mask"][index, :length] = 1
        pixels = [item["pixels"] for item in items if "pixels" in item]
        if pixels:
            batch["pixel_values"] = torch.from_numpy(np.stack(pixels))
        return batch
