"""Losses and right tokens of a batch's answers, each token told from the right ones before it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from icons.data.tokens import IGNORE


def teacher_forced(
    hidden_BTH: Tensor, head: Callable[[Tensor], Tensor], labels_BT: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean loss float32, right tokens and predicted tokens int64 of each sample, [B] each on the host.

    `labels` are shifted: what each position is to predict, IGNORE where that is nothing. Logits are computed at the
    labelled positions alone.
    """
    labelled_BT = labels_BT != IGNORE
    sample_N, position_N = torch.nonzero(labelled_BT, as_tuple=True)
    at = sample_N.to(hidden_BTH.device), position_N.to(hidden_BTH.device)
    logits_NV = head(hidden_BTH[at]).float()
    labels_N = labels_BT[sample_N, position_N].to(logits_NV.device)
    loss_N = F.cross_entropy(logits_NV, labels_N, reduction="none").cpu().double()
    right_N = (logits_NV.argmax(-1) == labels_N).cpu()
    tokens_B = labelled_BT.sum(1)
    losses_B = torch.zeros(len(tokens_B), dtype=torch.float64).index_add(0, sample_N, loss_N) / tokens_B
    right_B = torch.zeros_like(tokens_B).index_add(0, sample_N, right_N.long())
    return losses_B, right_B, tokens_B
