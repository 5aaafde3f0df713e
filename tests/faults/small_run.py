"""`identity-lock run`, whole, on an engine so small that it takes seconds; and the points at which it can be hit.

Real files, layers, recognisers and schedulers. A point is a moment between two of them: before a file is opened,
renamed, linked or removed, before it is flushed, in the middle of a write, before a forward pass of the model, after a
training step. Points are numbered as they come, and the same run comes by the same points.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from identity_lock import cli, own_photos, pipeline
from identity_lock.demo import settings
from identity_lock.safety import atomic
from identity_lock.tests.fixtures.tiny_engine import CONSENT, HOPPER, phase, square, tiny_engine
from identity_lock.training import loop
from identity_lock.training.phases import ProbeSpec

SIZE = 128
CHECKPOINT_EVERY = 2
SEEDS = 12
ARGUMENTS = (
    "run", str(HOPPER), "--consent", CONSENT, "--name", "Grace", "--description", "woman", "--size", str(SIZE),
    "--seeds", str(SEEDS), "--scene", "red background", "--scene", "green background",
)  # fmt: skip
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def run(
    out: str,
    *,
    die_at: int = 0,
    points_to: str = "",
    photo: str = "",
    base: int = 0,
    style: int = 7,
    clock_runs_backwards: bool = False,
) -> int:
    """die_at: the number of the point at which SIGKILL comes. points_to: a file for the list of all points. photo:
    instead of the usual one. base, style: seeds of the weights of the two engines."""
    points = Points(Path(out), die_at)
    shorten(base, style)
    if clock_runs_backwards:
        run_clock_backwards()
    points.watch()
    code = cli.main([*(photo if part == str(HOPPER) and photo else part for part in ARGUMENTS), "--out", out])
    if points_to:
        Path(points_to).write_text(json.dumps(points.seen))
    print(f"points {len(points.seen)}", flush=True)
    return code


def shorten(base: int = 0, style: int = 7) -> None:
    """A few steps of everything, on engines that draw a real photo with flaws, so that drifts lie about the lock."""
    photo = square(HOPPER, SIZE)
    phases = (
        phase("COARSE", 1e-2, 8.0, "mse", "adamw", 3),
        phase("MID", 3e-3, 4.0, "huber", "adamw", 3),
        phase("MID_FINE", 1e-3, 2.0, "charbonnier", "adamp", 3),
        phase("FINAL_FINE", 5e-4, 1.0, "charbonnier", "adamp", 2),
    )
    probe = replace(settings.DEMO_PLAN.identity_probe, steps=2, every=6)
    plan = replace(
        settings.DEMO_PLAN, phases=phases, rank=4, targets="attention", batch=2, identity_probe=probe,
        probe=ProbeSpec(pairs=8, every=3), checkpoint_every=CHECKPOINT_EVERY,
    )  # fmt: skip
    changes: dict[str, Any] = {"DEMO_PLAN": plan, "SAMPLING": settings.SAMPLING | {"steps": 4}}
    for name, value in (changes | {"DEMO_JITTER": replace(settings.DEMO_JITTER, copies=1)}).items():
        setattr(settings, name, value)
    make_spec = own_photos.make_spec

    def small_spec(*given: Any) -> Any:
        spec = make_spec(*given)
        return replace(spec, search=replace(spec.search, batch=4), untrained=2)

    changes = {
        "PROBE_SEEDS": 1,
        "make_spec": small_spec,
        "_open": lambda checkpoint: tiny_engine(seed=base, origin=photo),
        "_open_style": lambda args: tiny_engine(seed=style, origin=photo),
    }
    for name, value in changes.items():
        setattr(own_photos, name, value)


def run_clock_backwards() -> None:
    """Whoever asks for the time is told an hour less than whoever asked before, from a random day on."""
    hours = itertools.count(random.SystemRandom().randrange(24 * 365))

    def now() -> float:
        return 1.7e9 - 3600.0 * next(hours)

    class Backwards(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime.fromtimestamp(now(), tz)

    time.time = now
    for module in [module for name, module in sys.modules.items() if name.startswith("identity_lock.")]:
        if getattr(module, "datetime", None) is datetime:
            module.datetime = Backwards  # type: ignore[attr-defined]


class Points:
    """Numbers the points of this process's run, from 1, and dies at one of them."""

    def __init__(self, out: Path, die_at: int) -> None:
        self.out, self.die_at = str(out), die_at
        self.stage = "before"
        self.seen: list[tuple[str, str]] = []  # (stage, kind)

    def watch(self) -> None:
        sys.addaudithook(self._hear)  # the interpreter tells of these before it does them
        self._before_flushing()
        self._in_the_middle_of_writes()
        self._in_stages()
        self._in_the_model()

    def __call__(self, kind: str, last_words: Callable[[], Any] = lambda: None) -> None:
        self.seen.append((self.stage, kind))
        if len(self.seen) == self.die_at:
            last_words()
            os.kill(os.getpid(), signal.SIGKILL)

    def _hear(self, event: str, given: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.truncate"):
            return
        if event == "open" and not (isinstance(given[2], int) and given[2] & WRITES):
            return
        if isinstance(given[0], str | os.PathLike) and os.fspath(given[0]).startswith(self.out):
            self(event)

    def _before_flushing(self) -> None:
        flush = os.fsync

        def flushing(handle: int) -> None:
            self("flush")
            flush(handle)

        os.fsync = flushing  # type: ignore[assignment]

    def _in_the_middle_of_writes(self) -> None:
        write_bytes, write_text = Path.write_bytes, Path.write_text

        def half_bytes(path: Path, content: bytes) -> int:
            if str(path).startswith(self.out):
                self("half a file", lambda: write_bytes(path, content[: len(content) // 2]))
            return write_bytes(path, content)

        def half_text(path: Path, content: str, *more: Any, **options: Any) -> int:
            if str(path).startswith(self.out):
                self("half a file", lambda: write_text(path, content[: len(content) // 2]))
            return write_text(path, content, *more, **options)

        Path.write_bytes = half_bytes  # type: ignore[method-assign,assignment]
        Path.write_text = half_text  # type: ignore[method-assign,assignment]
        open_to_write = atomic.open_to_write
        atomic.open_to_write = lambda path: Torn(  # type: ignore[assignment,return-value]
            open_to_write(path), lambda last_words: self("half a line", last_words)
        )

    def _in_stages(self) -> None:
        real = pipeline._stage

        @contextmanager
        def stage(name: str, seconds: dict[str, float]) -> Iterator[None]:
            self.stage = name
            with real(name, seconds):
                yield
            self.stage = "after"

        pipeline._stage = stage

    def _in_the_model(self) -> None:
        from identity_lock.engines.diffusers import DiffusersEngine

        forward, tell = DiffusersEngine._forward, loop._Run._tell

        def before(engine: Any, *given: Any) -> Any:
            self("forward")
            return forward(engine, *given)

        def after(run: Any, *given: Any) -> None:
            print(f"\nstep {run.position.step}", flush=True)  # a line of its own, below the progress bars
            self("step")
            tell(run, *given)

        DiffusersEngine._forward = before  # type: ignore[method-assign]
        loop._Run._tell = after  # type: ignore[method-assign]


class Torn:
    """A file whose writes can be cut in half."""

    def __init__(self, file: Any, point: Callable[[Callable[[], Any]], None]) -> None:
        self._file, self._point = file, point

    def write(self, data: Any) -> int:
        self._point(lambda: self._file.write(data[: len(data) // 2]))
        return int(self._file.write(data))

    def __enter__(self) -> Torn:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
