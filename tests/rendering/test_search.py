"""The seed search: what it reports is what a plain render gives, its journal loses nothing, and pruning is earned.

Pictures and drifts are real (a small engine, SFace) except in the last part, which is about statistics: there an engine
of numbers stands in, whose pictures merely spell a drift.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from identity_lock.demo.subjects import BASE
from identity_lock.engines.protocol import Conditioning, ModelCard, SampleRequest, SampleResult, StepCallback, StepView
from identity_lock.errors import OutputError, PromptRefused, RenderError
from identity_lock.identity.drift import Drift
from identity_lock.identity.photo import read_photo
from identity_lock.rendering.log import Meters
from identity_lock.rendering.passes import run_pass
from identity_lock.rendering.search import (
    JOURNAL_NAME,
    Rung,
    SearchReport,
    SearchSpec,
    SearchStopped,
    SeedResult,
    search_seeds,
)
from identity_lock.safety.json_lines import JournalDamaged
from identity_lock.safety.provenance import read_record

from .conftest import RENDER, SIZE, files_in, render_with

SPEC = SearchSpec(RENDER, first_seed=40, count=10, batch=4, control=6, rungs=(Rung(0.25, 0.5),), min_correlation=-1.0)


@pytest.fixture(scope="module")
def run(portrait_engine, identity, both_meters, tmp_path_factory):
    """A finished search, pruned from its seventh seed on, and its folder."""
    folder = tmp_path_factory.mktemp("search")
    told: list[int] = []
    report = search_seeds(
        portrait_engine, None, identity, both_meters, SPEC, SIZE, folder, on_progress=lambda p: told.append(p.done)
    )
    return SimpleNamespace(folder=folder, report=report, told=told)


def search(engine, identity, meters, spec, folder, **options) -> SearchReport:
    return search_seeds(engine, None, identity, meters, spec, SIZE, folder, **options)


# ---- what it reports ------------------------------------------------------------------------------------------------


def test_every_seed_is_reported_in_order(run):
    assert [r.seed for r in run.report.results] == list(range(40, 50))
    assert run.told == [4, 6, 10]
    assert run.report.best.drift == min(r.drift for r in run.report.finished)
    assert [r.drift for r in run.report.finished] == sorted(r.drift for r in run.report.finished)


def test_the_controls_are_rendered_in_full_and_the_rest_may_be_dropped(run):
    assert [r.seed for r in run.report.full] == list(range(40, 46))
    dropped = [r for r in run.report.results if not r.finished]
    assert dropped and all(r.seed >= 46 and r.dropped_at == 0 and r.file is None for r in dropped)
    assert run.report.cost == pytest.approx((4 * len(run.report.finished) + len(dropped)) / (4 * 10))


def test_the_best_seed_rendered_alone_is_the_picture_in_its_file(run, portrait_engine, both_meters):
    best = run.report.best
    alone = run_pass(portrait_engine, RENDER, best.seed, SIZE, None).astype(int)
    kept = read_photo(run.folder / best.file).pixels.astype(int)
    assert np.abs(alone - kept).max() <= 1
    assert both_meters.selection.measure_one(kept.astype(np.uint8)).value == pytest.approx(best.drift, abs=1e-6)


def test_a_seed_of_the_demo_base_rendered_alone_is_the_picture_in_its_file(identity, both_meters, tmp_path):
    from identity_lock.engines.diffusers import open_demo_base

    engine = open_demo_base(BASE)
    spec = SearchSpec(render_with(prompt="photo of a person, woman"), first_seed=7, count=3, batch=3, control=3)
    report = search(engine, identity, both_meters, spec, tmp_path)
    for result in report.results:
        alone = run_pass(engine, spec.render, result.seed, SIZE, None).astype(int)
        assert np.abs(alone - read_photo(tmp_path / result.file).pixels).max() <= 1
        assert result.drift == 1.0 if not result.detected else 0.0 <= result.drift <= 2.0


def test_each_picture_carries_its_record(run):
    for result in run.report.finished:
        told = read_record(run.folder / result.file)
        assert (told["seed"], told["kind"], told["drift"]) == (result.seed, "seed_search", result.drift)
        assert told["report_drift"] == result.report_drift and told["passes"]["anchor"] == RENDER.describe()


def test_a_picture_without_a_face_counts_as_drift_one(identity, both_meters, tmp_path):
    from identity_lock.tests.fixtures.tiny_engine import tiny_engine

    report = search(tiny_engine("epsilon"), identity, both_meters, replace(SPEC, count=3, control=2), tmp_path)
    assert [(r.drift, r.detected) for r in report.results] == [(1.0, False)] * 3
    assert report.best.seed == 40  # of equals the first


def test_the_guard_stands_in_front(identity, both_meters, tmp_path):
    spec = replace(SPEC, render=render_with(prompt="caricature of a woman"))
    with pytest.raises(PromptRefused, match="caricature"):
        search(None, identity, both_meters, spec, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "changes",
    [{"count": 0}, {"batch": 0}, {"first_seed": -1}, {"first_seed": 2**64 - 1}, {"rungs": (Rung(0.0, 0.5),)},
     {"rungs": (Rung(0.5, 0.0),)}],
)  # fmt: skip
def test_a_search_that_cannot_be_is_refused(changes):
    with pytest.raises(RenderError, match="give at least one seed|needs `at` inside"):
        replace(SPEC, **changes)


# ---- the journal ----------------------------------------------------------------------------------------------------


class _Counting:
    """A real engine that counts the rows it is asked for."""

    def __init__(self, engine) -> None:
        self._engine = engine
        self.seeds: list[int] = []

    def __getattr__(self, name: str):
        return getattr(self._engine, name)

    def sample(self, request: SampleRequest, on_step: StepCallback | None = None) -> SampleResult:
        self.seeds += request.seeds
        return self._engine.sample(request, on_step)


def test_a_finished_search_is_not_repeated(run, portrait_engine, identity, both_meters):
    engine = _Counting(portrait_engine)
    assert search(engine, identity, both_meters, SPEC, run.folder) == run.report
    assert engine.seeds == []


def test_a_stopped_search_goes_on_and_ends_in_the_same_report(run, portrait_engine, identity, both_meters, tmp_path):
    looks = iter([False, True])
    with pytest.raises(SearchStopped, match="after 4 of 10 seeds.*goes on from there"):
        search(portrait_engine, identity, both_meters, SPEC, tmp_path, should_stop=lambda: next(looks))
    engine = _Counting(portrait_engine)
    report = search(engine, identity, both_meters, SPEC, tmp_path)
    assert engine.seeds == list(range(44, 50))
    assert report.results == run.report.results and report.cost == run.report.cost
    assert files_in(tmp_path) == files_in(run.folder)


def test_a_line_that_a_kill_cut_short_costs_its_batch(run, portrait_engine, identity, both_meters, tmp_path):
    spec = replace(SPEC, count=6)
    search(portrait_engine, identity, both_meters, spec, tmp_path)
    journal = tmp_path / JOURNAL_NAME
    journal.write_bytes(journal.read_bytes()[:-20])
    engine = _Counting(portrait_engine)
    report = search(engine, identity, both_meters, spec, tmp_path)
    assert engine.seeds == [44, 45]  # both, so that their batch is the one that it was, to the last bit
    assert report.results == run.report.results[:6]
    assert len([json.loads(line) for line in journal.read_text().splitlines()]) == 1 + 6
    logged = [json.loads(line)["file"] for line in (tmp_path / "renders.jsonl").read_text().splitlines()]
    assert logged == [f"seed_{seed}.png" for seed in range(40, 46)]  # one line each, though two were made again


def test_more_seeds_may_be_asked_for_later(run, portrait_engine, identity, both_meters, tmp_path):
    search(portrait_engine, identity, both_meters, replace(SPEC, count=6), tmp_path)
    engine = _Counting(portrait_engine)
    assert search(engine, identity, both_meters, SPEC, tmp_path).results == run.report.results
    assert engine.seeds == list(range(46, 50))


@pytest.mark.parametrize("changes", [{"render": render_with(cfg=2.0)}, {"first_seed": 41}, {"rungs": ()}])
def test_a_journal_of_another_search_is_refused(run, portrait_engine, identity, both_meters, changes):
    before = (run.folder / JOURNAL_NAME).read_bytes()
    with pytest.raises(RenderError, match=r"seeds\.jsonl belongs to a search.*: the settings changed.*another folder"):
        search(portrait_engine, identity, both_meters, replace(SPEC, **changes), run.folder)
    assert (run.folder / JOURNAL_NAME).read_bytes() == before


def test_a_journal_of_another_lora_is_refused(run, portrait_engine, identity, both_meters, lora):
    with pytest.raises(RenderError, match="the LoRA changed since"):
        search_seeds(portrait_engine, lora, identity, both_meters, SPEC, SIZE, run.folder)


def test_a_full_disk_is_said_in_words(portrait_engine, identity, both_meters, tmp_path, full_disk):
    full_disk(tmp_path / JOURNAL_NAME)
    with pytest.raises(OutputError, match=r"journal.*No space left.*free some space"):
        search(portrait_engine, identity, both_meters, SPEC, tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: b"{]",
        lambda line: b"[]",
        lambda line: line.replace(b'"seed_40.png"', b'"../seed_40.png"'),
        lambda line: line.replace(b'"seed": 40', b'"seed": "forty"'),
        lambda line: line.replace(b'"previews"', b'"reviews"'),
        lambda line: line.replace(b'"detected": true', b'"detected": NaN'),
    ],
    ids=["no JSON", "no object", "another folder", "a word", "another field", "no number"],
)
def test_a_damaged_line_is_named_with_the_way_out(run, portrait_engine, identity, both_meters, tmp_path, damage):
    lines = (run.folder / JOURNAL_NAME).read_bytes().split(b"\n")
    assert damage(lines[1]) != lines[1]
    (tmp_path / JOURNAL_NAME).write_bytes(b"\n".join([lines[0], damage(lines[1]), *lines[2:]]))
    with pytest.raises(JournalDamaged, match=r"Line 2 of .*seeds\.jsonl cannot be read.*give another folder"):
        search(portrait_engine, identity, both_meters, SPEC, tmp_path)


# ---- early stop -----------------------------------------------------------------------------------------------------


def test_it_ends_when_enough_seeds_are_locked(run, portrait_engine, identity, both_meters, tmp_path):
    threshold = sorted(r.drift for r in run.report.results[:4])[1]  # two of the first four are locked at this
    spec = replace(SPEC, threshold=threshold, stop_after_locked=2)
    report = search(portrait_engine, identity, both_meters, spec, tmp_path)
    assert [r.seed for r in report.results] == [40, 41, 42, 43]
    engine = _Counting(portrait_engine)
    assert search(engine, identity, both_meters, spec, tmp_path) == report
    assert engine.seeds == []


# ---- pruning, as statistics: an engine of numbers --------------------------------------------------------------------


class NumberEngine:
    """Stands in for a diffusion model where only the statistics of pruning matter: no picture is drawn.

    A latent is one number, the drift that the meter below reads from it; -1 stands for a picture without a face. Each
    seed has a final drift, and its previews are that plus noise that falls from step to step.
    """

    card = ModelCard("numbers", "0" * 64, "demo", "sample", 8)
    latent_factor = 8
    samplers = schedulers = ("ddim",)

    def __init__(self, noise: float, *, correlated: bool = True, faceless_previews: bool = False) -> None:
        self.noise, self.correlated, self.faceless = noise, correlated, faceless_previews

    def final(self, seed: int) -> float:
        return float(np.random.default_rng(seed).uniform(0.1, 0.7))

    def encode_prompt(self, prompt: str) -> Conditioning:
        return Conditioning(prompt, None)

    def decode_latents(self, latents: torch.Tensor) -> list[np.ndarray]:
        return [_picture_of(float(value)) for value in latents.flatten()]

    def free_memory(self) -> None: ...

    def sample(self, request: SampleRequest, on_step: StepCallback | None = None) -> SampleResult:
        alive = tuple(range(len(request.seeds)))
        for step in range(1, request.steps + 1):
            views = torch.tensor([self._preview(request.seeds[row], step, request.steps) for row in alive])
            keep = None if on_step is None else on_step(StepView(step, request.steps, alive, views.view(-1, 1, 1, 1)))
            alive = alive if keep is None else tuple(row for row in alive if row in set(keep))
            if not alive:
                break
        return SampleResult(alive, torch.tensor([self.final(request.seeds[row]) for row in alive]).view(-1, 1, 1, 1))

    def _preview(self, seed: int, step: int, total: int) -> float:
        if self.faceless:
            return -1.0
        rng = np.random.default_rng((seed, step))
        if not self.correlated:
            return float(rng.uniform(0.1, 0.9))
        return float(np.clip(self.final(seed) + rng.normal(0.0, self.noise * (1.0 - step / total)), 0.0, 1.0))


def _picture_of(number: float) -> np.ndarray:
    picture = np.zeros((64, 64, 3), np.uint8)
    if number >= 0.0:
        value = round(number * 65000) + 1
        picture[..., 0], picture[..., 1] = value >> 8, value & 255
    return picture


class NumberMeter:
    """Reads a NumberEngine's pictures."""

    recogniser = "numbers"
    reference = np.zeros(1, np.float32)
    reader = SimpleNamespace(recogniser=SimpleNamespace(sha256="1" * 64), detector=SimpleNamespace(sha256="2" * 64))

    def measure_one(self, image: np.ndarray) -> Drift:
        value = (int(image[0, 0, 0]) << 8) + int(image[0, 0, 1])
        return Drift(1.0, None, "numbers") if value == 0 else Drift((value - 1) / 65000, object(), "numbers")  # type: ignore[arg-type]

    def measure(self, images: Sequence[np.ndarray]) -> list[Drift]:
        return [self.measure_one(image) for image in images]


def numbers(engine: NumberEngine, identity, folder: Path, first: int = 0, **changes) -> SearchReport:
    spec = SearchSpec(render_with(steps=16), first_seed=first, count=64, batch=8, control=16)
    meters = Meters(NumberMeter())  # type: ignore[arg-type]
    return search_seeds(engine, None, identity, meters, replace(spec, **changes), (64, 64), folder)  # type: ignore[arg-type]


def test_previews_that_rank_well_save_half_the_work_and_keep_the_best(identity, tmp_path):
    kept, costs = 0, []
    for run in range(8):
        engine = NumberEngine(noise=0.05)
        report = numbers(engine, identity, tmp_path / str(run), first=1000 * run, control=8)
        best = min(range(1000 * run, 1000 * run + 64), key=engine.final)
        assert len(report.results) == 64
        assert all(rho is not None and rho > 0.6 for rho in report.correlations) and report.notes == ()
        kept += report.best.seed == best
        costs.append(report.cost)
    assert kept >= 7
    assert np.mean(costs) <= 0.5 and max(costs) <= 0.6


def test_previews_that_rank_nothing_prune_nothing_and_it_says_so(identity, tmp_path):
    for run in range(4):
        report = numbers(NumberEngine(0.0, correlated=False), identity, tmp_path / str(run), first=1000 * run)
        assert len(report.full) == 64 and report.cost == 1.0
        (note,) = report.notes
        assert note.startswith("Previews were not trusted in this run") and "every seed was rendered in full" in note


def test_a_preview_without_a_face_is_unknown_and_not_bad(identity, tmp_path):
    report = numbers(NumberEngine(0.0, faceless_previews=True), identity, tmp_path / "never")
    assert all(r.finished and r.previews == (None, None) for r in report.results)
    assert report.correlations == (None, None) and "unknown" in report.notes[0]

    class LateFaces(NumberEngine):
        def _preview(self, seed: int, step: int, total: int) -> float:
            return -1.0 if seed >= 24 else super()._preview(seed, step, total)

    late = numbers(LateFaces(0.02), identity, tmp_path / "late")
    assert any(not r.finished for r in late.results[16:24])
    assert all(r.finished for r in late.results[24:])


def test_dropped_seeds_say_where(identity, tmp_path):
    report = numbers(NumberEngine(0.05), identity, tmp_path)
    first = [r for r in report.results if r.dropped_at == 0]
    second = [r for r in report.results if r.dropped_at == 1]
    assert first and second
    assert all(len(r.previews) == 1 for r in first) and all(len(r.previews) == 2 for r in second)
    assert max(r.previews[0] for r in second) <= min(r.previews[0] for r in first) + 0.2
    assert all(isinstance(r, SeedResult) and r.drift is None and not r.detected for r in first + second)


def test_without_rungs_every_seed_is_rendered_and_nothing_is_said(identity, tmp_path):
    report = numbers(NumberEngine(0.05), identity, tmp_path, rungs=(), count=20)
    assert len(report.full) == 20 and report.cost == 1.0 and report.notes == () and report.correlations == ()
