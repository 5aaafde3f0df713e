"""What pruning saves and what it costs in drift, on the real search code over recorded runs.

A pool of seeds is rendered in full once, and its previews are kept. Each trial then searches N seeds drawn from the
pool with `search_seeds` itself, on an engine that plays the recording back; the true best of those N is known.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from identity_lock.engines.protocol import SampleRequest, SampleResult, StepCallback, StepView
from identity_lock.identity.drift import Drift
from identity_lock.rendering.log import Meters
from identity_lock.rendering.search import search_seeds

from .common import Bench, Row

POOL, TRIALS, SIZES, CHUNK = 768, 20, (64, 256), 16


class Recording:
    """An Engine that plays back x0 previews and final latents of a pool of seeds; everything else is the real one's."""

    def __init__(self, engine: Any, request: SampleRequest, pool: range) -> None:
        self._engine = engine
        self.order: list[int] = list(pool)  # what seed i of a search stands for
        self.first = pool[0]
        self.x0: dict[int, torch.Tensor] = {}
        self.final: dict[int, torch.Tensor] = {}
        self.seconds = 0.0
        for start in tqdm(range(0, len(pool), CHUNK), desc="recording", unit="batch"):
            seeds = tuple(pool[start : start + CHUNK])
            views: list[torch.Tensor] = []

            def keep(view: StepView, views: list[torch.Tensor] = views) -> None:
                views.append(view.x0.half())

            started = time.perf_counter()
            result = engine.sample(replace(request, seeds=seeds), keep)
            self.seconds += time.perf_counter() - started
            for row, seed in enumerate(seeds):
                self.x0[seed] = torch.stack([view[row] for view in views])
                self.final[seed] = result.latents[row]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def sample(self, request: SampleRequest, on_step: StepCallback | None = None) -> SampleResult:
        seeds = [self.order[seed - self.first] for seed in request.seeds]
        alive = tuple(range(len(seeds)))
        for step in range(request.steps):
            x0 = torch.stack([self.x0[seeds[row]][step].float() for row in alive])
            kept = None if on_step is None else on_step(StepView(step + 1, request.steps, alive, x0))
            if kept is not None:
                alive = tuple(row for row in alive if row in set(kept))
                if not alive:
                    return SampleResult((), x0[:0])
        return SampleResult(alive, torch.stack([self.final[seeds[row]] for row in alive]))


class Remembering:
    """A drift meter that measures each picture once: the same previews come back in every trial."""

    def __init__(self, meter: Any) -> None:
        self._meter, self._known = meter, {}  # type: ignore[var-annotated]
        self.seconds, self.measured = 0.0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._meter, name)

    def measure_one(self, image: np.ndarray) -> Drift:
        key = image.tobytes()
        if key not in self._known:
            started = time.perf_counter()
            self._known[key] = self._meter.measure_one(image)
            self.seconds += time.perf_counter() - started
            self.measured += 1
        return self._known[key]

    def measure(self, images: list[np.ndarray]) -> list[Drift]:
        return [self.measure_one(image) for image in images]


def measure(bench: Bench) -> list[Row]:
    spec = bench.spec.search
    lora = bench.trained()
    pool = range(spec.first_seed, spec.first_seed + POOL)
    request = SampleRequest(
        positive=bench.engine.encode_prompt(spec.render.prompt),
        negative=bench.engine.encode_prompt(spec.render.negative),
        seeds=(),
        width=bench.spec.size,
        height=bench.spec.size,
        steps=spec.render.steps,
        cfg=spec.render.cfg,
        sampler=spec.render.sampler,
        scheduler=spec.render.scheduler,
        lora=lora,
    )
    recording = Recording(bench.engine, request, pool)
    meter: Any = Remembering(bench.meters.selection)
    truth = {seed: meter.measure(bench.engine.decode_latents(recording.final[seed][None]))[0].value for seed in pool}
    row_step = recording.seconds / POOL / spec.render.steps
    look = meter.seconds / meter.measured
    rows = []
    for size in SIZES:
        costs, walls, regrets = [], [], []
        for trial in tqdm(range(TRIALS), desc=f"trials of {size}"):
            drawn = np.random.default_rng([size, trial]).choice(POOL, size, replace=False)
            recording.order = [pool[int(i)] for i in drawn]
            with tempfile.TemporaryDirectory() as folder:
                trial_spec = replace(spec, count=size, control=max(6, size // 16), batch=8)
                report = search_seeds(
                    recording,  # type: ignore[arg-type]
                    lora,
                    bench.identity,
                    Meters(meter),
                    trial_spec,
                    (bench.spec.size, bench.spec.size),
                    Path(folder),
                )
            costs.append(report.cost)
            looks = sum(len(r.previews) for r in report.results) + len(report.finished)
            full = size * (spec.render.steps * row_step + look)
            walls.append((report.cost * size * spec.render.steps * row_step + looks * look) / full)
            assert report.best.drift is not None
            regrets.append(report.best.drift - min(truth[seed] for seed in recording.order))
        cost, regret = float(np.mean(costs)), float(np.mean(regrets))
        detail = (
            f"{TRIALS} trials; regret at most {max(regrets):.4f}; with the face measurements of this small model "
            f"counted as time, cost {np.mean(walls):.2f}"
        )
        rows.append(Row(f"seed search, N = {size}: cost / all in full", f"{cost:.3f}", "<= 0.40", cost <= 0.40, detail))
        rows.append(Row(f"seed search, N = {size}: mean regret", f"{regret:.4f}", "<= 0.01", regret <= 0.01, "drift"))
    return rows
