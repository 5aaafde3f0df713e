"""Writing files so that a crash, a kill or a full disk never leaves half of one, and no file over another's."""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ..errors import OutputError
from .lock import take
from .untrusted import open_to_write

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


class NameTaken(OutputError):
    """A file of this name is there already, and was to be left alone."""


def make_folder(folder: Path) -> Path:
    """The folder, made where it was missing, proven writable, and rid of what processes that are no more left half
    written. Raises OutputError, naming it and the remedy."""
    probe = folder / f".writable.{secrets.token_hex(4)}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"The output folder {folder} cannot be written ({error.strerror or error}); give one that you may write."
        ) from error
    _sweep(folder)
    return folder


def _sweep(folder: Path) -> None:
    """Removes temporaries that nobody is writing: whoever writes one holds its lock."""
    for path in folder.glob(".*.tmp"):
        if _TEMPORARY.fullmatch(path.name):
            with suppress(OSError), open(path, "rb") as file:
                if take(file, unknown=False):
                    path.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path, *, keep: bool = False, private: bool = False) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is flushed and renamed over it, on failure removed.

    keep: a file that is there already stays, and NameTaken is raised: of two who want the name, one gets it. private:
    readable by its owner only. Raises OutputError, naming the path, when the folder cannot be written or the disk is
    full.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, held = _temporary(path, private)
        with held:
            yield temporary
            os.fsync(held.fileno())
            if os.name != "nt":  # where an open file can be renamed, it never stands there without its lock
                _publish(temporary, path, keep)
        if os.name == "nt":
            _publish(temporary, path, keep)
        _flush_names(path.parent)
    except OSError as error:
        raise OutputError(
            f"Could not write {path} ({error.strerror or error}); free some space or give a folder that you may write."
        ) from error
    finally:
        # Nothing may hide the reason: below a file that is no folder, even the clean-up fails.
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _temporary(path: Path, private: bool) -> tuple[Path, IO[bytes]]:
    """A new file beside `path`, and the same file open, which holds its lock."""
    while True:
        temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.tmp")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        held = open(os.open(temporary, flags, 0o600 if private else 0o666), "rb+")  # noqa: SIM115 - returned open
        take(held)
        if temporary.exists():
            return temporary, held
        held.close()  # swept in the moment before it was locked


def _publish(temporary: Path, path: Path, keep: bool) -> None:
    if not keep:
        os.replace(temporary, path)
        return
    try:
        if os.name == "nt":
            os.rename(temporary, path)  # which there never goes over a file
        else:
            _link(temporary, path)
    except FileExistsError as error:
        raise NameTaken(f"{path} is there already; choose another name.") from error


def _link(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: an empty file takes the name first
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.replace(temporary, path)


def _flush_names(folder: Path) -> None:
    """So that a power cut does not take a file's new name back. Where a folder cannot be flushed, the system does it in
    its own time."""
    if os.name == "nt":
        return
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def append_lines(path: Path, lines: Sequence[str]) -> None:
    """Adds lines in one write and flushes them to the disk: all of them or, where the disk is full, none.

    Half a line that a kill left at the end goes first. For one writer at a time (safety/lock.py). A link is not written
    through. Raises OSError.
    """
    with open_to_write(path) as file:
        _drop_half_line(file)
        size = file.seek(0, os.SEEK_END)
        data = "".join(f"{line}\n" for line in lines).encode()
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                file.truncate(size)
            raise
    if not size:
        _flush_names(path.parent)


def _drop_half_line(file: IO[bytes]) -> None:
    size = file.seek(0, os.SEEK_END)
    if not size:
        return
    file.seek(size - 1)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
