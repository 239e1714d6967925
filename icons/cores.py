"""The processor cores: how many this process may use, and torch kept to one of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def cores() -> int:
    """At least 1; on a shared machine fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def torch_on_one_thread() -> Iterator[None]:
    """For work that is shared out otherwise, or too small to share: torch's own threads would only be in the way."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def reading_threads() -> int:
    """Threads that read and compare shards side by side, each with room for one: as many as cores, at most eight."""
    return min(8, cores())
