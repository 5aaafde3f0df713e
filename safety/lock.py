"""One at a time in a folder: two would do the same work twice, or write over each other's.

The operating system holds a lock, not the file: with its process, however that ends, the lock is gone, so that what a
crash leaves behind is taken over, no clock decides what is stale, and a process number that was given anew deceives
nobody. On a file system that knows no locks there is nothing to hold, and the work goes on without.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ..errors import IdentityLockError, OutputError
from .untrusted import FileRefused, from_json, open_to_write, parse_json, read_regular

# A byte far behind the text: Windows lets nobody read what is locked, and the text is for the one who is refused.
_LOCKED_BYTE = 1 << 20
_UNKNOWN_HERE = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def only_one(folder: Path, name: str, refuse: Callable[[str], IdentityLockError]) -> Iterator[None]:
    """Holds the lock file `name` of a folder for the length of a block.

    refuse: makes the error that is raised where another process has it, from " (process 123)" or, where that cannot be
    told, from "". Raises OutputError where the file cannot be written.
    """
    path = folder / name
    file = _taken(path, wait=False)
    if file is None:
        raise refuse(_holder(path))
    with _held(path, file):
        yield


@contextmanager
def in_turn(folder: Path, name: str) -> Iterator[None]:
    """As `only_one`, but waits for the others: for blocks of milliseconds."""
    path = folder / name
    file = _taken(path, wait=True)
    assert file is not None
    with _held(path, file):
        yield


def take(file: IO[bytes], *, wait: bool = False, unknown: bool = True) -> bool:
    """Locks an open file until it is closed; False where somebody else has it. unknown: the answer on a file system
    that knows no locks."""
    try:
        import fcntl
    except ImportError:
        return _take_on_windows(file, wait)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        return unknown and error.errno in _UNKNOWN_HERE
    return True


def _taken(path: Path, *, wait: bool) -> IO[bytes] | None:
    while True:
        try:
            file = open_to_write(path)
        except OSError as error:
            raise OutputError(
                f"The lock file {path} cannot be written ({error.strerror or error}); free some space or give a "
                "folder that you may write."
            ) from error
        if not take(file, wait=wait):
            file.close()
            return None
        if _is_still(path, file):
            return file
        file.close()  # whoever had it before has taken the file away with it


def _is_still(path: Path, file: IO[bytes]) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except OSError:
        return False


@contextmanager
def _held(path: Path, file: IO[bytes]) -> Iterator[None]:
    with file:
        with suppress(OSError):  # a full disk does not even take a number; the lock holds without it
            file.truncate(0)
            file.write(json.dumps({"pid": os.getpid()}).encode() + b"\n")
            file.flush()
        try:
            yield
        finally:
            with suppress(OSError):  # Windows keeps a file that is open; it is taken over next time
                path.unlink()


def _holder(path: Path) -> str:
    try:
        return f" (process {from_json(int, parse_json(read_regular(path, 1000))['pid'])})"
    except (FileRefused, ValueError, KeyError, TypeError):
        return ""  # its first line is still being written


def _take_on_windows(file: IO[bytes], wait: bool) -> bool:
    import msvcrt

    while True:
        file.seek(_LOCKED_BYTE)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError:
            if wait:  # it gives up after ten attempts, and we do not
                continue
            return False
        return True
