"""How a command ends: 0 done, 2 a mistake of the user's in one line, 75 asked to stop, 1 with a traceback else."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from icons.errors import UserError
from icons.plain import for_terminal
from icons.progress import note
from icons.stop import EXIT_BY_HAND, Stopped

_USERS_OS_ERRORS = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file size limit is reached",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a file stands where a folder is needed",
    errno.EEXIST: "a file stands where a folder is needed",
    errno.ENOTEMPTY: "it was made by another process meanwhile",
}


_FULL_DISK = ("os error 28", "No space left on device", "unexpected pos", "PytorchStreamWriter failed writing file")


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turns what a command raises into a message and an exit code; what is nobody's mistake goes on as it is."""
    try:
        yield
    except UserError as error:
        _exit(str(error))
    except Stopped as stop:
        sys.stdout.flush()
        note(str(stop))
        print(stop, file=sys.stderr)
        sys.exit(stop.exit_code)
    except KeyboardInterrupt:
        sys.stdout.flush()
        print(Stopped("SIGINT"), file=sys.stderr)
        sys.exit(EXIT_BY_HAND)
    except OSError as error:
        if error.errno not in _USERS_OS_ERRORS:
            raise
        _exit(f"{error.filename or 'output'}: {_USERS_OS_ERRORS[error.errno]}; finished work is kept")
    except Exception as error:
        # Rust and C++ writers (safetensors, torch) report a full disk in words of their own.
        if not any(sign in str(error) for sign in _FULL_DISK):
            raise
        _exit(f"no space left on the disk ({error}); finished work is kept, make room and run again")


def _exit(message: str) -> NoReturn:
    sys.stdout.flush()
    note("\n".join(f"error: {line}" for line in message.split("\n") if line))
    print("\n".join(f"error: {for_terminal(line)}" for line in message.split("\n") if line), file=sys.stderr)
    sys.exit(2)
