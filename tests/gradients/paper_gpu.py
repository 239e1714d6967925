"""A GPU on paper: which operations of a batch would make the host wait for a real one.

Tensors "on" it are torch's meta tensors, which have a shape and no numbers; those of the host are real. So a batch goes
the way that it goes on a GPU, but for Triton's kernels, on a machine without one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

DEVICE = torch.device("meta")
READS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "repeat_interleave"}
"""Operations whose result, or the shape of it, the host has to know."""


class PaperGpu(TorchDispatchMode):
    """`waits` counts what would make the host wait, `copies` what is copied without waiting; `queued` all the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self.queued = 0
        self.events: list[Event] = []
        self._locked: dict[int, Tensor] = {}  # by storage, which is kept alive so that no number comes twice

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, dict(kwargs or {})
        if name == "is_pinned":
            return args[0].untyped_storage()._cdata in self._locked
        if name == "_pin_memory" or kwargs.pop("pin_memory", False):
            locked = args[0].clone() if name == "_pin_memory" else func(*args, **kwargs)
            self._locked[locked.untyped_storage()._cdata] = locked
            return locked
        if name in ("_to_copy", "copy_"):
            target = args[0] if name == "copy_" else None
            source = args[1] if name == "copy_" else args[0]
            place = target.device if target is not None else torch.device(kwargs.get("device") or source.device)
            if place != source.device:
                return self._copied(func, args, kwargs, source, target, place)
        tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)]
        # A number of the host goes along with a kernel as an argument.
        places = {tensor.device for tensor in tensors if tensor.dim() or tensor.device == DEVICE}
        if DEVICE in places:
            self.queued += 1
            if name in READS or (name == "index" and any(t is not None and t.dtype == torch.bool for t in args[1])):
                self.waits[name] += 1
            if len(places) > 1:
                self.waits[f"{name} with a tensor of the host"] += 1
            if name == "_local_scalar_dense":
                return True
        return func(*args, **kwargs)

    def _copied(
        self, func: Any, args: Any, kwargs: Any, source: Tensor, target: Tensor | None, place: torch.device
    ) -> Tensor:
        to_host = place.type == "cpu"
        there = target if to_host and target is not None else source
        free = (kwargs.get("non_blocking") or args[2:] == (True,)) and there.untyped_storage()._cdata in self._locked
        (self.copies if free else self.waits)["to the host" if to_host else "to the device"] += 1
        if not to_host:
            moved: Tensor = func(*args, **kwargs)
            return moved
        made = torch.empty(source.shape, dtype=kwargs.get("dtype") or source.dtype) if target is None else target
        return made.fill_(1)

    def stands_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """CUDA's events become events of this device."""
        monkeypatch.setattr(torch.cuda, "Event", lambda: Event(self))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)


@dataclass
class Event:
    """`at`: how many operations were queued when it was recorded; `waited`: how many when the host waited for it."""

    gpu: PaperGpu
    at: int = 0
    waited: int = 0

    def record(self, stream: None) -> None:
        self.at = self.gpu.queued
        self.gpu.events.append(self)

    def synchronize(self) -> None:
        self.waited = self.gpu.queued


def on_paper(model: nn.Module) -> None:
    """Moves a model's weights and buffers there."""
    for module in model.modules():
        module._buffers |= {key: value.to(DEVICE) for key, value in module._buffers.items() if value is not None}
        for key, value in module._parameters.items():
            if value is not None:
                module._parameters[key] = nn.Parameter(value.to(DEVICE), requires_grad=False)
