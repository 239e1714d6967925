"""What icons multiplies, and nothing else: the products and attention of one pass over all samples, launched again.

A pass of icons is watched once. Its products, those of padding too, are then made anew on operands of the same shapes
and strides, one for all operands of a shape at the same place: icons would be this fast if nothing lay between them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import icons_rows
import numpy as np
import torch
from served import Rows, serve
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "attention")


class Watch(TorchDispatchMode):
    """Keeps every product as a call that can be made again."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], Any]] = []
        self.operands: dict[Any, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(product in func.overloadpacket.__name__ for product in PRODUCTS):
            values, form = tree_flatten((args, kwargs or {}))
            words, named = tree_unflatten([self.operand(value, at) for at, value in enumerate(values)], form)
            self.calls.append(partial(func, *words, **named))
        return func(*args, **kwargs or {})

    def operand(self, value: Any, at: int) -> Any:
        if not isinstance(value, Tensor):
            return value
        key = at, value.shape, value.stride(), value.dtype
        if key not in self.operands:
            fresh = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
            self.operands[key] = fresh.normal_() if value.is_floating_point() else fresh.zero_()
        return self.operands[key]


def load(folder: Path, options: dict[str, Any]) -> Rows:
    watch = Watch()
    with watch:
        icons_rows.load(folder, options)()
    nothing = np.zeros((0, 0), np.float32)

    def rows() -> np.ndarray:
        with torch.no_grad():
            for call in watch.calls:
                call()
        return nothing

    return rows


if __name__ == "__main__":
    serve(load, ["icons", "torch", "transformers", "peft"])
