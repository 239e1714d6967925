"""How many processor cores this process may use, which on a shared machine are fewer than there are."""

from __future__ import annotations

import os


def cores() -> int:
    """At least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
