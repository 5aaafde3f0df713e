"""Renders a dataset of captioned pictures to disk, in parallel and resumable."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from tools.people.caption import caption_phrases
from tools.people.mesh import Array
from tools.people.person import Person
from tools.people.render import render
from tools.people.view import View

FRAMINGS = ("free", "steady")


@dataclass(frozen=True)
class DatasetPlan:
    """Which pictures to render: `views` of each of `people`, whose seeds count up from `first_seed`.

    framing: 'free' (View.sample) or 'steady' (View.steady).
    """

    people: int
    views: int
    first_seed: int
    size: int
    look: str
    framing: str = "free"

    def view(self, person_seed: int, index: int) -> View:
        draw = View.steady if self.framing == "steady" else View.sample
        return draw(view_seed(person_seed, index))

    def jobs(self) -> Iterator[tuple[int, int]]:
        """(first row, person seed) of every person."""
        return ((index * self.views, self.first_seed + index) for index in range(self.people))


def view_seed(person_seed: int, index: int) -> int:
    """Seed of a person's view, different for all of them."""
    return person_seed * 1000 + index


def make_dataset(folder: Path, plan: DatasetPlan, workers: int) -> None:
    """Write images.npy (N,size,size,3), captions.json (N phrase lists) and people.npy (N person seeds).

    Rows are marked in done.npy as they are written, so that a killed run goes on where it stopped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check_plan(folder / "plan.json", plan)
    count = plan.people * plan.views
    images = _open_rows(folder / "images.npy", (count, plan.size, plan.size, 3))
    done = _open_rows(folder / "done.npy", (count,))
    _write_labels(folder, plan)
    jobs = [(plan, row, seed) for row, seed in plan.jobs() if not done[row : row + plan.views].all()]
    with (
        tqdm(total=count, initial=count - len(jobs) * plan.views, unit="image") as progress,
        _thread_limits(),
        multiprocessing.get_context("spawn").Pool(workers, _start_worker) as pool,
    ):
        for row, pictures in pool.imap_unordered(_render_person, jobs):
            images[row : row + plan.views] = pictures
            images.flush()
            done[row : row + plan.views] = 1
            progress.update(plan.views)
    done.flush()


def _render_person(job: tuple[DatasetPlan, int, int]) -> tuple[int, Array]:
    plan, row, seed = job
    person = Person.sample(seed)
    views = (plan.view(seed, index) for index in range(plan.views))
    return row, np.stack([render(person, view, plan.size, plan.look) for view in views])


def _write_labels(folder: Path, plan: DatasetPlan) -> None:
    phrases, seeds = [], []
    for _, seed in plan.jobs():
        person = Person.sample(seed)
        phrases += [caption_phrases(person, plan.view(seed, index)) for index in range(plan.views)]
        seeds += [seed] * plan.views
    (folder / "captions.json").write_text(json.dumps(phrases))
    np.save(folder / "people.npy", np.array(seeds, np.int64))


def _check_plan(path: Path, plan: DatasetPlan) -> None:
    """Refuse to mix two plans in one folder."""
    text = json.dumps(asdict(plan))
    if path.exists() and path.read_text() != text:
        raise SystemExit(f"{path.parent} holds another dataset ({path.read_text()}); choose an empty folder")
    path.write_text(text)


def _open_rows(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A uint8 array on disk, created with zeros if it is not there yet."""
    if path.exists():
        return np.lib.format.open_memmap(path, mode="r+")
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)


def _start_worker() -> None:
    cv2.setNumThreads(1)


@contextmanager
def _thread_limits() -> Iterator[None]:
    """Workers started inside use one thread each; numba and BLAS read these variables when they load."""
    names = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
