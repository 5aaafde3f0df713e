"""The render log: what was asked, with which models and seeds, and the drift that came of it; a JSON line a render."""

from __future__ import annotations

import glob
import json
import platform
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PhotoError, RenderError
from ..identity.drift import LOCK_THRESHOLD, Drift, DriftMeter
from ..identity.identity import Identity
from ..safety import index
from ..safety.atomic import NameTaken, make_folder
from ..safety.c2pa_signing import Signer
from ..safety.fingerprint import swapped, without
from ..safety.json_lines import append_records, read_lines
from ..safety.lock import in_turn
from ..safety.provenance import read_png, read_record, write_png
from ..safety.untrusted import from_json

LOCK_NAME = ".renders.lock"
_REMEDY = "delete that line, or move the log away (a new one is begun)"


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Of Python and of the packages that decide what a render looks like."""
    found = {"python": platform.python_version()}
    for package in ("identity_lock", "torch", "diffusers", "peft", "onnxruntime", "onnxruntime-gpu", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class Meters:
    """The two recognisers: `selection` may choose seeds and blends; `reporting` never does and is told beside it."""

    selection: DriftMeter
    reporting: DriftMeter | None = None

    @classmethod
    def of(cls, identity: Identity, models_dir: Any = None) -> Meters:
        return cls(*identity.meters(models_dir))

    def report(self, image: np.ndarray) -> Drift | None:
        return None if self.reporting is None else self.reporting.measure_one(image)


@dataclass(frozen=True)
class RenderRecord:
    """One render. drift is by `recogniser`, which may have chosen it; report_drift by one that was never consulted.
    recogniser_sha256, report_recogniser_sha256: of their weights.

    passes: name -> {prompt, negative, strength, cfg, denoise, steps, sampler, scheduler, ...}, in the order run.
    models: role -> {name, sha256}. locked: drift at or below the threshold.
    """

    kind: str
    seed: int
    passes: Mapping[str, Mapping[str, Any]]
    models: Mapping[str, Mapping[str, str]]
    identity: str
    identity_id: str
    consent: str
    drift: float
    detected: bool
    recogniser: str
    report_drift: float | None
    report_recogniser: str | None
    locked: bool
    recogniser_sha256: str = ""
    report_recogniser_sha256: str | None = None
    composite: bool = False
    threshold: float = LOCK_THRESHOLD
    space: str = "raw cosine"
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=versions)
    fingerprint: str = ""  # of all that the picture depends on; empty where nobody asks for the same one again
    made: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def others(self) -> set[str]:
        """The ids of those besides the identity whom the picture may show: a LoRA was trained on them."""
        told = {model.get("identity_id") for model in self.models.values()}
        return {one for one in told if one is not None and index.is_id(one)} - {self.identity_id}


_OF_A_RUN = ("made", "seconds")
"""What differs in a record where the same render is made again."""
_claimed: set[str] = set()
"""Pictures that this process wrote or took up: asked for twice within one process, a render is wanted twice."""


class RenderLog:
    """Writes pictures with their records inside, and the same records as lines of `renders.jsonl` beside them."""

    def __init__(self, folder: Path, text: Mapping[str, str] | None = None, signer: Signer | None = None) -> None:
        """text: more text chunks for each picture, by keyword, such as the host's own description of the run.
        signer: signs each picture before it gets its name.

        Raises OutputError where the folder cannot be written, and JournalDamaged, before anything is rendered, for a
        log with a line that cannot be read.
        """
        self.folder, self._text, self.signer = make_folder(folder), dict(text or {}), signer
        with in_turn(self.folder, LOCK_NAME):
            self._logged_records()

    def write(self, image: np.ndarray, name: str, record: RenderRecord) -> Path:
        """The PNG first, then its line: a line always has its picture. The same render written a second time, because a
        kill came before whoever asked for it had noted it down, keeps its line. Raises OutputError."""
        path = self.folder / f"{name}.png"
        with in_turn(self.folder, LOCK_NAME):
            self._write(image, path, record)
        return path

    def write_next(self, image: np.ndarray, prefix: str, record: RenderRecord) -> Path:
        """As `write`, under a name that no picture here has or had, whoever writes beside: the prefix and a counter.

        A picture that an earlier process left, pixel for pixel and with the same record, is taken up and not written
        twice: a job that was lost with a dying server comes again, and may have been finished before.
        """
        counted = re.compile(re.escape(prefix) + r"_(\d{1,18})\.png", re.ASCII)
        with in_turn(self.folder, LOCK_NAME):
            earlier = self._made_before(image, prefix, record)
            if earlier is not None:
                _claimed.add(str(earlier))
                return earlier
            logged = _highest(counted, self._names_logged())
            number = max(logged, _highest(counted, (path.name for path in self.folder.glob("*.png"))))
            for left in range(logged + 1, number + 1):  # by a kill between a picture and its line
                self._log_picture(self.folder / f"{prefix}_{left:05d}.png")
            while True:
                number += 1
                path = self.folder / f"{prefix}_{number:05d}.png"
                with suppress(NameTaken):
                    self._write(image, path, record, keep=True)
                    return path

    def finished(self, name: str, fingerprint: str) -> RenderRecord | None:
        """The record of exactly this render (`RenderRecord.fingerprint`) where it was finished before; None where it is
        still to be made. Raises RenderError as `refuse_swapped`."""
        self.refuse_swapped(name, fingerprint)
        path = self.folder / f"{name}.png"
        told = _told(path)
        if told is None or told.get("fingerprint") != fingerprint:
            return None
        with in_turn(self.folder, LOCK_NAME):
            if path.name not in self._names_logged():
                self._log_picture(path)
            if self.signer is not None:
                self.signer.sign_file(path)
        known = {field.name for field in fields(RenderRecord)}
        try:
            return from_json(RenderRecord, {key: value for key, value in told.items() if key in known})
        except ValueError:  # the fingerprint is ours and the rest is not: it is made anew
            return None

    def refuse_swapped(self, name: str, fingerprint: str, *unknown: str) -> None:
        """Raises RenderError where a picture of this name was made with another model, identity or recogniser: results
        of both side by side would pass for one run. Other settings are no swap: that render is made anew.

        unknown: parts of the fingerprint that are not known yet.
        """
        path = self.folder / f"{name}.png"
        before = str((_told(path) or {}).get("fingerprint") or "")
        changed = before and swapped(*(without(text, "settings", *unknown) for text in (before, fingerprint)))
        if changed:
            raise RenderError(
                f"{path} was made by another run: {changed} changed since. Put back what was there, delete that "
                "picture to render it again, or give another folder."
            )

    def picture(self, name: str) -> np.ndarray:
        """uint8 RGB (H, W, 3) of a picture here. Raises PhotoError where it is gone or damaged."""
        return read_png(self.folder / f"{name}.png")

    def _made_before(self, image: np.ndarray, prefix: str, record: RenderRecord) -> Path | None:
        """The very same render under this prefix, by a process before this one. Of the pictures that are logged, only
        those of its seed are looked at; one that a kill left without its line gets that, and an unsigned one its
        signature where signing is asked for."""
        logged = {str(line.get("file")): line for line in self._logged_records()}
        counted = re.compile(re.escape(prefix) + r"_\d+\.png")
        for path in sorted(self.folder.glob(f"{glob.escape(prefix)}_*.png")):
            of_the_seed = logged.get(path.name, {"seed": record.seed}).get("seed") == record.seed
            possible = counted.fullmatch(path.name) and of_the_seed and str(path) not in _claimed
            if not possible or not _same_render(path, image, record):
                continue
            if self.signer is not None:
                self.signer.sign_file(path)
            if path.name not in logged:
                self._append(path.name, read_record(path))
            return path
        return None

    @property
    def _lines(self) -> Path:
        return self.folder / "renders.jsonl"

    def _write(self, image: np.ndarray, path: Path, record: RenderRecord, *, keep: bool = False) -> None:
        data = json.loads(json.dumps(asdict(record)))
        logged = None if keep else self._logged(path.name)
        again = logged is not None and _lasting(logged) == _lasting(data)
        index.made(record.identity_id, index.FOLDER, self.folder)
        index.made(record.identity_id, "render", path)
        index.made_line(record.identity_id, self._lines, "identity_id", record.identity_id)
        for person in record.others:
            index.made(person, "render", path, together=True)
            index.made_line(person, self._lines, "file", path.name)
        write_png(
            image, path, logged if again else data, composite=record.composite, text=self._text, signer=self.signer,
            keep=keep,
        )  # fmt: skip
        if not again:
            self._append(path.name, data)
        _claimed.add(str(path))

    def _log_picture(self, path: Path) -> None:
        if (told := _told(path)) is not None:
            self._append(path.name, told)

    def _append(self, name: str, data: Mapping[str, Any]) -> None:
        append_records(self._lines, [{"file": name} | dict(data)])

    def _logged_records(self) -> list[dict[str, Any]]:
        """In order, each with its "file"; half a line that a kill left is no record. Raises JournalDamaged."""
        return list(read_lines(self._lines, _REMEDY))

    def _names_logged(self) -> list[str]:
        return [str(line.get("file")) for line in self._logged_records()]

    def _logged(self, name: str) -> dict[str, Any] | None:
        """The newest record of a file."""
        found = [line for line in self._logged_records() if line.get("file") == name]
        return {key: value for key, value in found[-1].items() if key != "file"} if found else None


def _highest(counted: re.Pattern[str], names: Iterable[str]) -> int:
    return max((int(match[1]) for match in map(counted.fullmatch, names) if match), default=0)


def _told(path: Path) -> dict[str, Any] | None:
    """The record in a picture; None where there is no picture, no whole one, or none of ours."""
    try:
        return read_record(path)
    except PhotoError:
        return None


def _lasting(record: Mapping[str, Any]) -> dict[str, Any]:
    """What is the same when a render is made again."""
    return {key: value for key, value in record.items() if key not in _OF_A_RUN}


def _same_render(path: Path, image: np.ndarray, record: RenderRecord) -> bool:
    found = _told(path)
    wanted = _lasting(json.loads(json.dumps(asdict(record))))
    if found is None or any(found.get(name) != value for name, value in wanted.items()):
        return False
    try:
        return np.array_equal(read_png(path), image)
    except PhotoError:
        return False


def outcome(drift: Drift, report: Drift | None, threshold: float = LOCK_THRESHOLD) -> dict[str, Any]:
    """The fields of a RenderRecord that say how it came out."""
    return dict(
        drift=drift.value,
        detected=drift.detected,
        recogniser=drift.recogniser,
        recogniser_sha256=drift.recogniser_sha256,
        space=drift.space,
        report_drift=None if report is None else report.value,
        report_recogniser=None if report is None else report.recogniser,
        report_recogniser_sha256=None if report is None else report.recogniser_sha256,
        locked=drift.locked(threshold),
        threshold=threshold,
    )
