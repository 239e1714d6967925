"""Contestants that take turns, and what each did with a GPU's memory; one that runs out of it leaves the race."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch


@dataclass
class Race:
    """Samples a second by contestant, one a round; bytes reserved at the peak, and how often torch tried again."""

    rates: dict[str, list[float]] = field(default_factory=dict)
    reserved_bytes: dict[str, int] = field(default_factory=dict)
    retries: dict[str, int] = field(default_factory=dict)
    out_of_memory: list[str] = field(default_factory=list)


def take_turns(contestants: dict[str, Callable[[], int]], rounds: int, device: torch.device) -> Race:
    """Each contestant returns the count of its samples; all but the slow one go once untimed. The order changes."""
    race, running = Race(), dict(contestants)

    def ran(name: str) -> int:
        """The count of samples, 0 when memory ran out."""
        try:
            return running[name]()
        except torch.OutOfMemoryError:
            race.out_of_memory.append(name)
            del running[name]
            race.rates.pop(name, None)
        # Out of the handler, where the error still held the batch's tensors.
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        return 0

    for name in list(running):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_stats(device)["num_alloc_retries"]
        if name == "published" or not ran(name):
            continue
        if device.type == "cuda":
            race.reserved_bytes[name] = torch.cuda.max_memory_reserved(device)
            race.retries[name] = torch.cuda.memory_stats(device)["num_alloc_retries"] - before
    for turn in range(rounds):
        for name in sorted(running, reverse=turn % 2 == 1):
            _synchronize(device)
            begin = time.perf_counter()
            if count := ran(name):
                _synchronize(device)
                race.rates.setdefault(name, []).append(count / (time.perf_counter() - begin))
    return race


def plain_rate(device: torch.device, dtype: torch.dtype) -> float:
    """10^12 operations a second of one large plain product: what the floor is made of."""
    size, repeats = (8192, 20) if device.type == "cuda" else (1024, 5)
    a = torch.randn(size, size, device=device, dtype=dtype)
    best = 0.0
    for _ in range(3):
        _synchronize(device)
        begin = time.perf_counter()
        for _ in range(repeats):
            a @ a
        _synchronize(device)
        best = max(best, 2 * size**3 * repeats / (time.perf_counter() - begin))
    return best / 1e12


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
