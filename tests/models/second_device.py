"""A second device with numbers, on a machine that has none: what is there is computed on the CPU, mixing is refused.

Tensors there say that they lie on torch's meta device and hold a tensor of the CPU. As with two GPUs, an operation on
tensors of both devices is an error, and so is an index of the other one; a number of no dimension goes along, as one of
the host's does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

THERE, HERE = torch.device("meta"), torch.device("cpu")


class _There(Tensor):
    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> _There:
        made: _There = Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=THERE,
        )  # fmt: skip
        return made

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class SecondDevice(TorchDispatchMode):
    """While open, THERE is a device; `moves` counts what was copied from one to the other."""

    def __init__(self) -> None:
        super().__init__()
        self.moves = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, dict(kwargs or {})
        if name == "is_pinned":
            return True
        if name == "_to_copy" and kwargs.get("device") not in (None, args[0].device):
            self.moves += 1
            to = kwargs.pop("device")
            kwargs.pop("pin_memory", None)
            moved = func(args[0].inner if isinstance(args[0], _There) else args[0], *args[1:], **kwargs)
            return _There(moved) if to == THERE else moved
        return _run(func, args, kwargs)


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)]
    there = any(isinstance(tensor, _There) for tensor in tensors)
    asked = kwargs.get("device")
    if asked is not None:
        there = torch.device(asked) == THERE
    elif there and any(tensor.dim() and tensor.device == HERE for tensor in tensors):
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, found {HERE} and the second")
    if not there:
        return func(*args, **kwargs)
    if asked is not None:
        kwargs = {**kwargs, "device": HERE}
    out = func(*_unwrapped(args), **_unwrapped(kwargs))
    wrapped = tree_map(lambda each: _There(each) if isinstance(each, Tensor) else each, out)
    return return_and_correct_aliasing(func, args, kwargs, wrapped)


def _unwrapped(tree: Any) -> Any:
    return tree_map(_here, tree)


def _here(each: Any) -> Any:
    if isinstance(each, _There):
        return each.inner
    # What is made of nothing, such as an empty cache, does not come by here.
    if isinstance(each, Tensor) and each.is_meta:
        assert each.numel() == 0
        return torch.empty(each.shape, dtype=each.dtype)
    return each


def move_there(module: nn.Module) -> None:
    """Its weights and buffers; they stay frozen."""
    for each in module.modules():
        each._buffers |= {key: _There(value) for key, value in each._buffers.items() if value is not None}
        for key, value in each._parameters.items():
            if value is not None:
                each._parameters[key] = nn.Parameter(_There(value.detach()), requires_grad=False)


def numbers(tensor: Tensor) -> Tensor:
    return tensor.inner if isinstance(tensor, _There) else tensor
