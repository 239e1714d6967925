"""The mean loss of each sample of a batch, where a model's own loss is one number for all."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from icons.data.tokens import IGNORE


def sample_losses(logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    """Losses [B] float32: the mean cross-entropy of a sample's predicted tokens, each told from those before it."""
    targets_BT = labels_BT[:, 1:]
    predicted_BT = targets_BT != IGNORE
    token_losses = F.cross_entropy(logits_BTV[:, :-1][predicted_BT].float(), targets_BT[predicted_BT], reduction="none")
    # Scattered to their places and summed along rows: unlike an index_add this has one order of summation on a GPU.
    spread_BT = torch.zeros(targets_BT.shape, device=token_losses.device).masked_scatter(predicted_BT, token_losses)
    return spread_BT.sum(1) / predicted_BT.sum(1)
