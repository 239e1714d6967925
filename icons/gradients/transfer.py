"""Between the host and a GPU without waiting: every copy leaves from, or arrives in, page-locked memory.

A copy of ordinary memory waits for all the work that the device has queued; then the device idles while the host
prepares its next batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """The tensor on `device`; a change of dtype is made there, since on the host it would leave page-locked memory."""
    if device.type != "cpu" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(dtype or tensor.dtype)


def to_host(tensors: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
    """Queues copies behind what makes the tensors; what is returned waits for these alone, and gives them."""
    if tensors[0].device.type == "cpu":
        return lambda: list(tensors)
    copies = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
    for copy, tensor in zip(copies, tensors, strict=True):
        copy.copy_(tensor, non_blocking=True)
    done = torch.cuda.Event()  # type: ignore[no-untyped-call]
    done.record(torch.cuda.current_stream(tensors[0].device))

    def arrived() -> list[Tensor]:
        done.synchronize()
        return copies

    return arrived
