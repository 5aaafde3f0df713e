"""The numbers of the report: drifts by both recognisers, distance to other people, and whether the scene was obeyed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..identity.drift import LOCK_THRESHOLD, DriftMeter, drift
from ..identity.faces import Face
from ..identity.photo import Photo, read_photo
from ..pipeline import PipelineResult
from ..rendering.search import SearchReport
from .hues import HUES, hue_name


def background_hue(image: np.ndarray, face: Face | None) -> str:
    """The hue name of the median background pixel, 'none' where it is not colourful.

    Background: the strips beside the head, the outer sixth on either side, above the mouth's height (or mid-picture).
    """
    height, width = image.shape[:2]
    bottom = int(height * 0.5 if face is None else np.clip(face.landmarks[3:, 1].mean(), height * 0.3, height * 0.7))
    strip = width // 6
    pixels = np.concatenate([image[:bottom, :strip].reshape(-1, 3), image[:bottom, -strip:].reshape(-1, 3)])
    return hue_name(np.median(pixels, axis=0) / 255.0) or "none"


@dataclass(frozen=True)
class OtherPeople:
    """p5: the 5th percentile of the drift of the renders to the others. rank_1: share of the detected renders that are
    nearer to the subject than to every other person."""

    count: int
    p5: float
    median: float
    rank_1: float


def compare_with_others(images: Sequence[np.ndarray], meter: DriftMeter, others: Sequence[Photo]) -> OtherPeople:
    strangers = [r.embedding for r in meter.reader.read_all([o.pixels for o in others]) if r.embedding is not None]
    renders = [r.embedding for r in meter.reader.read_all(list(images)) if r.embedding is not None]
    if not renders or not strangers:
        return OtherPeople(len(strangers), 1.0, 1.0, 0.0)
    table = np.array([[drift(stranger, render) for stranger in strangers] for render in renders])
    own = np.array([drift(meter.reference, render) for render in renders])
    return OtherPeople(
        len(strangers),
        float(np.quantile(table, 0.05)),
        float(np.median(table)),
        float(np.mean(own < table.min(axis=1))),
    )


def seed_images(report: SearchReport) -> list[np.ndarray]:
    """The full renders, in the order of their seeds."""
    return [read_photo(Path(report.folder) / str(r.file)).pixels for r in report.full]


def subject_numbers(result: PipelineResult, others: Sequence[Photo], held_out: Photo | None) -> dict[str, Any]:
    """What report.json holds of one subject; see docs/report.md for each key."""
    images = seed_images(result.search)
    numbers: dict[str, Any] = {}
    selection, reporting = result.meters.selection, result.meters.reporting
    compared = compare_with_others(images, selection, others)
    numbers["drift"] = _drifts(result, selection, compared, held_out, reporting=False)
    numbers["report_drift"] = (
        None
        if reporting is None
        else _drifts(result, reporting, compare_with_others(images, reporting, others), held_out, reporting=True)
    )
    full = result.search.full
    untrained = [] if result.untrained is None else result.untrained.full
    numbers["detection"] = {
        "untrained": _share(r.detected for r in untrained),
        "trained": _share(r.detected for r in full),
    }
    numbers["rank_1"] = compared.rank_1
    hues = {
        name: background_hue(three.final, three.drift.face)
        for name, three in result.three_pass.items()
        if name in HUES
    }
    numbers["background_hue"] = {"measured": hues, "share": _share(name == hue for name, hue in hues.items())}
    numbers["seeds"] = {
        "full": len(full),
        "looked_at": len(result.search.results),
        "finished": len(result.search.finished),
        "best": result.search.best.seed,
        "locked": sum(r.drift is not None and r.drift <= LOCK_THRESHOLD for r in result.search.finished),
        "cost": result.search.cost,
        "rank_correlations": list(result.search.correlations),
    }
    numbers["training"] = {
        "steps": result.training.steps,
        "budget": result.training.max_steps,
        "kept_step": result.training.best_step,
        "phases": [phase.sentence for phase in result.training.phases],
    }
    numbers["seconds"] = result.seconds
    numbers["recogniser"] = selection.recogniser
    numbers["report_recogniser"] = None if reporting is None else reporting.recogniser
    numbers["space"] = "raw cosine"
    numbers["yardstick"] = {name: list(values) for name, values in result.identity.yardstick.items()}
    numbers["locked"] = bool(result.search.best.drift is not None and result.search.best.drift <= LOCK_THRESHOLD)
    numbers["unknown_words"] = list(result.unknown_words)
    return numbers


def _drifts(
    result: PipelineResult,
    meter: DriftMeter,
    compared: OtherPeople,
    held_out: Photo | None,
    *,
    reporting: bool,
) -> dict[str, Any]:
    def of(row: Any) -> float | None:
        return row.report_drift if reporting else row.drift

    missed = [t for t in result.three_pass.values() if t.rescue.before.value > t.record.threshold]
    before = [t.report_before if reporting else t.rescue.before for t in missed]
    after = [t.report_after if reporting else t.rescue.after for t in missed]
    finals = [t.report_after if reporting else t.drift for t in result.three_pass.values()]
    two = [t.report if reporting else t.drift for t in result.two_pass.values()]
    checks = {c.step: (c.report_drift if reporting else c.drift) for c in result.training.identity}
    return {
        "untrained": None if result.untrained is None else _median(of(r) for r in result.untrained.full),
        "phases": [checks.get(phase.last_step) for phase in result.training.phases],
        "best_seed": of(result.search.best),
        "median": _median(of(r) for r in result.search.full),
        "three_pass": _median(d.value for d in finals if d),
        "rescue_before": _median(d.value for d in before if d),
        "rescue_after": _median(d.value for d in after if d),
        "two_pass": _median(d.value for d in two if d),
        "held_out": None if held_out is None else _held_out(result, meter, held_out),
        "held_out_photo": None if held_out is None else meter.measure_one(held_out.pixels).value,
        "other_people_p5": compared.p5,
    }


def _held_out(result: PipelineResult, meter: DriftMeter, held_out: Photo) -> float | None:
    """Drift between the best seed's render and the photo that nothing has learned from."""
    best = read_photo(Path(result.search.folder) / str(result.search.best.file)).pixels
    photo, render = meter.reader.read(held_out.pixels), meter.reader.read(best)
    if photo.embedding is None or render.embedding is None:
        return None
    return drift(photo.embedding, render.embedding)


def _median(values: Any) -> float | None:
    found = [v for v in values if v is not None]
    return float(np.median(found)) if found else None


def _share(values: Any) -> float | None:
    found = list(values)
    return float(np.mean(found)) if found else None
