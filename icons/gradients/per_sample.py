"""One pass of a batch: each sample's own mean token loss, backpropagated into its own LoRA gradient.

Source: ICONS (arXiv 2501.00654) section 3: the gradient of a sample's loss with respect to the LoRA parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from icons.gradients.lora import LoraPair, Sink, per_sample_gradients

IGNORE = -100  # torch's own ignore_index


@dataclass(frozen=True)
class ForwardPass:
    """How to run one batch.

    `hidden` runs the model up to the last hidden states [B, T, H]; `head` gives the logits of positions [n, H];
    labels [B, T] say what each position is to predict (IGNORE where nothing), at least one a sample. They stay on the
    CPU: to count them on a GPU would mean to wait for it.
    """

    pairs: list[LoraPair]
    hidden: Callable[[], Tensor]
    head: Callable[[Tensor], Tensor]
    labels_BT: Tensor

    @property
    def size(self) -> int:
        return self.labels_BT.shape[0]

    @property
    def device(self) -> torch.device:
        return self.pairs[0].a.weight.device


@dataclass(frozen=True)
class Losses:
    """Mean token loss of each sample [B] float32 and its count of labels [B] int64, on the model's device."""

    mean_B: Tensor
    tokens_B: Tensor


def backpropagate(batch: ForwardPass, *sinks: Sink) -> Losses:
    """Runs the batch forward once and backward once per sink, each given every LoRA tensor's gradients [B, numel].

    What is backpropagated is the sum over samples of each sample's mean token loss: a mean over the batch's tokens
    would weigh the samples against each other. Raises ValueError when a LoRA layer is used twice in one pass, since
    its gradient would then come in pieces.
    """
    seen: set[str] = set()
    active = sinks[0]

    def once(name: str, grads_BP: Tensor) -> None:
        if name in seen:
            raise ValueError(f"{name} is used more than once in a forward pass; that is not supported")
        seen.add(name)
        active(name, grads_BP)

    with torch.enable_grad(), per_sample_gradients(batch.pairs, once):
        losses = sample_losses(batch.hidden(), batch.head, batch.labels_BT)
        total = losses.mean_B.sum()
        for active in sinks:
            seen.clear()
            total.backward(retain_graph=active is not sinks[-1])  # type: ignore[no-untyped-call]
    return Losses(losses.mean_B.detach(), losses.tokens_B)


def sample_losses(hidden_BTH: Tensor, head: Callable[[Tensor], Tensor], labels_BT: Tensor) -> Losses:
    """Mean cross-entropy of each sample's labelled positions; logits are computed at those positions only."""
    device = hidden_BTH.device
    sample_N, position_N = torch.nonzero(labels_BT != IGNORE, as_tuple=True)
    targets_N, tokens_B = labels_BT[sample_N, position_N].to(device), (labels_BT != IGNORE).sum(1).to(device)
    sample_N, position_N = sample_N.to(device), position_N.to(device)
    logits_NV = head(hidden_BTH[sample_N, position_N]).float()
    loss_N = F.cross_entropy(logits_NV, targets_N, reduction="none")
    sums_B = torch.zeros(labels_BT.shape[0], device=device).index_add(0, sample_N, loss_N)
    return Losses(sums_B / tokens_B, tokens_B)


def squared_norms(grads_BP: Tensor) -> Tensor:
    """|g|^2 of each row [B], float32."""
    norms_B: Tensor = torch.linalg.vector_norm(grads_BP, dim=1, dtype=torch.float32)
    return norms_B.square_()
