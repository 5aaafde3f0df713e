"""The drift of any picture against an identity, from the two files alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import PhotoError
from .identity.drift import LOCK_THRESHOLD, Drift
from .identity.identity import load_identity
from .identity.photo import read_photo
from .rendering.log import Meters
from .safety.provenance import read_record


@dataclass(frozen=True)
class Verification:
    """selection and reporting: measured now. record: what the picture says of itself, None where it carries none."""

    image: str
    identity: str
    selection: Drift
    reporting: Drift | None
    yardstick: tuple[float, ...]
    record: dict[str, Any] | None

    @property
    def locked(self) -> bool:
        return self.selection.locked()

    def to_json(self) -> dict[str, Any]:
        measured = [
            {
                "recogniser": drift.recogniser,
                "recogniser_sha256": drift.recogniser_sha256,
                "drift": drift.value,
                "detected": drift.detected,
                "space": drift.space,
            }
            for drift in (self.selection, self.reporting)
            if drift is not None
        ]
        return {
            "image": self.image,
            "identity": self.identity,
            "locked": self.locked,
            "threshold": LOCK_THRESHOLD,
            "measured": measured,
            "yardstick": list(self.yardstick),
        }

    def text(self) -> str:
        lines = [f"{self.image} against the identity '{self.identity}'"]
        for drift in (self.selection, self.reporting):
            if drift is not None:
                found = f"drift {drift.value:.6f} ({drift.space})" if drift.detected else "no face found, drift 1"
                lines.append(f"  {drift.recogniser}: {found}")
        lines.append(f"  {'locked' if self.locked else 'not locked'} (the lock is at {LOCK_THRESHOLD})")
        if self.yardstick:
            shown = ", ".join(f"{value:.3f}" for value in self.yardstick)
            lines.append(f"  yardstick: the reference photos differ among themselves by {shown}")
        if self.record is None:
            lines.append("  the picture carries no Identity Lock record")
        else:
            told = self.record.get("drift")
            value = f"{told:.6f}" if isinstance(told, int | float) else "unknown"
            lines.append(f"  its own record says: seed {self.record.get('seed')}, drift {value}")
        lines.append("  similarity only: the picture is no evidence of who somebody is")
        return "\n".join(lines)


def verify(image: Path, identity_file: Path, models_dir: Path | None = None) -> Verification:
    """Raises PhotoError, RecogniserError and IdentityFileError."""
    identity = load_identity(identity_file)
    meters = Meters.of(identity, models_dir)
    pixels = read_photo(image).pixels
    try:
        record: dict[str, Any] | None = read_record(image)
    except PhotoError:
        record = None
    return Verification(
        image.name,
        identity.name,
        meters.selection.measure_one(pixels),
        meters.report(pixels),
        tuple(identity.yardstick.get(identity.selection, ())),
        record,
    )
