"""Gradient rows of a batch: projected as they are produced, or compared exactly with the tasks' mean gradients.

Nothing the size of batch x parameters is kept: each LoRA tensor's features are used inside its backward and dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from icons.gradients.per_sample import ForwardPass, Losses, backpropagate, squared_norms
from icons.gradients.projection import Projector
from icons.gradients.transfer import to_host
from icons.gradients.types import Transform


@dataclass(frozen=True)
class Rows:
    """Per sample, on the model's device: `values` [B, d] float32, the exact norm of the whole gradient [B], losses.

    `values` are projected features, as unit rows or as they are, or exact cosines with d tasks. A zero gradient gives
    zeros.
    """

    values_BD: Tensor
    norms_B: Tensor
    losses: Losses

    def to_host(self, dtype: torch.dtype) -> Callable[[], Rows]:
        """Sends them to the host, values in `dtype`, without waiting; what is returned waits until they are there."""
        losses = self.losses
        arrived = to_host([self.values_BD.to(dtype), self.norms_B, losses.mean_B, losses.tokens_B])

        def rows() -> Rows:
            values, norms, means, tokens = arrived()
            return Rows(values, norms, Losses(means, tokens))

        return rows


class _Sum:
    """Zeros of one shape, float32, on every device where something is added: layers may lie on several."""

    def __init__(self, *shape: int) -> None:
        self.shape, self.parts = shape, dict[torch.device, Tensor]()

    def on(self, device: torch.device) -> Tensor:
        """The part on a device, to be added to in place."""
        if device not in self.parts:
            self.parts[device] = torch.zeros(self.shape, device=device)
        return self.parts[device]

    def total(self, device: torch.device) -> Tensor:
        """All parts together, on a device."""
        total = self.on(device)
        for other, part in self.parts.items():
            if other != device:
                total = total + part.to(device)
        return total


def projected_rows(batch: ForwardPass, projector: Projector, transform: Transform) -> Rows:
    """The projected features of each sample, as unit rows [B, dim]."""
    rows = projections(batch, projector, transform)
    return replace(rows, values_BD=F.normalize(rows.values_BD, dim=1, eps=1e-30))


def projections(batch: ForwardPass, projector: Projector, transform: Transform) -> Rows:
    """The projected features of each sample [B, dim], as long as they come out."""
    size, device = batch.size, batch.device
    sketch, squares = _Sum(size, projector.dim), _Sum(size)

    def project(name: str, grads_BP: Tensor) -> None:
        squares.on(grads_BP.device).add_(squared_norms(grads_BP))
        projector.add(name, transform(name, grads_BP), sketch.on(grads_BP.device))

    losses = backpropagate(batch, project)
    return Rows(sketch.total(device), squares.total(device).sqrt(), losses)


def exact_rows(batch: ForwardPass, directions: Mapping[str, Tensor], transform: Transform) -> Rows:
    """The exact mean cosine of each sample with each task's validation samples, [B, T]; no projection.

    `directions` maps a LoRA tensor's name to the tasks' mean unit gradients of it, [T, numel] in any dtype, on the
    tensor's device; products are made in float32:
    mean_j cos(g, g'_j) = g/|g| · mean_j g'_j/|g'_j|, summed over tensors.
    """
    size, device = batch.size, batch.device
    tasks = next(iter(directions.values())).shape[0]
    dots, squares, features = _Sum(size, tasks), _Sum(size), _Sum(size)

    def compare(name: str, grads_BP: Tensor) -> None:
        feature_BP = _measure(name, grads_BP, transform, squares, features)
        dots.on(grads_BP.device).add_(F.linear(feature_BP.float(), directions[name].float()))

    losses = backpropagate(batch, compare)
    lengths_B1 = features.total(device).sqrt().unsqueeze(1)
    cosines_BT = torch.where(lengths_B1 > 0, dots.total(device) / lengths_B1, 0.0)
    return Rows(cosines_BT, squares.total(device).sqrt(), losses)


def add_unit_gradients(batch: ForwardPass, transform: Transform, sums: dict[str, Tensor]) -> Rows:
    """Adds each sample's whole feature gradient, as a unit vector, to `sums` (name -> [numel] float32, in place, on the
    tensor's device).

    Two backward passes: the first finds the lengths, the second adds the gradients divided by them. `values` of the
    result are empty, [B, 0].
    """
    size, device = batch.size, batch.device
    squares, features = _Sum(size), _Sum(size)

    def measure(name: str, grads_BP: Tensor) -> None:
        _measure(name, grads_BP, transform, squares, features)

    def add(name: str, grads_BP: Tensor) -> None:
        lengths_B = features.total(grads_BP.device).sqrt()
        weights_B = torch.where(lengths_B > 0, 1 / lengths_B, 0.0)
        total_P = weights_B @ transform(name, grads_BP).float()
        sums[name] = sums[name].add_(total_P) if name in sums else total_P

    losses = backpropagate(batch, measure, add)
    return Rows(torch.zeros(size, 0, device=device), squares.total(device).sqrt(), losses)


def _measure(name: str, grads_BP: Tensor, transform: Transform, squares: _Sum, features: _Sum) -> Tensor:
    """The features [B, numel]; adds the gradients' and the features' squared norms to their sums [B]."""
    own_B = squared_norms(grads_BP)
    squares.on(grads_BP.device).add_(own_B)
    feature_BP = transform(name, grads_BP)
    features.on(grads_BP.device).add_(own_B if feature_BP is grads_BP else squared_norms(feature_BP))
    return feature_BP
