"""The render log: what was asked, with which models and seeds, and the drift that came of it; a JSON line a render."""

from __future__ import annotations

import glob
import json
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import OutputError, PhotoError
from ..identity.drift import LOCK_THRESHOLD, Drift, DriftMeter
from ..identity.identity import Identity
from ..safety import index
from ..safety.atomic import make_folder
from ..safety.c2pa_signing import Signer
from ..safety.provenance import read_record, write_png


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
    made: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


_OF_A_RUN = ("made", "seconds")
"""What differs in a record where the same render is made again."""
_claimed: set[str] = set()
"""Pictures that this process wrote or took up: asked for twice within one process, a render is wanted twice."""


class RenderLog:
    """Writes pictures with their records inside, and the same records as lines of `renders.jsonl` beside them."""

    def __init__(self, folder: Path, text: Mapping[str, str] | None = None, signer: Signer | None = None) -> None:
        """text: more text chunks for each picture, by keyword, such as the host's own description of the run.
        signer: signs each picture before it gets its name."""
        self.folder, self._text, self.signer = make_folder(folder), dict(text or {}), signer

    def write(self, image: np.ndarray, name: str, record: RenderRecord) -> Path:
        """The PNG first, then its line: a line always has its picture. Raises OutputError."""
        path = self.folder / f"{name}.png"
        self._write(image, path, record)
        return path

    def write_next(self, image: np.ndarray, prefix: str, record: RenderRecord) -> Path:
        """As `write`, under a name that no picture here has or had: the prefix and a counter.

        A picture that an earlier process left, pixel for pixel and with the same record, is taken up and not written
        twice: a job that was lost with a dying server comes again, and may have been finished before.
        """
        earlier = self._made_before(image, prefix, record)
        if earlier is not None:
            _claimed.add(str(earlier))
            return earlier
        told = self._lines.read_text(encoding="utf-8") if self._lines.is_file() else ""
        logged = [json.loads(name) for name in re.findall(r'^\{"file": ("[^"]+")', told, re.MULTILINE)]
        names = [*logged, *(path.name for path in self.folder.glob("*.png"))]
        counted = re.compile(re.escape(prefix) + r"_(\d+)\.png")
        numbers = [int(match[1]) for match in map(counted.fullmatch, names) if match]
        path = self.folder / f"{prefix}_{max(numbers, default=0) + 1:05d}.png"
        self._write(image, path, record)
        return path

    def _made_before(self, image: np.ndarray, prefix: str, record: RenderRecord) -> Path | None:
        """The very same render under this prefix, by a process before this one. Of the pictures that are logged, only
        those of its seed are looked at; one that a kill left without its line gets that, and an unsigned one its
        signature where signing is asked for."""
        told = self._lines.read_text(encoding="utf-8") if self._lines.is_file() else ""
        lines = {json.loads(name): line for line, name in re.findall(r'^(\{"file": ("[^"]+").*)$', told, re.MULTILINE)}
        counted, seed = re.compile(re.escape(prefix) + r"_\d+\.png"), f'"seed": {record.seed},'
        for path in sorted(self.folder.glob(f"{glob.escape(prefix)}_*.png")):
            possible = counted.fullmatch(path.name) and seed in lines.get(path.name, seed)
            if not possible or str(path) in _claimed or not _same_render(path, image, record):
                continue
            if self.signer is not None:
                self.signer.sign_file(path)
            if path.name not in lines:
                self._append(path.name, read_record(path))
            return path
        return None

    @property
    def _lines(self) -> Path:
        return self.folder / "renders.jsonl"

    def _write(self, image: np.ndarray, path: Path, record: RenderRecord) -> None:
        data = asdict(record)
        index.made(record.identity_id, "render", path)
        index.made_line(record.identity_id, self._lines, "identity_id", record.identity_id)
        write_png(image, path, data, composite=record.composite, text=self._text, signer=self.signer)
        self._append(path.name, data)
        _claimed.add(str(path))

    def _append(self, name: str, data: Mapping[str, Any]) -> None:
        try:
            with open(self._lines, "a", encoding="utf-8") as lines:
                lines.write(json.dumps({"file": name} | dict(data)) + "\n")
        except OSError as error:
            raise OutputError(
                f"The render log in {self.folder} cannot be written ({error.strerror}); free some space."
            ) from error


def _same_render(path: Path, image: np.ndarray, record: RenderRecord) -> bool:
    try:
        found = read_record(path)
    except PhotoError:
        return False
    wanted = json.loads(json.dumps(asdict(record)))
    if any(found.get(name) != value for name, value in wanted.items() if name not in _OF_A_RUN):
        return False
    with Image.open(path) as picture:
        return np.array_equal(np.asarray(picture.convert("RGB")), image)


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
