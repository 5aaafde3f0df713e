"""`--each NODE.INPUT=LIST`: one graph becomes a job for each value; lists of the same length go side by side."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..safety.untrusted import FileRefused, parse_json, read_regular
from .graph import Graph, Target
from .pictures import SUFFIXES, LocalPicture, read_picture
from .refusals import UsageRefused
from .values import split_assignment, typed

MAX_LABEL = 40
MAX_JOBS = 5000
MAX_LIST = 16 << 20  # bytes


@dataclass(frozen=True)
class Job:
    """One prompt for the server. label: fit for a folder's name. values: what --each gave it, for people to read."""

    label: str
    graph: Graph
    values: dict[str, str]

    @property
    def fingerprint(self) -> str:
        return self.graph.fingerprint()


@dataclass(frozen=True)
class FanOut:
    """jobs: no two alike. targets: the inputs in which they differ. repeated: how many were left out as alike."""

    jobs: tuple[Job, ...]
    targets: frozenset[Target]
    repeated: int


def fan_out(graph: Graph, each: Sequence[str], already_set: frozenset[Target] = frozenset()) -> FanOut:
    """Without --each: the one job. Raises UsageRefused for lists of different lengths, an empty list, an input that
    is given twice."""
    lists: dict[Target, list[Any]] = {}
    for text in each:
        target, source = split_assignment(graph, text, "--each")
        if target in lists or target in already_set:
            raise UsageRefused(f"{graph.spelled(target)} is given twice; give it once, with --set or with --each.")
        lists[target] = read_list(graph, target, source)
    lengths = {len(values) for values in lists.values()}
    if len(lengths) > 1:
        told = ", ".join(f"{graph.spelled(target)} has {len(values)}" for target, values in lists.items())
        raise UsageRefused(f"--each lists go side by side and need the same length: {told}.")
    jobs: dict[str, Job] = {}
    rows = list(zip(*lists.values(), strict=True)) if lists else [()]
    for row in rows:
        values = dict(zip(lists, row, strict=True))
        shown = {graph.spelled(target): _shown(value) for target, value in values.items()}
        job = Job(_label(graph, list(row)), graph.with_values(values), shown)
        jobs.setdefault(job.fingerprint, job)
    return FanOut(tuple(jobs.values()), frozenset(lists), len(rows) - len(jobs))


def read_list(graph: Graph, target: Target, source: str) -> list[Any]:
    """The values that `source` stands for: a JSON list; for pictures a file, a folder or a pattern such as
    "photos/*.jpg"; for numbers "1,2,3"; for anything a text file with one value a line (empty lines are skipped)."""
    where = f"--each {graph.spelled(target)}"
    texts = _json_list(source, where)
    if texts is None and graph.takes_picture(target):
        found = _pictures(source)
        if found is not None:
            if not found:
                raise UsageRefused(f'{where}: no picture matches "{source}" (looked in {Path.cwd()}).')
            if len(found) > MAX_JOBS:
                raise _too_many(len(found))
            return [read_picture(path) for path in found]
    if texts is None:
        texts = _lines(source, where, picture=graph.takes_picture(target))
    if texts is None and isinstance(graph.value(target), int | float):
        texts = [part for part in source.split(",") if part.strip()]
    if texts is None:
        raise UsageRefused(
            f'{where}: there is no file "{source}" (looked in {Path.cwd()}); give a text file with one value a line, '
            'or a JSON list such as ["a", "b"].'
        )
    if not texts:
        raise UsageRefused(f'{where}: "{source}" holds no value.')
    if len(texts) > MAX_JOBS:
        raise _too_many(len(texts))
    values = {text: typed(graph, target, text, "--each") for text in dict.fromkeys(texts)}  # each picture is read once
    return [values[text] for text in texts]


def _too_many(count: int) -> UsageRefused:
    return UsageRefused(f"--each gives {count} values, and at most {MAX_JOBS} are taken; divide the list.")


def _json_list(source: str, where: str) -> list[str] | None:
    if not source.lstrip().startswith("["):
        return None
    try:
        values = parse_json(source)
    except ValueError as error:
        raise UsageRefused(f"{where}: {source[:60]} is no JSON list ({error}).") from error
    return [value if isinstance(value, str) else json.dumps(value) for value in values]


def _pictures(source: str) -> list[Path] | None:
    """None where the source is neither a picture, a folder nor a pattern."""
    path = _as_path(source)
    if path is None:
        return None
    if path.is_dir():
        return sorted((one for one in path.iterdir() if one.suffix.lower() in SUFFIXES), key=_in_reading_order)
    if path.is_file():
        return [path] if path.suffix.lower() in SUFFIXES else None
    if glob.has_magic(source):
        found = (Path(name) for name in glob.glob(str(path), recursive=True))
        return sorted((one for one in found if one.is_file()), key=_in_reading_order)
    return [] if path.suffix.lower() in SUFFIXES else None


def _in_reading_order(path: Path) -> list[tuple[int, int, str]]:
    """2.jpg comes before 10.jpg."""
    parts = re.split(r"(\d+)", str(path).casefold())
    return [(1, int(part), "") if part.isascii() and part.isdigit() else (0, 0, part) for part in parts]


def _lines(source: str, where: str, *, picture: bool) -> list[str] | None:
    path = _as_path(source)
    if path is None or not path.is_file():
        return None
    try:
        lines = [line.strip() for line in read_regular(path, MAX_LIST).decode("utf-8-sig").splitlines()]
    except (FileRefused, UnicodeDecodeError) as error:
        raise UsageRefused(f"{where}: {path} cannot be read as a text file in UTF-8 ({error}).") from error
    kept = [line for line in lines if line]
    if not picture or len(kept) > MAX_JOBS:
        return kept
    # Pictures are named as seen from the list, wherever the command is given.
    beside = [(line, path.parent / named if (named := _as_path(line)) else None) for line in kept]
    return [str(file) if file is not None and file.is_file() else line for line, file in beside]


def _as_path(text: str) -> Path | None:
    """None for what the system takes for no path: too long, or "~" and somebody whom it does not know."""
    try:
        path = Path(text).expanduser()
        path.is_file()
    except (OSError, ValueError, RuntimeError):
        return None
    return path


def _shown(value: Any) -> str:
    return value.path.name if isinstance(value, LocalPicture) else str(value)


def _label(graph: Graph, row: list[Any]) -> str:
    """Words of the values, a file's name without its folder; of the graph's name where there are no values."""
    texts = [value.path.stem if isinstance(value, LocalPicture) else str(value) for value in row]
    words = re.findall(r"[a-z0-9]+", " ".join(texts or [Path(graph.name).stem]).lower())
    label = ""
    for word in words:
        if label and len(label) + 1 + len(word) > MAX_LABEL:
            break
        label = f"{label}_{word}".strip("_")[:MAX_LABEL]
    return label or "job"
