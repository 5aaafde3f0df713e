"""Writing files so that a crash, a kill or a full disk never leaves half of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import OutputError


def make_folder(folder: Path) -> Path:
    """The folder, made where it was missing and proven writable. Raises OutputError, naming it and the remedy."""
    probe = folder / f".writable.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"The output folder {folder} cannot be written ({error.strerror or error}); give one that you may write."
        ) from error
    return folder


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is flushed and renamed over it, on failure removed.

    Raises OutputError, naming the path, when the folder cannot be written or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(
            f"Could not write {path} ({error.strerror or error}); free some space or give a folder that you may write."
        ) from error
    finally:
        # Nothing may hide the reason: below a file that is no folder, even the clean-up fails.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
