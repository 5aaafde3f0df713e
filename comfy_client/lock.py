"""One client at a time in a folder: two would queue everything twice."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ..errors import OutputError
from .refusals import UsageRefused

LOCK_NAME = ".queue.lock"


@contextmanager
def only_client(folder: Path) -> Iterator[None]:
    """Holds the folder's lock file for the length of a block; raises UsageRefused where another client has it.

    The operating system holds the lock, not the file: with its process, however that ends, the lock is gone, so that
    what a crash leaves behind is taken over, and a process number that was given anew deceives nobody.
    """
    path = folder / LOCK_NAME
    try:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - closed below, and open as long as the lock is held
    except OSError as error:
        raise OutputError(f"The lock file {path} cannot be written ({error.strerror}).") from error
    with file:
        if not _take(file):
            raise UsageRefused(
                f"Another identity-lock queue{_holder(path)} works in {folder}; wait for it, stop it, or give --out "
                "another folder."
            )
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid()}) + "\n")
        file.flush()
        yield


def _holder(path: Path) -> str:
    try:
        return f" (process {json.loads(path.read_text(encoding='utf-8'))['pid']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # its first line is still being written, or this system lets nobody read a locked file


def _take(file: IO[str]) -> bool:
    try:
        import fcntl
    except ImportError:
        return _take_on_windows(file)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _take_on_windows(file: IO[str]) -> bool:
    import msvcrt

    # A byte far behind the text, so that the text stays readable for the one who is refused.
    file.seek(1 << 20)
    try:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    except OSError:
        return False
    return True
