"""The ways of getting gradients that ours is measured against: the published loop, batch-1 autograd, the ceiling.

All three go through Hugging Face's own forward pass with labels, with the LoRA parameters alone asking for
gradients. Written from the description in ICONS (arXiv 2501.00654), LESS (2402.04333) and TRAK (2303.14186).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from icons.data.batches import Batch, stack_images
from icons.data.samples import Sample
from icons.data.tokens import IGNORE
from icons.models.vlm import VisionLanguageModel

BLOCK_COLUMNS = 128
BUFFERED = 4
SIGNS_AT_ONCE = 2**31
"""Sign matrices larger than this are made by rows: one of 320 million rows and 128 columns does not fit."""


def forward_arguments(samples: list[Sample], batch: Batch, pad: int) -> dict[str, Tensor]:
    """What the Hugging Face model takes for these samples: right-padded, with mask and labels, every image."""
    device, length = batch.input_ids.device, max(len(sample.tokens.ids) for sample in samples)
    ids = torch.full((len(samples), length), pad)
    labels, mask = torch.full_like(ids, IGNORE), torch.zeros_like(ids)
    for index, sample in enumerate(samples):
        count = len(sample.tokens.ids)
        ids[index, :count] = torch.tensor(sample.tokens.ids)
        labels[index, :count] = torch.tensor(sample.tokens.labels)
        mask[index, :count] = 1
    arguments = {"input_ids": ids.to(device), "labels": labels.to(device), "attention_mask": mask.to(device)}
    return arguments | stack_images(batch.shown_images)


@dataclass(frozen=True)
class Baselines:
    """The model with `lora`, its LoRA parameters."""

    model: VisionLanguageModel
    lora: list[nn.Parameter]

    @classmethod
    def of(cls, model: VisionLanguageModel) -> Baselines:
        return cls(model, [parameter for name, parameter in model.peft.named_parameters() if "lora_" in name])

    def sequential(self, singles: list[dict[str, Tensor]]) -> None:
        """Batch-1 autograd over the LoRA parameters; the gradients are dropped."""
        with self._asking_for_gradients():
            for arguments in singles:
                torch.autograd.grad(self.model.base(**arguments, use_cache=False).loss, self.lora)

    def ceiling(self, batches: list[dict[str, Tensor]]) -> None:
        """Plain forward and backward of padded batches, full logits, LoRA weight gradients, none per sample."""
        with self._asking_for_gradients():
            for arguments in batches:
                self.model.base(**arguments, use_cache=False).loss.backward()
                for parameter in self.lora:
                    parameter.grad = None

    def published(self, singles: list[dict[str, Tensor]], dim: int) -> list[Tensor]:
        """Batch 1, gradient checkpointing, one float16 vector a sample, projected four at a time: rows [4, dim].

        In its favour, products on a CPU are float32 (float16 is slower there), and the vision tower keeps no graph.
        """
        buffer: list[Tensor] = []
        rows: list[Tensor] = []
        with self._asking_for_gradients(), self._checkpointing():
            for index, arguments in enumerate(singles):
                loss = self.model.base(**arguments, use_cache=False).loss
                found = torch.autograd.grad(loss, self.lora, retain_graph=True)
                buffer.append(torch.cat([gradient.flatten() for gradient in found]).half())
                del loss, found
                if buffer[0].is_cuda:
                    torch.cuda.empty_cache()
                if len(buffer) == BUFFERED or index == len(singles) - 1:
                    rows.append(project_by_columns(torch.stack(buffer), dim))
                    buffer = []
        return rows

    @contextmanager
    def _asking_for_gradients(self) -> Iterator[None]:
        for parameter in self.lora:
            parameter.requires_grad_(True)
        try:
            yield
        finally:
            for parameter in self.lora:
                parameter.requires_grad_(False)

    @contextmanager
    def _checkpointing(self) -> Iterator[None]:
        """Checkpoints work in train mode alone; there is no dropout in these models."""
        base: Any = self.model.base
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # newer names are not in every version we support
            base.gradient_checkpointing_enable({"use_reentrant": False})
        self.model.peft.train()
        try:
            yield
        finally:
            self.model.peft.eval()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                base.gradient_checkpointing_disable()


def project_by_columns(grads_BP: Tensor, dim: int, seed: int = 0) -> Tensor:
    """Dense Rademacher [B, dim]: every block of 128 columns is drawn anew from its own generator, used, dropped."""
    device, size = grads_BP.device, grads_BP.shape[1]
    dtype = grads_BP.dtype if grads_BP.is_cuda else torch.float32
    out_BD = torch.zeros(grads_BP.shape[0], dim, dtype=dtype, device=device)
    rows_at_once = max(1, SIGNS_AT_ONCE // BLOCK_COLUMNS)
    signs = torch.empty(min(size, rows_at_once), BLOCK_COLUMNS, dtype=dtype, device=device)
    for block, column in enumerate(range(0, dim, BLOCK_COLUMNS)):
        generator = torch.Generator(device).manual_seed(seed + block)
        for row in range(0, size, rows_at_once):
            part_BP = grads_BP[:, row : row + rows_at_once].to(dtype)
            signs.bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
            columns = min(BLOCK_COLUMNS, dim - column)
            out_BD[:, column : column + columns] += part_BP @ signs[: part_BP.shape[1], :columns]
    return out_BD
