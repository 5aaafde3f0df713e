"""The index of what is made from a person: a line for each file, written before the file is, so that `forget` finds it.

One file of JSON lines for each person, `made/<id>.jsonl` in this user's own folder (`home`), the same for the command
line and for ComfyUI. It holds names and paths, never a picture, an embedding or a consent statement. Crops are cut
before there is an identity to file them under: they stand in `made/photo-<fingerprint>.jsonl`, by the photo they show.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import OutputError
from .untrusted import FileRefused, read_regular

HOME_VARIABLE = "IDENTITY_LOCK_HOME"
PHOTO_PREFIX = "photo-"
MAX_INDEX, MAX_LINE = 256 << 20, 1 << 16  # bytes; a render takes 200
_KEY = re.compile(r"(?:photo-)?[0-9a-f]{16}")

# What an entry can be besides the kind of a file.
LINE, FOLDER, PLACE, PERSON = "line", "folder", "place", "person"


@dataclass(frozen=True)
class Person:
    """Who a file is made from. id: 16 hex digits, of the photos that the identity was made of; consent: the statement.
    photos: the fingerprints of those photos."""

    id: str
    name: str
    consent: str
    photos: tuple[str, ...] = ()


@dataclass(frozen=True)
class Made:
    """One entry. kind: "identity", "lora", "render", "input", ...; or one of these. LINE: the lines of a JSON-lines
    file whose `field` is `value`. FOLDER: goes once it is empty. PLACE: other programs leave pictures in it too, so it
    is looked through. together: the file shows other people as well and goes all the same."""

    kind: str
    path: Path
    field: str = ""
    value: str = ""
    together: bool = False


@dataclass(frozen=True)
class Entry:
    """A person in the index: every name and photo that was told of them, and what was made."""

    id: str
    names: tuple[str, ...]
    photos: tuple[str, ...]
    made: tuple[Made, ...]
    damaged: tuple[str, ...] = field(default=())


def is_id(value: Any) -> bool:
    """Whether it is 16 hexadecimal digits, as the id of a person and the fingerprint of a photo are."""
    return isinstance(value, str) and bool(_KEY.fullmatch(PHOTO_PREFIX + value))


def person_id(photos: Sequence[str]) -> str:
    """16 hex digits that stand for the photos (their fingerprints), whatever their order."""
    return hashlib.sha256(" ".join(sorted(photos)).encode()).hexdigest()[:16]


def home() -> Path:
    """This user's own folder: $IDENTITY_LOCK_HOME, else ~/.identity-lock. Raises OutputError where "~" is nobody's."""
    named = os.environ.get(HOME_VARIABLE, "") or "~/.identity-lock"
    try:
        return Path(named).expanduser()
    except RuntimeError as error:
        raise OutputError(f"{named} is in nobody's home folder ({error}); set {HOME_VARIABLE} to a folder.") from error


def folder() -> Path:
    return home() / "made"


def index_file(key: str) -> Path:
    """key: a person's id, or "photo-" and a photo's fingerprint. Raises OutputError for anything else."""
    if not _KEY.fullmatch(key):
        raise OutputError(f"{key!r} is no id of a person; an id has 16 hexadecimal digits.")
    return folder() / f"{key}.jsonl"


# ---- keeping it ----------------------------------------------------------------------------------------------------


def introduce(person: Person) -> None:
    """Note the name and the photos of a person, so that all that is filed under either is found. Raises OutputError."""
    _append(person.id, {"kind": PERSON, "name": person.name, "photos": list(person.photos)})


def made(key: str, kind: str, *paths: Path, together: bool = False) -> None:
    """Note files that are about to be written, made from the person or the photo `key`; "" for nobody's.

    Called before the writing: a kill in between leaves a line without a file, never a file without its line. Raises
    OutputError where the index cannot be written, and then nothing may be made.
    """
    for path in paths if key else ():
        _append(key, {"kind": kind, "path": _absolute(path)} | ({"together": True} if together else {}))


def made_line(key: str, path: Path, field: str, value: str) -> None:
    """Note the lines of the JSON-lines file `path` whose `field` is `value`; other people's lines stay."""
    if key:
        _append(key, {"kind": LINE, "path": _absolute(path), "field": field, "value": value})


_kept: set[tuple[Path, str]] = set()


def _append(key: str, line: dict[str, Any]) -> None:
    """Once for each line, in one write and on the disk before it returns."""
    path, text = index_file(key), json.dumps(line, ensure_ascii=False)
    if (path, text) in _kept and path.is_file():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            # A line that a kill cut short is closed first, so that it spoils no other.
            size = os.fstat(descriptor).st_size
            torn = size > 0 and _last_byte(descriptor, size) != b"\n"
            data = (b"\n" if torn else b"") + text.encode("utf-8", "surrogatepass") + b"\n"
            if os.write(descriptor, data) != len(data):  # the disk was full half way
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OutputError(
            f"The index {path} cannot be written ({error.strerror or error}), and nothing is made of a person without "
            f"it; free some space, or set {HOME_VARIABLE} to a folder that you may write."
        ) from error
    _kept.add((path, text))


def _last_byte(descriptor: int, size: int) -> bytes:
    os.lseek(descriptor, size - 1, os.SEEK_SET)
    return os.read(descriptor, 1)


def _absolute(path: Path) -> str:
    return os.path.abspath(path)


# ---- reading it ----------------------------------------------------------------------------------------------------


def people() -> list[Entry]:
    """Everybody in the index, by id."""
    with suppress(OSError):
        keys = sorted(path.stem for path in folder().glob("*.jsonl"))
        return [read(key) for key in keys if _KEY.fullmatch(key) and not key.startswith(PHOTO_PREFIX)]
    return []


def read(key: str) -> Entry:
    """What was made of a person, and of their photos; empty where nothing is noted."""
    names: dict[str, None] = {}
    photos: dict[str, None] = {}
    found: dict[Made, None] = {}
    damaged: list[str] = []
    for line in _lines(key, damaged):
        if line["kind"] == PERSON:
            names[str(line["name"])] = None
            photos |= dict.fromkeys(p for p in map(str, line["photos"]) if _KEY.fullmatch(PHOTO_PREFIX + p))
        else:
            found[_entry(line)] = None
    for photo in photos:
        found |= {_entry(line): None for line in _lines(PHOTO_PREFIX + photo, damaged) if line["kind"] != PERSON}
    return Entry(key, tuple(names), tuple(photos), tuple(found), tuple(damaged))


def _entry(line: dict[str, Any]) -> Made:
    told = Path(str(line["path"])), str(line.get("field", "")), str(line.get("value", ""))
    return Made(str(line["kind"]), *told, bool(line.get("together", False)))


def _lines(key: str, damaged: list[str]) -> Iterator[dict[str, Any]]:
    """The whole lines of an index file; of each other one, its place goes into `damaged`."""
    path = index_file(key)
    if not path.is_file():
        return
    try:
        content = read_regular(path, MAX_INDEX)
    except FileRefused as error:
        damaged.append(f"the whole of {path} ({error})")
        return
    for number, raw in enumerate(content.split(b"\n"), 1):
        if not raw:
            continue
        try:
            if len(raw) > MAX_LINE:
                raise ValueError
            line = json.loads(raw.decode("utf-8", "surrogatepass"))
            known = isinstance(line["name"], str) and isinstance(line["photos"], list) if line["kind"] == PERSON else (
                os.path.isabs(line["path"]) and b"\0" not in os.fsencode(line["path"])
            )
        except (ValueError, KeyError, TypeError, RecursionError):
            known = False
        if known:
            yield line
        else:
            damaged.append(f"line {number} of {path}")


def find(wanted: str) -> list[Entry]:
    """The people with this id, or whom this name was given. Newest names count as well as old ones."""
    return [entry for entry in people() if wanted == entry.id or wanted in entry.names]


def claimed(paths: Sequence[Path], besides: str) -> dict[Path, str]:
    """Which of the paths stand in another person's index as theirs alone: path -> that person's id."""
    wanted = set(paths)
    taken: dict[Path, str] = {}
    for other in people():
        if other.id != besides:
            taken |= {m.path: other.id for m in other.made if m.path in wanted and m.kind != LINE and not m.together}
    return taken


def drop(entry: Entry) -> None:
    """Take a person out of the index, after all else of theirs is gone. A photo that another identity was made of too
    keeps its own file."""
    others = {photo for other in people() if other.id != entry.id for photo in other.photos}
    for key in [*(PHOTO_PREFIX + photo for photo in entry.photos if photo not in others), entry.id]:
        index_file(key).unlink(missing_ok=True)
    _kept.clear()
