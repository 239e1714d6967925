"""One pass of a batch: each sample's own mean token loss, backpropagated into its own LoRA gradient.

Source: ICONS (arXiv 2501.00654) section 3: the gradient of a sample's loss with respect to the LoRA parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from icons.gradients.adapted import Sink, per_sample_gradients
from icons.gradients.lora import LoraPair
from icons.gradients.transfer import to_device

IGNORE = -100  # torch's own ignore_index


@dataclass(frozen=True)
class ForwardPass:
    """How to run one batch.

    `hidden` runs the model up to the last hidden states [B, T, H]; `head` gives the logits of positions [n, H];
    labels [B, T] say what each position is to predict (IGNORE where nothing), at least one a sample. They stay on the
    CPU, where counting them waits for nothing. A model may lie on several devices: `device` is that of its first layer.
    `pairs` are all of the model's, those that do not count among them.
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
        return self.pairs[0].device


@dataclass(frozen=True)
class Losses:
    """Mean token loss of each sample [B] float32 and its count of labels [B] int64, on the batch's device."""

    mean_B: Tensor
    tokens_B: Tensor


def backpropagate(batch: ForwardPass, *sinks: Sink) -> Losses:
    """Runs the batch forward once and backward once per sink, each given the gradients [B, numel] of the LoRA tensors.

    What is backpropagated is the sum over samples of each sample's mean token loss: a mean over the batch's tokens
    would weigh the samples against each other. Only tensors that count (`LoraPair.tensors`) have gradients. Raises
    ValueError when a LoRA layer is used twice in one pass (its gradient would come in pieces) or not at all.
    """
    seen: set[str] = set()
    expected = {name for pair in batch.pairs for name, _ in pair.tensors}
    active = sinks[0]

    def once(name: str, grads_BP: Tensor) -> None:
        if name in seen:
            raise ValueError(f"{name} is used more than once in a forward pass; that is not supported")
        seen.add(name)
        active(name, grads_BP)

    with torch.enable_grad(), per_sample_gradients(batch.pairs, once):
        losses = _sample_losses(batch.hidden(), batch.head, batch.labels_BT)
        total = losses.mean_B.sum()
        for active in sinks:
            seen.clear()
            total.backward(retain_graph=active is not sinks[-1])  # type: ignore[no-untyped-call]
            if seen != expected:
                raise ValueError(f"{min(expected - seen)} and {len(expected - seen) - 1} more had no part in the loss")
    return Losses(losses.mean_B.detach().to(batch.device), losses.tokens_B.to(batch.device))


@dataclass(frozen=True)
class _Targets:
    """Labelled positions (sample and position indices [n], labels [n]) and their count by sample [B], on the device."""

    sample_N: Tensor
    position_N: Tensor
    labels_N: Tensor
    tokens_B: Tensor


def _targets(labels_BT: Tensor, device: torch.device) -> _Targets:
    labelled_BT = labels_BT != IGNORE
    sample_N, position_N = torch.nonzero(labelled_BT, as_tuple=True)
    together_3N = to_device(torch.stack([sample_N, position_N, labels_BT[sample_N, position_N]]), device)
    return _Targets(together_3N[0], together_3N[1], together_3N[2], to_device(labelled_BT.sum(1), device))


def _sample_losses(hidden_BTH: Tensor, head: Callable[[Tensor], Tensor], labels_BT: Tensor) -> Losses:
    """Mean cross-entropy of each sample's labelled positions; logits are computed at those positions only."""
    targets = _targets(labels_BT, hidden_BTH.device)
    logits_NV = head(hidden_BTH[targets.sample_N, targets.position_N]).float()
    # The head may lie elsewhere: beside the embeddings that it shares its weight with.
    loss_N = F.cross_entropy(logits_NV, targets.labels_N.to(logits_NV.device), reduction="none").to(hidden_BTH.device)
    sums_B = torch.zeros(len(targets.tokens_B), device=loss_N.device).index_add(0, targets.sample_N, loss_N)
    return Losses(sums_B / targets.tokens_B, targets.tokens_B)


def squared_norms(grads_BP: Tensor) -> Tensor:
    """|g|^2 of each row [B], float32."""
    norms_B: Tensor = torch.linalg.vector_norm(grads_BP, dim=1, dtype=torch.float32)
    return norms_B.square_()
