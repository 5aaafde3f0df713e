"""Drift seed search (paper, section 4): render many seeds, measure each, fix the best.

Cost is saved by looking at previews: each sampling step predicts the finished picture, whose drift ranks the final one
well. At each rung of a ladder only the best share of the previews goes on (successive halving, Jamieson & Talwalkar
2016). Whether previews can be trusted is measured in the same run: control seeds are rendered in full, and pruning
starts only once early and final drift of those agree in rank. Controls are also the honest, unpruned distribution.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..engines.lora_file import LoraWeights
from ..engines.memory import by_rows
from ..engines.protocol import Engine, SampleRequest, StepView
from ..errors import RenderError
from ..identity.drift import LOCK_THRESHOLD
from ..identity.identity import Identity
from ..safety import index
from ..safety.atomic import make_folder
from ..safety.c2pa_signing import Signer
from ..safety.fingerprint import fingerprint, swapped
from ..safety.json_lines import append_records, damaged, keep_lines, read_lines
from ..safety.lock import only_one
from ..safety.provenance import read_png
from ..safety.untrusted import from_json
from .log import Meters, RenderLog, RenderRecord, outcome
from .passes import PassSpec, made_with, models_used, no_memory

JOURNAL_NAME = "seeds.jsonl"
LOCK_NAME = ".search.lock"
_REMEDY = "delete that line (its seed is rendered again), or give another folder"
SEED_LIMIT = 2**64


@dataclass(frozen=True)
class Rung:
    """at: share of the steps after which previews are measured; keep: share of them, the best, that goes on."""

    at: float
    keep: float


def parse_rungs(text: str) -> tuple[Rung, ...]:
    """'0.25:0.30, 0.50:0.40' -> after a quarter of the steps the best 30 % go on, after half of them 40 % of those.

    Raises RenderError for anything else; an empty text is no rung.
    """
    rungs = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        at, _, keep = part.partition(":")
        try:
            rung = Rung(float(at), float(keep))
        except ValueError:
            raise RenderError(f'The rung "{part}" is not two numbers; write rungs as "0.25:0.30, 0.50:0.40".') from None
        if not 0.0 < rung.at < 1.0 or not 0.0 < rung.keep <= 1.0:
            raise RenderError(
                f'The rung "{part}" is out of range: the share of the steps lies inside 0 and 1, '
                "and the share that goes on is above 0 and at most 1."
            )
        rungs.append(rung)
    return tuple(sorted(rungs, key=lambda rung: rung.at))


@dataclass(frozen=True)
class SearchSpec:
    """count seeds from first_seed on. control: how many of them are always rendered in full, first of all.
    min_correlation: Spearman's rho between preview and final drift, over the full renders, below which nothing is
    pruned. stop_after_locked: end as soon as so many seeds are locked; None searches them all."""

    render: PassSpec
    first_seed: int = 1187891159
    count: int = 64
    batch: int = 8
    control: int = 8
    rungs: tuple[Rung, ...] = (Rung(0.25, 0.30), Rung(0.50, 0.40))
    min_correlation: float = 0.4
    stop_after_locked: int | None = None
    threshold: float = LOCK_THRESHOLD

    def __post_init__(self) -> None:
        if self.count < 1 or self.batch < 1 or not 0 <= self.first_seed <= SEED_LIMIT - self.count:
            raise RenderError(
                f"The seed range of {self.count} seeds from {self.first_seed} in batches of {self.batch} is empty or "
                "leaves 0 .. 2^64-1; give at least one seed and a smaller first seed."
            )
        if any(not 0.0 < r.at < 1.0 or not 0.0 < r.keep <= 1.0 for r in self.rungs):
            raise RenderError("Each rung of the search needs `at` inside (0, 1) and `keep` in (0, 1].")

    @property
    def seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.count)


@dataclass(frozen=True)
class SeedResult:
    """One seed. drift: of the finished picture, None where it was pruned. previews: one for each rung reached, None
    where it showed no face yet. dropped_at: the rung that pruned it. full: it was never at risk of being pruned."""

    seed: int
    drift: float | None
    detected: bool
    report_drift: float | None
    previews: tuple[float | None, ...]
    dropped_at: int | None
    full: bool
    file: str | None

    @property
    def finished(self) -> bool:
        return self.drift is not None


@dataclass(frozen=True)
class SearchReport:
    """results: in the order of the seeds. correlations: a rung's Spearman rho over the full renders, None if unknown.
    cost: row steps computed over those of rendering every seed looked at in full."""

    results: tuple[SeedResult, ...]
    correlations: tuple[float | None, ...]
    cost: float
    folder: str
    notes: tuple[str, ...] = field(default=())

    @property
    def finished(self) -> list[SeedResult]:
        """Best first; ties keep the order of the seeds."""
        return sorted((r for r in self.results if r.finished), key=lambda r: (r.drift, r.seed))

    @property
    def best(self) -> SeedResult:
        return self.finished[0]

    def picture(self, result: SeedResult) -> np.ndarray:
        """uint8 RGB (H, W, 3) of a finished seed. Raises PhotoError where its file is gone or damaged."""
        return read_png(Path(self.folder) / str(result.file))

    @property
    def full(self) -> list[SeedResult]:
        """The renders that no preview selected: the honest distribution."""
        return [r for r in self.results if r.full and r.finished]


@dataclass(frozen=True)
class SearchProgress:
    """latest: the results of the batch just rendered; of those that the journal already held on the first call."""

    done: int
    total: int
    best: SeedResult | None
    latest: tuple[SeedResult, ...] = ()


def search_seeds(
    engine: Engine,
    lora: LoraWeights | None,
    identity: Identity,
    meters: Meters,
    spec: SearchSpec,
    size: tuple[int, int],
    folder: Path,
    *,
    on_progress: Callable[[SearchProgress], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    signer: Signer | None = None,
) -> SearchReport:
    """size: (width, height). folder: keeps a journal and each finished picture; a search started again on it goes on
    with the batches that are missing. signer: signs each picture, those of an earlier run too. Raises PromptRefused,
    RenderError (a journal of another search, another process at work in the folder, no memory), JournalDamaged,
    OutputError."""
    spec.render.require_allowed()
    index.introduce(identity.person)
    with only_one(make_folder(folder), LOCK_NAME, lambda holder: _busy(folder, holder)):
        journal = _Journal(folder, search_fingerprint(engine, lora, meters, spec, size), identity.id, signer)
        search = _Search(engine, lora, identity, meters, spec, size, journal)
        return _searched(search, on_progress, should_stop)


def _busy(folder: Path, holder: str) -> RenderError:
    return RenderError(
        f"Another search{holder} is at work in {folder}; wait for it or stop it, and start this one again then."
    )


def _searched(
    search: _Search, on_progress: Callable[[SearchProgress], None] | None, should_stop: Callable[[], bool]
) -> SearchReport:
    spec, journal = search.spec, search.journal

    def tell(latest: Sequence[SeedResult]) -> None:
        if on_progress is not None and latest:
            on_progress(SearchProgress(len(journal.results), spec.count, search.best, tuple(latest)))

    tell(search.results)
    for batch, full in search.batches():
        if spec.stop_after_locked is not None and search.locked >= spec.stop_after_locked:
            break
        if should_stop():
            raise SearchStopped(
                f"The seed search stopped after {len(journal.results)} of {spec.count} seeds; they are kept in "
                f"{journal.folder}, and the same search started again goes on from there."
            )
        search.run_batch(batch, full)
        tell([journal.results[seed] for seed in batch])
    if not any(r.finished for r in journal.results.values()):
        raise RenderError("The seed search finished no seed; give it more seeds or rungs that keep more.")
    return search.report()


class SearchStopped(RenderError):
    """The user asked to stop: what is finished is in the journal."""


class _Search:
    def __init__(
        self,
        engine: Engine,
        lora: LoraWeights | None,
        identity: Identity,
        meters: Meters,
        spec: SearchSpec,
        size: tuple[int, int],
        journal: _Journal,
    ) -> None:
        self.engine, self.lora, self.identity, self.meters = engine, lora, identity, meters
        self.spec, self.size, self.journal = spec, size, journal
        self.positive = engine.encode_prompt(spec.render.prompt)
        self.negative = engine.encode_prompt(spec.render.negative)
        self.row_steps = journal.row_steps
        self.at_once = spec.batch  # rows that memory has room for
        self.notes: list[str] = []
        # the preview drifts that set each rung's cut: of every row that reached the rung, in the order met
        self.rungs_at = [max(1, round(r.at * spec.render.steps)) for r in spec.rungs]

    @property
    def results(self) -> list[SeedResult]:
        return [self.journal.results[s] for s in self.spec.seeds if s in self.journal.results]

    @property
    def best(self) -> SeedResult | None:
        finished = [r for r in self.results if r.finished]
        return min(finished, key=lambda r: (r.drift, r.seed)) if finished else None

    @property
    def locked(self) -> int:
        return sum(r.finished and r.drift is not None and r.drift <= self.spec.threshold for r in self.results)

    def batches(self) -> Iterator[tuple[list[int], bool]]:
        """(seeds, rendered in full): controls first; after them, full as long as previews cannot be trusted."""
        seeds = list(self.spec.seeds)
        for part, control in ((seeds[: self.spec.control], True), (seeds[self.spec.control :], False)):
            missing = [s for s in part if s not in self.journal.results]
            for start in range(0, len(missing), self.spec.batch):
                yield missing[start : start + self.spec.batch], control or not self.trusted()

    def trusted(self) -> bool:
        if not self.spec.rungs:
            return False
        return all(rho is not None and rho >= self.spec.min_correlation for rho in self.correlations())

    def correlations(self) -> tuple[float | None, ...]:
        from scipy.stats import spearmanr

        values: list[float | None] = []
        for rung in range(len(self.spec.rungs)):
            pairs = [
                (r.previews[rung], r.drift)
                for r in self.results
                if r.full and r.detected and len(r.previews) > rung and r.previews[rung] is not None
            ]
            rho = float(spearmanr(*zip(*pairs, strict=True)).statistic) if len(pairs) >= 5 else math.nan
            values.append(None if math.isnan(rho) else rho)
        return tuple(values)

    def cut(self, rung: int) -> float:
        """The preview drift up to which a row goes on from this rung: a quantile of those that came as far."""
        reached = [
            r.previews[rung]
            for r in self.results
            if len(r.previews) > rung and r.previews[rung] is not None and self._would_reach(r, rung)
        ]
        return float(np.quantile(np.array(reached, float), self.spec.rungs[rung].keep)) if reached else math.inf

    def _would_reach(self, result: SeedResult, rung: int) -> bool:
        if not result.full:
            return True
        return all(p is None or p <= self.cut(i) for i, p in enumerate(result.previews[:rung]))

    def run_batch(self, seeds: list[int], full: bool) -> None:
        """Renders a batch, in smaller parts where memory runs out, and journals it as a whole. After a kill the search
        goes on from the end of a batch: its batches, cuts and pictures are those of a search that was left alone."""
        cuts = [math.inf if full else self.cut(i) for i in range(len(self.spec.rungs))]
        try:
            parts, at_once = by_rows(
                seeds, self.at_once, lambda part: self._render(part, cuts), self.engine.free_memory
            )
        except MemoryError as error:
            raise no_memory(self.size, str(error)) from error
        if at_once < min(self.at_once, len(seeds)):
            self.notes.append(
                f"Memory ran out over a batch; from seed {seeds[0]} on, {at_once} at a time were rendered, each as it "
                "would be alone."
            )
            self.at_once = at_once
        self.row_steps += sum(part.row_steps for part in parts)
        rows = [row for part in parts for row in part.rows]
        self.journal.add([self._finish(*row, full) for row in rows], self.row_steps)

    def _render(self, seeds: Sequence[int], cuts: Sequence[float]) -> _Rendered:
        previews: dict[int, list[float | None]] = {row: [] for row in range(len(seeds))}
        dropped: dict[int, int] = {}
        row_steps = 0

        def look(view: StepView) -> list[int] | None:
            nonlocal row_steps
            row_steps += len(view.rows)
            if view.step not in self.rungs_at or view.step == view.total:
                return None
            rung = self.rungs_at.index(view.step)
            drifts = self.meters.selection.measure(self.engine.decode_latents(view.x0))
            keep = []
            for row, drift in zip(view.rows, drifts, strict=True):
                value = drift.value if drift.detected else None
                previews[row].append(value)
                if value is None or value <= cuts[rung]:  # no face in a preview is unknown, not bad
                    keep.append(row)
                else:
                    dropped[row] = rung
            return keep

        render = self.spec.render
        result = self.engine.sample(
            SampleRequest(
                positive=self.positive,
                negative=self.negative,
                seeds=tuple(seeds),
                width=self.size[0],
                height=self.size[1],
                steps=render.steps,
                cfg=render.cfg,
                sampler=render.sampler,
                scheduler=render.scheduler,
                lora=self.lora,
                strength=render.strength,
            ),
            look,
        )
        images = dict(zip(result.rows, self.engine.decode_latents(result.latents), strict=True))
        return _Rendered(
            [(seed, tuple(previews[row]), images.get(row), dropped.get(row)) for row, seed in enumerate(seeds)],
            row_steps,
        )

    def _finish(
        self, seed: int, previews: tuple[float | None, ...], image: np.ndarray | None, rung: int | None, full: bool
    ) -> SeedResult:
        if image is None:
            return SeedResult(seed, None, False, None, previews, rung, full, None)
        drift, report = self.meters.selection.measure_one(image), self.meters.report(image)
        record = RenderRecord(
            kind="seed_search",
            seed=seed,
            passes={"anchor": self.spec.render.describe()},
            models=models_used(self.engine, self.lora),
            identity=self.identity.name,
            identity_id=self.identity.id,
            consent=self.identity.consent,
            **outcome(drift, report, self.spec.threshold),
        )
        path = self.journal.log.write(image, f"seed_{seed}", record)
        value = None if report is None else report.value
        return SeedResult(seed, drift.value, drift.detected, value, previews, None, full, path.name)

    def report(self) -> SearchReport:
        results = tuple(self.results)
        notes = list(self.notes)
        rhos = self.correlations()
        if self.spec.rungs and not self.trusted():
            notes.append(
                "Previews were not trusted in this run (rank correlation "
                f"{', '.join('unknown' if r is None else f'{r:.2f}' for r in rhos)}); every seed was rendered in full."
            )
        cost = self.row_steps / (len(results) * self.spec.render.steps)
        return SearchReport(results, rhos, cost, str(self.journal.folder), tuple(notes))


@dataclass(frozen=True)
class _Rendered:
    """rows: seed, previews, the picture or None, the rung that dropped it or None; as _Search._finish takes them."""

    rows: list[tuple[int, tuple[float | None, ...], np.ndarray | None, int | None]]
    row_steps: int


class _Journal:
    """One JSON line a seed, appended batch by batch; the first line says which search it belongs to.

    to_come: how many lines of its batch follow. A batch that is not there to its end counts as not rendered, and so
    does a seed whose picture is gone.
    """

    def __init__(self, folder: Path, fingerprint: str, person: str, signer: Signer | None = None) -> None:
        self.folder, self.path = folder, folder / JOURNAL_NAME
        index.made(person, "journal", self.path)
        self.log = RenderLog(folder, signer=signer)
        self.results: dict[int, SeedResult] = {}
        self.row_steps = 0
        lines = self._read()
        if not lines:
            append_records(self.path, [{"search": fingerprint}])
        elif changed := swapped(str(lines[0].get("search")), fingerprint):
            raise RenderError(
                f"{self.path} belongs to a search of another kind: {changed} changed since. Put back what was there, "
                "give another folder, or delete this one to start afresh."
            )
        for number, line in enumerate(lines[1:], start=2):
            try:
                self._replay(line)
            except (KeyError, ValueError) as error:
                raise damaged(self.path, number, _REMEDY) from error
        if signer is not None:
            for name in filter(None, (result.file for result in self.results.values())):
                signer.sign_file(folder / name)

    def _read(self) -> list[dict[str, Any]]:
        """What a kill cut short at the end is dropped, back to the last whole batch; it is rendered again."""
        lines = list(read_lines(self.path, _REMEDY))
        whole = len(lines)
        while whole and lines[whole - 1].get("to_come", 0):
            whole -= 1
        if whole != len(lines):
            keep_lines(self.path, whole)
        return lines[:whole]

    def _replay(self, line: dict[str, Any]) -> None:
        """Raises KeyError, ValueError for a line that no search wrote."""
        self.row_steps = from_json(int, line.pop("row_steps"))
        line.pop("to_come")
        result = from_json(SeedResult, line)
        # The picture's name is known from its seed: another one might lead out of the folder.
        if result.file != (f"seed_{result.seed}.png" if result.finished else None):
            raise ValueError("a finished seed has a picture of its own name")
        if result.file is None or (self.folder / result.file).is_file():
            self.results[result.seed] = result

    def add(self, results: Sequence[SeedResult], row_steps: int) -> None:
        """row_steps: of the whole search, up to the end of this batch."""
        last = len(results) - 1
        lines = [asdict(r) | {"row_steps": row_steps, "to_come": last - i} for i, r in enumerate(results)]
        append_records(self.path, lines)
        self.results |= {result.seed: result for result in results}


def search_fingerprint(
    engine: Engine, lora: LoraWeights | None, meters: Meters, spec: SearchSpec, size: tuple[int, int]
) -> str:
    """Of what a seed's picture and drift depend on; the number of seeds may grow from one run to the next."""
    kept = {k: v for k, v in asdict(spec).items() if k not in ("count", "batch", "stop_after_locked", "control")}
    settings = json.dumps(kept, sort_keys=True)
    return fingerprint(**made_with(engine, lora, meters), settings=settings, size=f"{size[0]} x {size[1]}")
