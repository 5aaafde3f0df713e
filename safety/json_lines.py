"""Journals: a JSON object a line, appended as things happen, so that a kill costs the line that was being written.

A last line without its end is dropped. Any other line that is no JSON object is a damage, and is refused by its number.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import IdentityLockError, OutputError
from .atomic import append_lines
from .untrusted import FileRefused, open_regular, open_to_write, parse_json

MAX_LINE = 1 << 20  # bytes
MAX_JOURNAL = 256 << 20  # bytes


class JournalDamaged(IdentityLockError):
    """A line of a journal that cannot be read, or a journal that is no file."""


def read_lines(path: Path, remedy: str) -> Iterator[dict[str, Any]]:
    """Each line's object, in order; nothing for a journal that is not there yet. A last line that a kill cut short is
    taken out of the file.

    remedy: what the user can do, for the message of a JournalDamaged, as "delete that line, or give another folder".
    Raises JournalDamaged, OutputError.
    """
    if not os.path.lexists(path):
        return
    _refuse_link(path, remedy)
    try:
        file = open_regular(path)
    except FileRefused as error:
        raise JournalDamaged(f"The journal {path} cannot be read ({error}); {remedy}.") from error
    whole = 0
    with file:
        if os.fstat(file.fileno()).st_size > MAX_JOURNAL:
            raise JournalDamaged(f"The journal {path} is larger than {MAX_JOURNAL >> 20} MiB; {remedy}.")
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), start=1):
            if not line.endswith(b"\n") and len(line) <= MAX_LINE:
                _cut(path, whole)
                return
            whole += len(line)
            yield _parsed(path, number, line, remedy)


def append_records(path: Path, records: Sequence[Mapping[str, Any]], *, fresh: bool = False) -> None:
    """Adds a line for each record, and waits until they are on the disk: all of them, or none. fresh: the journal is
    begun anew. For one writer at a time (safety/lock.py). Raises OutputError."""
    try:
        lines = [_dumped(record) for record in records]
        if fresh:
            path.unlink(missing_ok=True)
        append_lines(path, lines)
    except (TypeError, ValueError) as error:
        raise OutputError(f"A line of the journal {path} cannot be written as JSON ({error}).") from error
    except OSError as error:
        raise OutputError(
            f"The journal {path} cannot be written ({error.strerror or error}); free some space."
        ) from error


def keep_lines(path: Path, count: int) -> None:
    """Takes all but the first `count` lines out of a journal. Raises OutputError."""
    try:
        with open_to_write(path) as file:
            file.seek(0)
            size = sum(len(file.readline()) for _ in range(count))
            file.truncate(size)
    except OSError as error:
        raise OutputError(f"The journal {path} cannot be written ({error.strerror or error}).") from error


def damaged(path: Path, number: int, remedy: str, why: str = "") -> JournalDamaged:
    """The refusal of a line, for readers that find in it what they cannot use."""
    return JournalDamaged(f"Line {number} of {path} cannot be read{f' ({why})' if why else ''}; {remedy}.")


def _parsed(path: Path, number: int, line: bytes, remedy: str) -> dict[str, Any]:
    if len(line) > MAX_LINE:
        raise damaged(path, number, remedy, f"it is longer than {MAX_LINE >> 20} MiB")
    try:
        value = parse_json(line)
    except ValueError as error:
        raise damaged(path, number, remedy, str(error)) from error
    if not isinstance(value, dict):
        raise damaged(path, number, remedy, "it is no JSON object")
    return value


def _dumped(record: Mapping[str, Any]) -> str:
    """Readable as it is, but for halves of characters, which UTF-8 has no bytes for."""
    text = json.dumps(dict(record), ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(dict(record), allow_nan=False)
    return text


def _cut(path: Path, size: int) -> None:
    try:
        os.truncate(path, size)
    except OSError as error:
        raise OutputError(f"The journal {path} cannot be written ({error.strerror or error}).") from error


def _refuse_link(path: Path, remedy: str) -> None:
    if path.is_symlink():
        raise JournalDamaged(f"The journal {path} is a link to another place; {remedy}.")
