"""Gradient features of a batch: each sample's own mean token loss, its LoRA gradient, projected as it is produced.

Source: ICONS (arXiv 2501.00654) section 3: the gradient of a sample's loss with respect to the LoRA parameters,
randomly projected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from icons.gradients.lora import LoraPair, Sink, per_sample_gradients
from icons.gradients.projection import Projector

IGNORE = -100  # torch's own ignore_index


@dataclass(frozen=True)
class GradientRows:
    """Per sample: the projected gradient [B, dim] as a unit row, the exact norm of the whole gradient, the loss.

    All float32 on the model's device; `target_tokens` int64. A zero gradient gives a zero row.
    """

    unit_BD: Tensor
    norms_B: Tensor
    losses_B: Tensor
    target_tokens_B: Tensor


def gradient_rows(
    pairs: list[LoraPair],
    hidden: Callable[[], Tensor],
    head: Callable[[Tensor], Tensor],
    labels_BT: Tensor,
    projector: Projector,
) -> GradientRows:
    """One forward and one backward pass for a whole batch.

    `hidden` runs the model up to the last hidden states [B, T, H]; `head` gives the logits of positions [n, H];
    labels [B, T] say what each position is to predict (IGNORE where nothing), at least one a sample.
    """
    batch = labels_BT.shape[0]
    device = labels_BT.device
    sketch_BD = torch.zeros(batch, projector.dim, device=device)
    squares_B = torch.zeros(batch, device=device)

    def project(name: str, grads_BP: Tensor) -> None:
        squares_B.add_(torch.linalg.vector_norm(grads_BP, dim=1, dtype=torch.float32).square_())
        projector.add(name, grads_BP, sketch_BD)

    losses_B, tokens_B = backpropagate(pairs, hidden, head, labels_BT, project)
    length_B1 = torch.linalg.vector_norm(sketch_BD, dim=1, keepdim=True)
    unit_BD = torch.where(length_B1 > 0, sketch_BD / length_B1, sketch_BD)
    return GradientRows(unit_BD, squares_B.sqrt(), losses_B, tokens_B)


def backpropagate(
    pairs: list[LoraPair],
    hidden: Callable[[], Tensor],
    head: Callable[[Tensor], Tensor],
    labels_BT: Tensor,
    sink: Sink,
) -> tuple[Tensor, Tensor]:
    """Runs the batch and hands every LoRA tensor's per-sample gradients to `sink`.

    What is backpropagated is the sum over samples of each sample's mean token loss: a mean over the batch's tokens
    would weigh the samples against each other. Returns the losses [B] float32 and the label counts [B] int64.
    """
    with torch.enable_grad(), per_sample_gradients(pairs, sink):
        losses_B, tokens_B = sample_losses(hidden(), head, labels_BT)
        losses_B.sum().backward()  # type: ignore[no-untyped-call]
    return losses_B.detach(), tokens_B


def sample_losses(hidden_BTH: Tensor, head: Callable[[Tensor], Tensor], labels_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of each sample's labelled positions [B] float32 and their count [B] int64.

    Logits are computed at those positions only.
    """
    sample_N, position_N = torch.nonzero(labels_BT != IGNORE, as_tuple=True)
    logits_NV = head(hidden_BTH[sample_N, position_N]).float()
    loss_N = F.cross_entropy(logits_NV, labels_BT[sample_N, position_N], reduction="none")
    tokens_B = (labels_BT != IGNORE).sum(1)
    sums_B = torch.zeros(labels_BT.shape[0], device=loss_N.device).index_add(0, sample_N, loss_N)
    return sums_B / tokens_B, tokens_B
