"""One process at a time on a folder of shards."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from icons.errors import UserError


@contextmanager
def only_one_process(folder: Path) -> Iterator[None]:
    """Holds `folder` while open; a UserError when another process does.

    The lock ends with its process, however that ends. Where the file system has no locks it is not held.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is computing {folder}; let it finish, or stop it first") from None
        except OSError:
            pass
        yield
