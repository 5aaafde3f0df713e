"""`identity-lock demo`: a synthetic person first, then one real photograph; report.html and report.json at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from ..engines.diffusers import open_demo_base
from ..identity.photo import read_photo
from ..pipeline import PipelineResult, run_pipeline
from ..rendering.sheet import plot_histogram, search_sheet
from ..safety.atomic import replacing
from .measures import subject_numbers
from .report import write_html
from .settings import demo_spec
from .subjects import BASE, LOOK, PHOTOS, Subject, grace_hopper, others, synthetic


def run_demo(out: Path, *, quick: bool = False, should_stop: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """Writes out/report.json and out/report.html and returns the former. quick: the synthetic person only, shorter."""
    started = time.perf_counter()
    subjects = [synthetic()] if quick else [synthetic(), grace_hopper()]
    minutes = "under 4" if quick else "up to 20"
    print(f"The demo takes {minutes} minutes on two CPU cores; its results go to {out}.", flush=True)
    parts: list[tuple[Subject, PipelineResult, dict[str, Any]]] = []
    numbers: dict[str, Any] = {}
    for subject in subjects:
        print(f"\n{subject.title}", flush=True)
        result = run_subject(subject, out / subject.name, quick=quick, should_stop=should_stop)
        held_out = None if subject.held_out is None else read_photo(PHOTOS / subject.held_out)
        numbers[subject.name] = subject_numbers(result, others(), held_out)
        parts.append((subject, result, numbers[subject.name]))
        elapsed = (time.perf_counter() - started) / 60
        with replacing(out / "report.json") as temporary:
            temporary.write_text(json.dumps(numbers, indent=1) + "\n")
        with replacing(out / "report.html") as temporary:
            write_html(temporary, parts, elapsed, quick)
        print(_summary(subject, numbers[subject.name], elapsed), flush=True)
    print(f"\nReport: {out / 'report.html'} and {out / 'report.json'}", flush=True)
    return numbers


def run_subject(
    subject: Subject, folder: Path, *, quick: bool = False, should_stop: Callable[[], bool] = lambda: False
) -> PipelineResult:
    """The pipeline on one subject. The engine is opened afresh, so that subjects share nothing."""
    result = run_pipeline(
        open_demo_base(BASE),
        open_demo_base(BASE, look=LOOK),
        subject.read(),
        subject.photos,
        demo_spec(subject, quick=quick),
        folder,
        name=subject.name,
        consent=subject.consent,
        should_stop=should_stop,
    )
    Image.fromarray(search_sheet(result.search)).save(folder / "contact_sheet.png")
    plot_histogram(result.search, folder / "histogram.png")
    return result


def _summary(subject: Subject, numbers: dict[str, Any], minutes: float) -> str:
    drift, other = numbers["drift"], numbers["report_drift"] or {}
    state = "locked" if numbers["locked"] else "NOT locked (0.18 is the lock)"
    return (
        f"{subject.name}: best drift {drift['best_seed']:.3f}, {state}; median {drift['median']:.3f}, before training "
        f"{drift['untrained']:.3f}, other people from {drift['other_people_p5']:.3f} up ({numbers['recogniser']}); "
        f"best seed by {numbers['report_recogniser']}, which chose nothing: {_text(other.get('best_seed'))} "
        f"({minutes:.1f} min)"
    )


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
