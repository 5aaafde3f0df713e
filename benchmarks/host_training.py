"""A training step on a wired MODEL beside ComfyUI's own TrainLoraNode: seconds and memory, with the same checkpoint.

Needs a ComfyUI: COMFYUI_PATH=... COMFYUI_PYTHON=... python -m benchmarks host_training. Each trainer has a process of
its own; the two take turns of a few steps, so that the machine's moods hit both. "Recomputing" is gradient
checkpointing, as both have it by default. TrainLoraNode runs as it is, in fp32; only for fewer layers is its choice of
them replaced.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from identity_lock.tests.fixtures.tiny_checkpoint import write_sd15
from identity_lock.tests.host.comfyui import ComfyUI, find_comfyui
from identity_lock.tests.host.server import host_environment, link_pack

from .common import Bench, Row

SIZE = 256
BLOCKS = 9  # turns of each trainer, the first of which is warm-up
STEPS = 3  # a turn
TIME_GOAL, MEMORY_GOAL = 0.8, 1.0
SCRIPT = Path(__file__).parent / "inside" / "one_trainer.py"
# As the real SD1.5: a transformer at every level but the deepest, so that gradients have to go nearly all the way back.
LAYOUT: dict[str, Any] = dict(levels=(1, 1, 2), attention=(1, 1, 0), blocks_per_level=1)
LAYERS = {"default": "own layers", "attention": "attention layers in both", "all": "all matrices in both"}


@dataclass(frozen=True)
class Run:
    """One trainer's measurement. seconds: (by the clock, of the processor) of each step, a list a turn, without the
    warm-up. MiB: held with the model loaded; peak of the process; what importing the trainer's libraries added."""

    seconds: list[list[tuple[float, float]]]
    held: float
    peak: float
    libraries: float
    kinds: dict[str, int]
    offsets: dict[str, int]
    parameters: int

    @property
    def step(self) -> float:
        return statistics.median(clock for turn in self.seconds for clock, _ in turn)

    @property
    def processor(self) -> float:
        return statistics.median(processor for turn in self.seconds for _, processor in turn)

    @property
    def turns(self) -> list[float]:
        return [statistics.median(clock for clock, _ in turn) for turn in self.seconds]

    @property
    def used(self) -> float:
        return self.peak - self.held

    @property
    def layers(self) -> str:
        parts = [f"{count} {kind}" for kind, count in (self.kinds | self.offsets).items() if count]
        return f"{' + '.join(parts)} ({self.parameters / 1e6:.2f} M parameters)"


class Trainer:
    """One process of inside/one_trainer.py."""

    def __init__(self, comfy: ComfyUI, package: Path, log: Path, *arguments: object) -> None:
        paths = os.pathsep.join(map(str, (comfy.path, package.parent, package / "tests" / "host" / "inside")))
        threads = str(torch.get_num_threads())
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [str(comfy.python), str(SCRIPT), *map(str, arguments), str(BLOCKS), str(STEPS)],
                cwd=comfy.path,
                env=host_environment(comfy, PYTHONPATH=paths, OMP_NUM_THREADS=threads),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def turn(self) -> list[tuple[float, float]]:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: reading says why
            print(file=self._process.stdin, flush=True)
        return self.answer()

    def answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the trainer ended:\n{self._log.read_text(errors='replace')[-3000:]}")
        return json.loads(line)

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


def side_by_side(
    comfy: ComfyUI, folder: Path, checkpoint: Path, layers: str, checkpointing: tuple[str, str]
) -> tuple[Run, Run]:
    """(ours, the native one). checkpointing: "checkpointed" or "plain", ours and the native one's."""
    package = link_pack(folder / "package")
    trainers = [
        Trainer(comfy, package, folder / f"{which}.log", which, checkpoint, SIZE, layers, how)
        for which, how in zip(("ours", "native"), checkpointing, strict=True)
    ]
    try:
        turns = [[trainer.turn() for trainer in trainers] for _ in range(BLOCKS)][1:]
        told = [trainer.answer() for trainer in trainers]
    finally:
        for trainer in trainers:
            trainer.end()
    ours, native = (Run([turn[side] for turn in turns], **told[side]) for side in (0, 1))
    return ours, native


def rows(layers: str, checkpointed: bool, ours: Run, native: Run) -> Iterator[Row]:
    what = f"{LAYERS[layers]}{', recomputing' if checkpointed else ''}"
    by_turn = [a / b for a, b in zip(ours.turns, native.turns, strict=True)]
    ratio = ours.step / native.step
    yield Row(
        f"step / native: {what}",
        f"{ratio:.2f}",
        f"<= {TIME_GOAL}",
        ratio <= TIME_GOAL,
        f"{ours.step:.2f} s over {native.step:.2f} s, {len(by_turn)} turns of {STEPS} steps from {min(by_turn):.2f} to "
        f"{max(by_turn):.2f}; processor time {ours.processor:.2f} s over {native.processor:.2f} s, "
        f"{ours.processor / native.processor:.2f}",
    )
    ratio = ours.used / native.used
    yield Row(
        f"memory / native: {what}",
        f"{ratio:.2f}",
        f"<= {MEMORY_GOAL}",
        ratio <= MEMORY_GOAL,
        f"{ours.used:.0f} MiB above the loaded model, {ours.libraries:.0f} of it for importing PEFT, over "
        f"{native.used:.0f}; whole process {ours.peak:.0f} over {native.peak:.0f}",
    )
    if not checkpointed:
        yield Row(f"weights / native: {what}", f"{ours.parameters / native.parameters:.2f}", "told apart", None,
            f"trained are {ours.layers} over {native.layers}")  # fmt: skip


def measure(_: Bench | None) -> Iterator[Row]:
    try:
        comfy = find_comfyui()
    except FileNotFoundError as wrong:
        sys.exit(str(wrong))
    if comfy is None:
        sys.exit("host_training needs a ComfyUI: set COMFYUI_PATH to its folder and COMFYUI_PYTHON to its Python.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = write_sd15(folder / "sd15.safetensors", dtype=torch.float32, **LAYOUT)
        for layers in LAYERS:
            for how in ("checkpointed", "plain"):
                ours, native = side_by_side(comfy, folder, checkpoint, layers, (how, how))
                yield from rows(layers, how == "checkpointed", ours, native)
