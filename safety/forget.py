"""`identity-lock forget`: remove everything that was made from a person, and say what that was.

What is removed stands in the index (safety/index.py), or says of itself whose it is: pictures carry the id of the
identity in their record, LoRAs, checkpoints and identity files in their header, log lines in a field; pictures that
other ComfyUI nodes saved carry the graph, which names the photo that was loaded.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import IdentityLockError, OutputError, printable
from . import index
from .atomic import replacing
from .index import FOLDER, LINE, PLACE, Entry, Made, is_id, person_id
from .json_lines import MAX_LINE
from .pictures import open_picture
from .provenance import PERSON_KEY, RECORD_KEY
from .tensors import MAX_HEADER
from .untrusted import FileRefused, open_regular, read_regular

REPORT_LIMIT = 16 << 20  # bytes
PICTURES = (".png",)
ID_FIELD = "identity_id"


class UnknownPerson(IdentityLockError):
    """Nobody in the index is meant, or more than one."""


@dataclass(frozen=True)
class Forgotten:
    """removed: (kind, path) of each file that is gone now, and ("line", path) of each log that lost lines. gone: was no
    longer there. shared: (path, id of another identity that it was made for too, with which it goes). kept: (path, why
    it could not be removed). In a rehearsal, what would be."""

    who: Entry
    removed: tuple[tuple[str, Path], ...]
    gone: tuple[Path, ...]
    shared: tuple[tuple[Path, str], ...]
    kept: tuple[tuple[Path, str], ...]
    rehearsal: bool = False

    @property
    def complete(self) -> bool:
        return not self.kept

    def text(self) -> str:
        would = "would be " if self.rehearsal else ""
        name = " / ".join(self.who.names) or "no name"
        lines = [f"{name} ({self.who.id}): {len(self.removed)} {would}removed"]
        lines += [f"  {kind:<11} {path}" for kind, path in self.removed]
        if self.gone:
            lines.append(f"no longer there: {len(self.gone)}")
            lines += [f"  {path}" for path in self.gone]
        if self.shared:
            lines.append(f"left, because another identity was made of them too: {len(self.shared)}")
            lines += [f"  {path}: goes with `identity-lock forget {other}`" for path, other in self.shared]
        if self.kept:
            lines.append(f"{'would be ' if self.rehearsal else ''}NOT removed: {len(self.kept)}")
            lines += [f"  {path}: {why}" for path, why in self.kept]
        lines.append(
            "Not known here: copies that you made or gave away, backups, and your own photos outside ComfyUI. "
            "A running ComfyUI keeps results in memory until it is started again."
        )
        return "\n".join(map(printable, lines))


def the_people(wanted: str, *, every: bool = False) -> list[Entry]:
    """Who is meant: an identity file, an id, or a name. every: all of that name. Raises UnknownPerson."""
    path = Path(wanted)
    if os.path.isfile(path):
        told = described(path).get("id")
        if not told:
            raise UnknownPerson(f"{path} is no identity file, or is damaged; give the person's name or id instead.")
        found = [entry for entry in index.people() if entry.id == told] or [Entry(told, (), (), ())]
        return [_with(found[0], Made("identity", Path(os.path.abspath(path))))]
    found = index.find(wanted)
    if not found:
        known = ", ".join(f"{' / '.join(entry.names)} ({entry.id})" for entry in index.people()) or "nobody"
        raise UnknownPerson(f"Nobody called '{wanted}' is in the index {index.folder()}; it knows {known}.")
    if len(found) > 1 and not every:
        told = ", ".join(f"{entry.id} ({len(entry.made)} entries)" for entry in found)
        raise UnknownPerson(f"{len(found)} identities are called '{wanted}': {told}; give an id, or --every for all.")
    return found


def forget(who: Entry, also: Sequence[Path] = (), *, rehearsal: bool = False) -> Forgotten:
    """Removes what the index lists, what lies in its places and in the folders `also` and says that it is this
    person's, and the index's own lines last, so that a forgetting that was cut short can be repeated.

    A file that stands in another identity's index as well is left to that one, unless it is marked as showing several
    people. What cannot be removed is told with the reason, and then the index stays. rehearsal: nothing is touched.
    """
    listed = [made for made in who.made if made.kind not in (LINE, FOLDER, PLACE)]
    lines = [made for made in who.made if made.kind == LINE]
    inputs = frozenset(made.path.name for made in listed if made.kind == "input")
    places = [made.path for made in who.made if made.kind == PLACE]
    for folder in [*places, *also]:
        for kind, path in carried(folder, who.id, inputs):
            listed.append(Made(kind, path)) if kind != LINE else lines.append(Made(LINE, path, ID_FIELD, who.id))
    taken = index.claimed([made.path for made in listed if not made.together], besides=who.id)
    removed: list[tuple[str, Path]] = []
    gone: list[Path] = []
    shared: list[tuple[Path, str]] = []
    kept = [(Path(place), "this line of the index is damaged; look there yourself") for place in who.damaged]
    for path, kind in {made.path: made.kind for made in listed}.items():
        if path in taken and who.id not in people_in(path):
            shared.append((path, taken[path]))
            continue
        try:
            found = _remove(path, rehearsal)
            removed += [(kind, one) for one in found]
            gone += [] if found else [path]
        except OSError as error:
            kept.append((path, error.strerror or str(error)))
    for path in dict.fromkeys(made.path for made in lines):
        wanted = {(made.field, made.value) for made in lines if made.path == path}
        try:
            removed += [(LINE, path)] if _without_lines(path, wanted, rehearsal) else []
        except (OSError, OutputError, ValueError) as error:
            kept.append((path, str(error)))
    if not rehearsal:
        for made in sorted((m for m in who.made if m.kind == FOLDER), key=lambda m: -len(m.path.parts)):
            with suppress(OSError):
                made.path.rmdir()  # only where it is empty
        if not kept:
            index.drop(who)
    return Forgotten(who, tuple(removed), tuple(gone), tuple(shared), tuple(kept), rehearsal)


def _with(entry: Entry, more: Made) -> Entry:
    return Entry(entry.id, entry.names, entry.photos, tuple(dict.fromkeys([*entry.made, more])), entry.damaged)


def _remove(path: Path, rehearsal: bool) -> list[Path]:
    """The file or link itself, and what a kill left of it half written; never a folder."""
    left = re.compile(rf"\.{re.escape(path.name)}\.\w+\.tmp")
    found = [path] if path.is_symlink() or path.is_file() else []
    if path.parent.is_dir():
        found += [one for one in path.parent.iterdir() if left.fullmatch(one.name) and one.is_file()]
    if not rehearsal:
        for one in found:
            one.unlink()
    return found


def _without_lines(path: Path, wanted: set[tuple[str, str]], rehearsal: bool) -> bool:
    """Writes a JSON-lines file again without the wanted lines, or removes it where none is left."""
    if not path.is_file():
        return False
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if not _is_wanted(line, wanted)]
    if len(kept) == len(lines):
        return False
    if not rehearsal and any(line.strip() for line in kept):
        with replacing(path) as temporary:
            temporary.write_bytes(b"".join(kept))
    elif not rehearsal:
        path.unlink()
    return True


def _is_wanted(line: bytes, wanted: set[tuple[str, str]]) -> bool:
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(told, dict) and any(told.get(field) == value for field, value in wanted)


# ---- what a file says of itself --------------------------------------------------------------------------------------


def people_in(path: Path) -> set[str]:
    """The ids of those whom a picture, LoRA, checkpoint or identity file was made from; none where it says none."""
    if path.suffix.lower() in PICTURES:
        return _in_picture(_text(path))
    told = described(path).get("id") if path.suffix.lower() == ".safetensors" else None
    return {told} if told else set()


def described(path: Path) -> dict[str, Any]:
    """kind ("identity", "lora", "checkpoint") and id of a safetensors file of this pack; empty for any other file."""
    metadata = _header(path).get("__metadata__")
    if not isinstance(metadata, dict):
        return {}
    format_, _, _ = str(metadata.get("format")).partition("/")  # of any version
    kind = {"identity-lock-lora": "lora", "identity-lock-training": "checkpoint"}.get(format_)
    if kind:
        told = metadata.get(ID_FIELD)
        return {"kind": kind, "id": told if is_id(told) else ""}
    photos = _json(metadata.get("identity", "")).get("photos")
    photos = photos if isinstance(photos, list) else []
    prints = [str(photo.get("fingerprint")) for photo in photos if isinstance(photo, dict)]
    return {"kind": "identity", "id": person_id(prints)} if prints and all(map(is_id, prints)) else {}


def carried(folder: Path, wanted: str, inputs: frozenset[str]) -> Iterator[tuple[str, Path]]:
    """(kind, path) of the files below `folder` that say they are this person's; LINE for a log with lines of theirs.
    inputs: names of photos in ComfyUI's input folder; a picture whose graph loads one of them counts too."""
    for where, folders, names in os.walk(folder):  # which follows no links
        folders.sort()
        for name in sorted(names):
            path = Path(os.path.abspath(where)) / name
            if path.is_symlink() or not path.is_file():
                continue
            if name.endswith(".jsonl"):
                if any(_is_wanted(line, {(ID_FIELD, wanted)}) for line in _read_lines(path)):
                    yield LINE, path
            elif path.suffix.lower() in PICTURES:
                text = _text(path)
                said = _in_picture(text)
                if wanted in said or (not said and inputs & _loaded(text.get("prompt", ""))):
                    yield "picture", path
            elif path.suffix.lower() == ".json":
                if _json(_report(path)).get(ID_FIELD) == wanted:
                    yield "report", path
            elif path.suffix.lower() == ".safetensors":
                told = described(path)
                if told.get("id") == wanted:
                    yield str(told["kind"]), path


def _in_picture(text: Mapping[str, str]) -> set[str]:
    """Of the record: the identity, and those whom a model was trained on."""
    record = _json(text.get(RECORD_KEY, ""))
    models = record.get("models")
    parts = [record, *models.values()] if isinstance(models, dict) else [record]
    told = [text.get(PERSON_KEY), *(part.get(ID_FIELD) for part in parts if isinstance(part, dict))]
    return {one for one in told if isinstance(one, str) and is_id(one)}


def _loaded(prompt: str) -> set[str]:
    """The names of the pictures that a graph in API format loads."""
    nodes = [node for node in _json(prompt).values() if isinstance(node, dict)]
    values = [node["inputs"].get("image") for node in nodes if isinstance(node.get("inputs"), dict)]
    return {Path(re.sub(r" \[(?:input|output|temp)\]$", "", value)).name for value in values if isinstance(value, str)}


def _text(path: Path) -> dict[str, str]:
    """The text chunks of a PNG that stand before its pixels, where this pack and ComfyUI put theirs."""
    try:
        with open_picture(path, ("PNG",)) as picture:
            return {str(key): value for key, value in picture.info.items() if isinstance(value, str)}
    except FileRefused:  # a damaged picture says of nobody that it is theirs
        return {}


def _header(path: Path) -> dict[str, Any]:
    """Also of a file that was cut short: it is somebody's all the same."""
    try:
        with open_regular(path) as file:
            size = int.from_bytes(file.read(8), "little")
            return _json(file.read(size)) if size <= MAX_HEADER else {}
    except (FileRefused, OSError):
        return {}


def _read_lines(path: Path) -> Iterator[bytes]:
    try:
        with open_regular(path) as file:
            yield from iter(lambda: file.readline(MAX_LINE), b"")
    except (FileRefused, OSError):
        return


def _report(path: Path) -> bytes:
    try:
        return read_regular(path, REPORT_LIMIT)
    except FileRefused:
        return b""


def _json(text: str | bytes) -> dict[str, Any]:
    try:
        told = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}
