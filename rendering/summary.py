"""What came of scoring, searching and rendering, in plain sentences and small tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..identity.drift import LOCK_THRESHOLD, Drift
from ..identity.identity import Identity
from .log import Meters
from .rescue import RescuedPicture
from .search import SearchReport
from .three_pass import ThreePassResult
from .two_pass import TwoPassResult

ROWS = 16  # of a table; the rest is counted
NOTES = 4


@dataclass(frozen=True)
class Scored:
    """One picture's drift by the selection recogniser, and by the reporting one, or None."""

    label: str
    drift: Drift
    report: Drift | None


def score(
    images: Sequence[np.ndarray], meters: Meters, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Scored]:
    """One Scored a picture (uint8 RGB), in their order, labelled with their number."""
    scored = []
    for number, image in enumerate(images, 1):
        scored.append(Scored(f"image {number}", meters.selection.measure_one(image), meters.report(image)))
        on_progress(number, len(images))
    return scored


def passes_scored(result: ThreePassResult, meters: Meters) -> list[Scored]:
    return [
        Scored("anchor", result.anchor_drift, meters.report(result.anchor)),
        Scored("styled", result.rescue.before, result.report_before),
        Scored("final", result.drift, result.report_after),
    ]


def two_passes_scored(result: TwoPassResult, meters: Meters) -> list[Scored]:
    return [
        Scored("anchor", result.anchor_drift, meters.report(result.anchor)),
        Scored("final", result.drift, result.report),
    ]


def rescues_scored(pictures: Sequence[RescuedPicture]) -> list[Scored]:
    """Before and after of each, in their order."""
    rows = []
    for number, picture in enumerate(pictures, 1):
        rows.append(Scored(f"styled {number}", picture.rescue.before, picture.report_before))
        rows.append(Scored(f"rescued {number}", picture.rescue.after, picture.report_after))
    return rows


def rescue_notes(pictures: Sequence[RescuedPicture]) -> list[str]:
    """Why each rescue ended as it did, for the first few pictures."""
    if len(pictures) == 1:
        return [pictures[0].rescue.note]
    notes = [f"{number}: {picture.rescue.note}" for number, picture in enumerate(pictures[:NOTES], 1)]
    return notes + ([f"and {len(pictures) - NOTES} more."] if len(pictures) > NOTES else [])


def drift_summary(
    scored: Sequence[Scored], identity: Identity, threshold: float = LOCK_THRESHOLD, notes: Sequence[str] = ()
) -> str:
    """A table of drifts by both recognisers, what the threshold is, and the yardstick of the identity's own photos."""
    witness = identity.reporting or "-"
    width = max(len(row.label) for row in scored)
    lines = [f"{'drift (raw cosine)':<{max(width, 18)}}  {identity.selection:>8}  {witness:>8}"]
    for row in scored[:ROWS]:
        told = "-" if row.report is None else _number(row.report)
        state = "no face" if not row.drift.detected else "locked" if row.drift.locked(threshold) else "not locked"
        lines.append(f"{row.label:<{max(width, 18)}}  {_number(row.drift):>8}  {told:>8}  {state}")
    if len(scored) > ROWS:
        rest = scored[ROWS:]
        locked = sum(row.drift.locked(threshold) for row in rest)
        lines.append(f"and {len(rest)} more, {locked} of them locked.")
    lines.append(
        f"Locked at {threshold:g} or below; lower is more alike. {identity.selection} chooses"
        + (f"; {identity.reporting} only reports." if identity.reporting else ".")
    )
    return "\n".join([*lines, yardstick(identity), *notes])


def yardstick(identity: Identity) -> str:
    """How far the identity's own photos are from each other: what a drift is read against."""
    pairs = {name: values for name, values in identity.yardstick.items() if values}
    if not pairs:
        return f"{identity.name} was made from one photo, so there is no drift between photos to read these against."
    told = "; ".join(f"{name} {', '.join(f'{value:.3f}' for value in values)}" for name, values in pairs.items())
    return f"Yardstick: the drift between {identity.name}'s own photos is {told}."


def search_summary(report: SearchReport, identity: Identity, threshold: float = LOCK_THRESHOLD) -> str:
    best, full = report.best, [r.drift for r in report.full if r.drift is not None]
    finished = report.finished
    locked = sum(r.detected and r.drift is not None and r.drift <= threshold for r in finished)
    faces = sum(r.detected for r in finished)
    state = "locked" if best.detected and best.drift is not None and best.drift <= threshold else "not locked"
    told = "" if best.report_drift is None else f" ({identity.reporting}, which chose nothing: {best.report_drift:.3f})"
    lines = [
        f"Best seed: {best.seed}, {identity.selection} drift {best.drift:.3f}{told}, {state} at {threshold:g}.",
        f"{len(report.results)} seeds looked at, {len(finished)} rendered to the end, "
        f"{len(report.results) - len(finished)} pruned by their previews; {locked} locked; "
        f"a face in {faces} of {len(finished)}.",
    ]
    if full:
        low, middle, high = np.quantile(full, (0.1, 0.5, 0.9))
        lines.append(
            f"The {len(full)} seeds that no preview selected: median drift {middle:.3f}, 10 % below {low:.3f}, "
            f"10 % above {high:.3f}. The best of many is always better than what a new seed will give."
        )
    if report.correlations:
        rhos = ", ".join("unknown" if rho is None else f"{rho:.2f}" for rho in report.correlations)
        lines.append(f"Rank correlation of previews with final drifts: {rhos}; cost {report.cost:.0%} of full renders.")
    return "\n".join([*lines, *report.notes, yardstick(identity), f"Every finished seed: {report.folder}"])


def _number(drift: Drift) -> str:
    return f"{drift.value:.3f}"
