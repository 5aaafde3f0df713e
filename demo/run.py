"""`identity-lock demo`: a synthetic person and one real photograph; report.html and report.json at the end.

The subjects share nothing, so on a machine with two cores each has one to itself: the synthetic person's results stand
after a few minutes, while the photograph's longer training goes on beside it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engines.diffusers import open_demo_base
from ..identity.photo import read_photo
from ..pipeline import PipelineResult, only_run, run_pipeline
from ..rendering.sheet import plot_histogram, write_sheet
from ..safety import index
from ..safety.atomic import make_folder, replacing
from ..safety.offline import enforce_offline, no_network
from .measures import subject_numbers
from .report import page, subject_section
from .settings import demo_spec
from .subjects import BASE, LOOK, PHOTOS, Subject, grace_hopper, others, synthetic


@dataclass(frozen=True)
class Part:
    """What one subject adds: its numbers to report.json, its section to report.html. person: the identity's id."""

    name: str
    numbers: dict[str, Any]
    section: str
    person: str


def run_demo(out: Path, *, quick: bool = False, threads: int = 1) -> dict[str, Any]:
    """Writes out/report.json and out/report.html and returns the former. quick: the synthetic person only, shorter.

    Ctrl-C, once, stops at the next safe point and keeps everything. Raises the IdentityLockError family.
    """
    started = time.perf_counter()
    subjects = [synthetic()] if quick else [synthetic(), grace_hopper()]
    make_folder(out)
    minutes = "under 4" if quick else "up to 20, and the synthetic person's results stand after about 7,"
    print(f"The demo takes {minutes} minutes on two CPU cores; its results go to {out}.", flush=True)
    parts: list[Part] = []
    for part in _parts(subjects, out, quick, threads):
        parts.append(part)
        elapsed = (time.perf_counter() - started) / 60
        numbers = {p.name: p.numbers for p in parts}
        index.made(part.person, "report", out / "report.json", out / "report.html", together=True)
        with replacing(out / "report.json") as temporary:
            temporary.write_text(json.dumps(numbers, indent=1) + "\n")
        with replacing(out / "report.html") as temporary:
            temporary.write_text(page([p.section for p in parts], elapsed, quick), encoding="utf-8")
        print(f"\n{_summary(part, elapsed)}", flush=True)
    print(f"\nReport: {out / 'report.html'} and {out / 'report.json'}", flush=True)
    return numbers


def _parts(subjects: list[Subject], out: Path, quick: bool, threads: int) -> Iterator[Part]:
    """In the order of the subjects, each in a process of its own where there are cores for it."""
    jobs = [(subject, out / subject.name, quick, threads, line) for line, subject in enumerate(subjects)]
    if len(jobs) == 1 or (os.cpu_count() or 1) < 2:
        yield from map(_work, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(len(jobs)) as pool:
        yield from pool.imap(_work, jobs)


@no_network()  # once more: a process of its own starts without the command's guard
def _work(job: tuple[Subject, Path, bool, int, int]) -> Part:
    import torch

    from ..cli import stoppable

    subject, folder, quick, threads, line = job
    os.environ["TQDM_POSITION"] = str(line)  # a line of its own for each subject's progress bar
    enforce_offline()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    with stoppable(quiet=multiprocessing.parent_process() is not None) as should_stop:
        result = run_subject(subject, folder, quick=quick, should_stop=should_stop)
    held_out = None if subject.held_out is None else read_photo(PHOTOS / subject.held_out)
    numbers = subject_numbers(result, others(), held_out)
    return Part(subject.name, numbers, subject_section(subject, result, numbers), result.identity.id)


def run_subject(
    subject: Subject, folder: Path, *, quick: bool = False, should_stop: Callable[[], bool] = lambda: False
) -> PipelineResult:
    """The pipeline on one subject, with its contact sheet and histogram."""
    with only_run(folder):
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
        index.made(result.identity.id, "report", folder / "histogram.png")
        write_sheet(result.search, folder / "contact_sheet.png", result.identity.id)
        plot_histogram(result.search, folder / "histogram.png")
        return result


def _summary(part: Part, minutes: float) -> str:
    numbers = part.numbers
    drift, other = numbers["drift"], numbers["report_drift"] or {}
    state = "locked" if numbers["locked"] else "NOT locked (0.18 is the lock)"
    return (
        f"{part.name}: best drift {_text(drift['best_seed'])}, {state}; median {_text(drift['median'])}, "
        f"before training {_text(drift['untrained'])}, other people from {_text(drift['other_people_p5'])} up "
        f"({numbers['recogniser']}); "
        f"best seed by {numbers['report_recogniser']}, which chose nothing: {_text(other.get('best_seed'))} "
        f"({minutes:.1f} min)"
    )


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
