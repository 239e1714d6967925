"""A helper process that does not outlive the one that started it."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.connection import wait


def end_with_the_parent() -> None:
    """To be called first in a helper process.

    A parent that was killed cannot say so; going on would put two writers on a piece when it is started again.
    """
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
