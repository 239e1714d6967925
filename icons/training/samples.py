"""The samples a model is fine-tuned on, collated for the Trainer; seeded random parts of a data file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from icons.data.batches import make_batch, stack_images
from icons.data.samples import DataSource, Sample
from icons.data.tokens import IGNORE
from icons.errors import BadRecordError


def random_part(num_rows: int, fraction: float, seed: int) -> list[int]:
    """Ascending rows of a seeded random part, at least one; the same on every machine."""
    return random_rows(num_rows, max(1, round(fraction * num_rows)), seed)


def random_rows(num_rows: int, count: int, seed: int) -> list[int]:
    """`count` seeded random rows, ascending; the same on every machine."""
    lottery = np.random.PCG64(seed).random_raw(num_rows)
    return sorted(np.argsort(lottery, kind="stable")[:count].tolist())


class TrainingSamples(Dataset[Sample]):
    """Samples to be collated for the Trainer; `token_types` names what the model calls its image-token flags."""

    def __init__(self, source: DataSource, samples: Sequence[Sample], token_types: Sequence[str] = ()) -> None:
        self.source, self.samples, self.token_types = source, samples, token_types

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def collate(self, samples: list[Sample]) -> dict[str, Tensor]:
        """The forward pass's arguments: input_ids, labels, attention_mask [B, T] right-padded, images; and rows [B].

        Decodes the images, in the process that the Trainer loads batches in. Raises BadRecordError for one that cannot
        be.
        """
        made_batch, bad = make_batch(samples, self.source.inputs)
        if bad or made_batch is None:
            raise BadRecordError(bad[0].reason)
        shape = len(samples), max(len(sample.tokens.ids) for sample in samples)
        batch = {
            "input_ids": torch.full(shape, self.source.inputs.pad_token_id),
            "labels": torch.full(shape, IGNORE),
            "attention_mask": torch.zeros(shape, dtype=torch.long),
            "rows": torch.tensor([sample.row for sample in samples]),
        }
        image_token_id = self.source.inputs.image_token_id
        for index, sample in enumerate(samples):
            length = len(sample.tokens.ids)
            batch["input_ids"][index, :length] = torch.tensor(sample.tokens.ids)
            batch["labels"][index, :length] = torch.tensor(sample.tokens.labels)
            batch["attention_mask"][index, :length] = 1
        if image_token_id is not None:
            batch |= dict.fromkeys(self.token_types, torch.eq(batch["input_ids"], image_token_id).int())
        return batch | stack_images(made_batch.shown_images)
