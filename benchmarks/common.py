"""What the benchmarks share: the demo's engine and data, alternating timing, and the row of the table."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from identity_lock.demo.settings import SIZE, demo_spec
from identity_lock.demo.subjects import BASE, Subject, synthetic
from identity_lock.engines.diffusers import DiffusersEngine, open_demo_base
from identity_lock.engines.lora_file import LoraWeights, read_lora
from identity_lock.identity.faces import default_detector
from identity_lock.identity.identity import Identity, build_identity
from identity_lock.identity.prepare import prepare_all
from identity_lock.pipeline import PipelineSpec
from identity_lock.rendering.log import Meters
from identity_lock.training.augment import training_images
from identity_lock.training.loop import train
from identity_lock.training.training_set import TrainingSet, build_training_set


@dataclass(frozen=True)
class Row:
    """One line of the table. goal: as text; met: None where there is none."""

    name: str
    value: str
    goal: str
    met: bool | None
    detail: str


@dataclass(frozen=True)
class Bench:
    """The synthetic subject, ready to train."""

    subject: Subject
    spec: PipelineSpec
    engine: DiffusersEngine
    identity: Identity
    meters: Meters
    data: TrainingSet
    lora: LoraWeights | None  # a LoRA of the subject that is there already, or None

    def trained(self) -> LoraWeights:
        """The LoRA given, or one that the demo's plan trains now."""
        if self.lora is not None:
            return self.lora
        with tempfile.TemporaryDirectory() as folder:
            plan, meter = self.spec.plan, self.meters.selection
            return train(self.engine, self.data, meter, plan, Path(folder), size=self.spec.size)[0]


def bench(lora: Path | None = None) -> Bench:
    subject = synthetic()
    spec = demo_spec(subject)
    engine = open_demo_base(BASE)
    photos = subject.read()
    identity = build_identity(photos, name=subject.name, consent=subject.consent)
    prepared = prepare_all(photos, default_detector(), spec.prep)
    images = training_images(prepared, [subject.photos[p.source] for p in prepared], SIZE, spec.jitter)
    data = build_training_set(engine, images, background_weight=spec.plan.background_weight)
    return Bench(subject, spec, engine, identity, Meters.of(identity), data, None if lora is None else read_lora(lora))


def ratio_of_medians(ours: Callable[[], object], bare: Callable[[], object], rounds: int) -> tuple[float, float, float]:
    """(ratio, median seconds of ours, of the bare one); the two alternate, so that the machine's moods hit both."""
    times: tuple[list[float], list[float]] = ([], [])
    for round_ in range(rounds + 2):
        for which, call in enumerate((ours, bare)):
            started = time.perf_counter()
            call()
            if round_ >= 2:  # the first two are warm-up
                times[which].append(time.perf_counter() - started)
    a, b = (statistics.median(t) for t in times)
    return a / b, a, b
