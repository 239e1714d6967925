"""Which decoder layers' LoRA tensors count: those of all, or of the last N alone.

With `last-N` the gradient is the same one, restricted to the last N layers' tensors: each of these is projected by the
same matrix as in a gradient of all layers. The layers before them run forward and keep nothing, and the backward pass
ends where they begin.

A layer's number is the first number in its module's path (`base_model.model.model.layers.31.self_attn.q_proj`).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

ALL = "all"
_LAST = re.compile(r"last-([1-9][0-9]{0,4})")


def last_layers(layers: str) -> int | None:
    """N of `last-N`, None of `all`. Raises ValueError for anything else."""
    match = _LAST.fullmatch(layers)
    if match is None and layers != ALL:
        raise ValueError(f"{layers!r} is neither 'all' nor 'last-N', such as last-8")
    return int(match[1]) if match else None


def decoder_layers(config: Any) -> int | None:
    """How many layers the language model of a Hugging Face config has; None where it does not say."""
    number = getattr(config.get_text_config(), "num_hidden_layers", None)
    return number if isinstance(number, int) else None


def counted(paths: Collection[str], layers: str, total: int | None) -> set[str]:
    """Those of the module or tensor paths of LoRA layers that count in a decoder of `total` layers.

    Raises ValueError when there are fewer layers than N, when the last N have no LoRA, and when the paths do not tell
    the layers' order: no number in one of them, several lists of layers, numbers that the decoder does not have.
    """
    last = last_layers(layers)
    if last is None:
        return set(paths)
    numbers = {path: _number(path, layers) for path in paths}
    lists = sorted({where for where, _ in numbers.values()})
    if len(lists) > 1:
        raise ValueError(f"layers {layers}: they lie in {lists[0]} and in {lists[1]}, without one order; use all")
    if total is None or max(number for _, number in numbers.values()) >= total:
        raise ValueError(f"layers {layers}: the model's config does not tell how many layers {lists[0]} has; use all")
    if last > total:
        raise ValueError(f"layers {layers}: the model has {total} decoder layers; ask for at most last-{total}, or all")
    last_paths = {path for path, (_, number) in numbers.items() if number >= total - last}
    if not last_paths:
        raise ValueError(f"layers {layers}: none of the last {last} of {total} decoder layers has a LoRA; use all")
    return last_paths


def _number(path: str, layers: str) -> tuple[str, int]:
    """The path of the list that a layer is in, and its number there."""
    parts = path.split(".")
    at = next((at for at, part in enumerate(parts) if part.isdecimal() and part.isascii()), None)
    if at is None:
        raise ValueError(f"layers {layers}: {path} is in no numbered layer; use all")
    return ".".join(parts[:at]), int(parts[at])
