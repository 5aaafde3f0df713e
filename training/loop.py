"""The training run: four phases, each ended by budget or by the plateau test; the LoRA kept is the best by identity."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..engines.lora_file import LoraWeights
from ..engines.memory import RanOut, attempt, out_of_memory, what_it_said
from ..engines.protocol import Conditioning, Engine, TrainableDenoiser
from ..errors import OutputError, TrainingError
from ..identity.drift import DriftMeter
from ..safety import index
from ..safety.atomic import make_folder
from ..safety.fingerprint import fingerprint
from ..safety.lock import only_one
from ..safety.untrusted import from_json
from .checkpoint import (
    FORMAT,
    Checkpoint,
    load_checkpoint,
    restore_optimizer,
    restoring,
    save_checkpoint,
    step_generator,
)
from .lora import Adapter, adapted
from .losses import huber_delta, loss_map, masked_mean
from .optimizers import make_optimizer, warmup_factor
from .phases import PhaseSpec, TrainingPlan
from .plateau import PlateauDetector
from .probes import DenoisingProbe, IdentityProbe
from .report import PhaseReport, Progress, TrainingReport
from .training_set import TrainingSet

CHECKPOINT_NAME = "training.safetensors"
LOCK_NAME = ".training.lock"


class TrainingStopped(TrainingError):
    """The user asked to stop: the checkpoint is written, and the same call goes on from it."""


@dataclass
class _Position:
    """Where a run stands; everything in it goes into the checkpoint."""

    step: int = 0  # optimizer steps done
    phase: int = 0
    phase_step: int = 0
    delta: float | None = None  # Huber's, measured when its phase began
    unseen: bool = False  # the step is done, its probes are not
    at_once: int = 0  # pictures of a batch computed at a time, once memory ran out over all of them; 0 is all


@dataclass(frozen=True)
class _Batch:
    """Pictures, noise and captions of one batch, drawn before anything is computed: the draws stay the same however
    large the parts are that it is computed in. rows, t: (N,); eps (N, C, h, w)."""

    rows: Tensor
    t: Tensor
    eps: Tensor
    conditioning: tuple[Conditioning, ...]

    def parts(self, size: int) -> Iterator[_Batch]:
        for start in range(0, len(self.rows), size):
            part = slice(start, start + size)
            yield _Batch(self.rows[part], self.t[part], self.eps[part], self.conditioning[part])


def train(
    engine: Engine,
    data: TrainingSet,
    meter: DriftMeter,
    plan: TrainingPlan,
    folder: Path,
    *,
    reporting: DriftMeter | None = None,
    person: index.Person | None = None,
    name: str = "identity",
    size: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[LoraWeights, TrainingReport]:
    """Trains a LoRA on `data` and returns the one with the lowest identity drift, and the report of the run.

    meter: the selection recogniser; reporting: another, measured beside it and never consulted. person: whom the data
    shows; their id and consent travel with the LoRA, and its files are filed under them. size: side in pixels of
    the identity probe's renders. folder: keeps the checkpoint; a run that was killed or stopped goes on from it to the
    bit-identical LoRA.
    Raises TrainingError (NaN in the loss, no memory, a checkpoint of another run, another process at work in the
    folder), OutputError and TrainingStopped.
    """
    size = size or engine.card.native_size
    probe = IdentityProbe(engine, meter, plan.identity_probe, size, reporting)
    trained_as = training_fingerprint(engine, data, meter, plan, size, reporting)
    run = _Run(engine, data, meter, plan, folder, trained_as, probe, person, on_progress, should_stop)
    with only_one(make_folder(folder), LOCK_NAME, lambda holder: _busy(folder, holder)), engine.trainable() as denoiser:
        first = plan.phases[0]
        options: dict[str, Any] = dict(rank=plan.rank, alpha=first.alpha, targets=plan.targets, seed=plan.seed)
        if plan.gradient_checkpointing:
            denoiser.checkpoint_gradients()
        with adapted(denoiser, **options) as adapter:
            try:
                return run.train(denoiser, adapter, name)
            except Exception as error:
                if out_of_memory(error):
                    raise run.no_memory(what_it_said(error)) from error
                raise


def _busy(folder: Path, holder: str) -> TrainingError:
    return TrainingError(
        f"Another trainer{holder} is at work in {folder}; wait for it or stop it, and start this run again then."
    )


class _Run:
    def __init__(
        self,
        engine: Engine,
        data: TrainingSet,
        meter: DriftMeter,
        plan: TrainingPlan,
        folder: Path,
        trained_as: str,
        identity_probe: IdentityProbe,
        person: index.Person | None,
        on_progress: Callable[[Progress], None] | None,
        should_stop: Callable[[], bool],
    ) -> None:
        self.engine, self.data, self.plan, self.path = engine, data, plan, folder / CHECKPOINT_NAME
        self.on_progress, self.should_stop = on_progress, should_stop
        self.identity_probe, self.meter, self.person = identity_probe, meter, person
        self.fingerprint = trained_as
        self.position = _Position()
        self.report = TrainingReport.empty(plan.name, plan.max_steps)
        self.best: dict[str, Tensor] = {}

    # -- the run -----------------------------------------------------------------------------------------------------

    def train(self, denoiser: TrainableDenoiser, adapter: Adapter, name: str) -> tuple[LoraWeights, TrainingReport]:
        self.denoiser, self.adapter = denoiser, adapter
        self.probe = DenoisingProbe(
            denoiser, self.data, self.plan.probe, self.plan.seed, self.engine.free_memory
        )
        self.detector = self._new_detector(self.plan.phases[0])
        resumed = self._resume()
        if not resumed:
            self._check_identity()
            self._begin_phase()
        while self.position.phase < len(self.plan.phases):
            self._run_phase()
            self.position.phase += 1
            self.position.phase_step = 0
            if self.position.phase < len(self.plan.phases):
                self._begin_phase()
            self._save()  # after the last phase too: the same run asked for again is finished at once
        return self._finish(name), self.report

    def _begin_phase(self) -> None:
        phase = self.plan.phases[self.position.phase]
        self.adapter.set_alpha(phase.alpha)
        self.optimizer = make_optimizer(phase.optimizer, self.adapter.parameters(), phase.lr)
        self.detector = self._new_detector(phase)
        self.position.delta = self._huber_delta() if phase.loss == "huber" else None
        start = self.adapter.relative_change()
        self.report.phases.append(
            PhaseReport(
                phase.name, self.position.step, start_norm=start, alpha=phase.alpha, optimizer=phase.optimizer,
                warmup_steps=phase.warmup_steps,
            )
        )  # fmt: skip
        self._before = self.adapter.state()

    def _huber_delta(self) -> float:
        residuals = self.probe.residuals()
        if not bool(torch.isfinite(residuals).all()):
            raise self._diverged("A residual stopped being a number", self.position.step)
        return huber_delta(residuals)

    def _run_phase(self) -> None:
        phase = self.plan.phases[self.position.phase]
        report = self.report.phases[-1]
        reason = "the budget of steps was used"
        while self.position.unseen or self.position.phase_step < phase.max_steps:
            if self.should_stop():
                self._save()
                raise TrainingStopped(
                    f"Training stopped at step {self.position.step} of at most {self.plan.max_steps}; its state is in "
                    f"{self.path}, and the same run started again goes on from there."
                )
            with self._saved_on_failure():
                if not self.position.unseen:
                    value = self._step(phase)
                    self.position.step += 1
                    self.position.phase_step += 1
                    self.position.unseen = True
                    self.report.losses.append((self.position.step, value))
                plateau = self._look_in()
            self.position.unseen = plateau  # gone on from here, the phase ends as it does now
            due = self.position.step % self.plan.checkpoint_every == 0
            if due and not plateau and self.position.phase_step < phase.max_steps:
                self._save()
            self._tell(phase, self.report.losses[-1][1])
            if plateau:
                reason = "the probe has stopped improving (equivalence test)"
                break
        if self.report.identity[-1].step != self.position.step:
            with self._saved_on_failure():
                self._check_identity()
        self.position.unseen = False
        report.end(
            self.position.step,
            reason,
            drift=self.report.identity[-1].drift,
            moved=_distance(self._before, phase.alpha, self.adapter, self.plan.rank),
            total=self.adapter.relative_change(),
        )

    @contextmanager
    def _saved_on_failure(self) -> Iterator[None]:
        """A host breaks in where it likes, in the middle of a step or of a probe, and memory runs out there too. A step
        is applied whole or not at all, so what there is can be kept."""
        try:
            yield
        except TrainingError:  # the loss diverged: the checkpoint before is the good one
            raise
        except Exception:
            with suppress(OutputError):
                self._save()
            raise

    def _step(self, phase: PhaseSpec) -> float:
        """One optimizer step over `accumulation` batches. Every draw depends on (seed, step) alone."""
        for group in self.optimizer.param_groups:
            group["lr"] = phase.lr * warmup_factor(self.position.phase_step, phase.warmup_steps)
        total = attempt(lambda: self._gradient(phase), self.engine.free_memory)
        while isinstance(total, RanOut):
            self.optimizer.zero_grad(set_to_none=True)
            self._take_smaller_parts(total)
            total = attempt(lambda: self._gradient(phase), self.engine.free_memory)
        if not math.isfinite(total):
            raise self._diverged(f"The loss became {total}", self.position.step + 1)
        norm = torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), self.plan.clip_norm)
        if not math.isfinite(float(norm)):  # half precision overflows here first; the step would ruin the weights
            raise self._diverged(f"The gradient became {float(norm)}", self.position.step + 1)
        applied = attempt(self.optimizer.step, self.engine.free_memory)
        if isinstance(applied, RanOut):
            raise self.no_memory(applied.said)  # it may be applied in part: not to be saved
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def _gradient(self, phase: PhaseSpec) -> float:
        """Leaves the step's gradient in the parameters and returns its loss. A batch that is computed in parts has the
        same: the loss is a mean over pictures, and each part counts by how many it has."""
        generator = step_generator(self.plan.seed, self.position.step)
        total = 0.0
        for _ in range(self.plan.accumulation):
            batch = self._draw(generator)
            for part in batch.parts(self.position.at_once or self.plan.batch):
                share = len(part.rows) / len(batch.rows) / self.plan.accumulation
                loss = self._batch_loss(phase, part) * share
                total += float(loss.detach())
                if math.isfinite(total):
                    loss.backward()
        return total

    def _take_smaller_parts(self, ran_out: RanOut) -> None:
        tried = self.position.at_once or self.plan.batch
        if tried == 1:
            raise MemoryError(ran_out.said)
        self.position.at_once = tried // 2
        self.report.notes.append(
            f"Memory ran out over {tried} pictures at step {self.position.step + 1}; from there on "
            f"{self.position.at_once} at a time were computed, which gives the same gradient."
        )

    def no_memory(self, said: str) -> TrainingError:
        return TrainingError(
            f"Memory ran out after step {self.position.step} of the training, with nothing left to make smaller "
            f"({said}); {self._kept()}. Free some memory or turn gradient checkpointing on, and the same run goes on "
            "from there; or train at a lower resolution or rank."
        )

    def _diverged(self, what: str, step: int) -> TrainingError:
        phase = self.plan.phases[self.position.phase].name
        return TrainingError(
            f"{what} at step {step} ({phase}); {self._kept()}. Lower the learning rate of that phase, or train in "
            "float32."
        )

    def _kept(self) -> str:
        return f"the last good state is in {self.path}" if self.path.is_file() else "no checkpoint was written yet"

    def _draw(self, generator: torch.Generator) -> _Batch:
        batch, steps = self.plan.batch, self.denoiser.rule.steps
        rows = torch.randint(len(self.data.latents), (batch,), generator=generator)
        u = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch  # stratified: less variance
        t = (u * steps).long().clamp(max=steps - 1)
        eps = torch.randn((batch, *self.data.latents.shape[1:]), generator=generator)
        dropped = torch.rand(batch, generator=generator) < self.plan.caption_dropout
        conditioning = [
            self.data.empty if drop else self.data.conditioning[row] for row, drop in zip(rows, dropped, strict=True)
        ]
        return _Batch(rows, t, eps, tuple(conditioning))

    def _batch_loss(self, phase: PhaseSpec, batch: _Batch) -> Tensor:
        rule, device = self.denoiser.rule, self.denoiser.device
        z, eps, t = self.data.latents[batch.rows].to(device), batch.eps.to(device), batch.t
        output = self.denoiser.predict(rule.add_noise(z, eps, t), t, batch.conditioning)
        losses = loss_map(phase.loss, output, rule.target(z, eps, t), delta=self.position.delta)
        weight = rule.loss_weight(t).to(device).view(-1, 1, 1, 1)
        return masked_mean(losses * weight, self.data.masks[batch.rows].to(device))

    # -- looking in --------------------------------------------------------------------------------------------------

    def _look_in(self) -> bool:
        """The probes, each on its own beat and each once a step. True when the phase has reached its plateau."""
        step, plan = self.position.step, self.plan
        plateau = False
        if self.report.probe and self.report.probe[-1].step == step:
            plateau = self.report.probe[-1].plateau
        elif step % plan.probe.every == 0:
            started = time.perf_counter()
            losses = self.probe.losses()
            if not np.isfinite(losses).all():
                raise self._diverged("The probe's loss stopped being a number", step)
            verdict = self.detector.update(step, losses)
            self.report.add_probe(verdict)
            plateau = verdict.plateau
            self.report.seconds_probing += time.perf_counter() - started
        if step % plan.identity_probe.every == 0 and self.report.identity[-1].step != step:
            self._check_identity()
        return plateau

    def _check_identity(self) -> None:
        started = time.perf_counter()
        check = self.identity_probe.check(self.position.step)
        self.report.identity.append(check)
        # A tie goes to the later weights: where no render shows a face, all checks are 1.0 and the first is untrained.
        if not self.best or check.drift <= self.report.best_drift:
            self.report.best_drift, self.report.best_step = check.drift, check.step
            self.best = self.adapter.state() | {"alpha": torch.tensor(self.adapter.alpha)}
        self.report.seconds_probing += time.perf_counter() - started

    def _new_detector(self, phase: PhaseSpec) -> PlateauDetector:
        return PlateauDetector(replace(self.plan.plateau, min_steps=phase.min_steps))

    def _tell(self, phase: PhaseSpec, loss: float) -> None:
        if self.on_progress is not None:
            probe = self.report.probe[-1].mean if self.report.probe else None
            drift = self.report.identity[-1].drift if self.report.identity else None
            position = self.position
            self.on_progress(
                Progress(
                    position.step, self.plan.max_steps, phase.name, position.phase_step, loss, probe, drift, self.report
                )
            )

    # -- going on after a kill ---------------------------------------------------------------------------------------

    def _save(self) -> None:
        before = {f"before/{key}": value for key, value in self._before.items()}
        progress = {
            "position": asdict(self.position),
            "alpha": self.adapter.alpha,
            "detector": self.detector.state_dict(),
            "report": self.report.to_json(),
        }
        save_checkpoint(
            Checkpoint(
                self.fingerprint, self.adapter.state() | before, self.best, self.optimizer.state_dict(), progress,
                "" if self.person is None else self.person.id,
            ),  # fmt: skip
            self.path,
        )

    def _resume(self) -> bool:
        if not self.path.is_file():
            return False
        saved = load_checkpoint(self.path, self.fingerprint)
        with restoring(self.path):
            self._go_on_from(saved)
        self.report.resumed_at.append(self.position.step)
        return True

    def _go_on_from(self, saved: Checkpoint) -> None:
        self.position = from_json(_Position, saved.progress["position"])
        self.report = TrainingReport.from_json(saved.progress["report"])
        self._require_sense()
        phase = self.plan.phases[min(self.position.phase, len(self.plan.phases) - 1)]
        if saved.progress["alpha"] != phase.alpha:
            raise ValueError("its alpha is not that of its phase")
        adapter = {key: value for key, value in saved.adapter.items() if not key.startswith("before/")}
        self._before = {k.removeprefix("before/"): v for k, v in saved.adapter.items() if k.startswith("before/")}
        self.best = dict(saved.best)
        if not 0.0 < float(self.best["alpha"]) < math.inf:
            raise ValueError("its best weights have no scale")
        for weights in (self._before, self.best, adapter):  # each has to fit; the last one stays
            self.adapter.load_state(weights, phase.alpha)
        self.optimizer = make_optimizer(phase.optimizer, self.adapter.parameters(), phase.lr)
        restore_optimizer(self.optimizer, saved.optimizer)
        self.detector = self._new_detector(phase)
        self.detector.load_state_dict(saved.progress["detector"])

    def _require_sense(self) -> None:
        """Raises ValueError for a position that its report has not come to."""
        position, report = self.position, self.report
        here = min(position.phase, len(self.plan.phases) - 1)
        steps = (position.step, position.phase, position.phase_step)
        if min(steps) < 0 or len(report.phases) != here + 1 or not report.identity or position.step != report.steps:
            raise ValueError("its position and its report contradict each other")
        if (position.delta is None) is (self.plan.phases[here].loss == "huber"):
            raise ValueError("its position lacks Huber's delta, or has one too many")

    def _finish(self, name: str) -> LoraWeights:
        best = dict(self.best)
        self.adapter.load_state(best, float(best.pop("alpha")))
        metadata = {
            "format": "identity-lock-lora/1",
            "base_model": self.engine.card.name,
            "base_model_sha256": self.engine.card.sha256,
            "recogniser": self.meter.recogniser,
            "recogniser_sha256": self.meter.reader.recogniser.sha256,
            "plan": json.dumps(asdict(self.plan)),
            "kept_step": str(self.report.best_step),
            "identity_probe": json.dumps([[c.step, round(c.drift, 5)] for c in self.report.identity]),
            "denoising_probe": json.dumps([[p.step, round(p.mean, 6)] for p in self.report.probe]),
            "phases": json.dumps([[p.name, p.first_step, p.last_step] for p in self.report.phases]),
            "versions": json.dumps(_versions("torch", "diffusers", "peft")),
        }
        if self.person is not None:
            metadata |= {"identity": self.person.name, "identity_id": self.person.id, "consent": self.person.consent}
        lora = self.adapter.export(name, metadata)
        self.report.lora_sha256 = lora.sha256
        return lora


def training_fingerprint(
    engine: Engine,
    data: TrainingSet,
    meter: DriftMeter,
    plan: TrainingPlan,
    size: int,
    reporting: DriftMeter | None = None,
) -> str:
    """Of everything that decides the weights and the curves: a checkpoint is gone on from only where it is the same."""
    return fingerprint(
        version=FORMAT,
        photos=data.fingerprint(),
        person=meter.reference.tobytes().hex(),
        recogniser=meter.reader.recogniser.sha256,
        reporting="" if reporting is None else reporting.reader.recogniser.sha256,
        detector=meter.reader.detector.sha256,
        base=engine.card.sha256 + engine.card.variant,
        settings=plan.fingerprint(),
        size=str(size),
    )


def _versions(*packages: str) -> dict[str, str]:
    """Of those that are installed: a host need not have diffusers."""
    found = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _distance(before: dict[str, Tensor], alpha: float, adapter: Adapter, rank: int) -> float:
    """How far a phase moved the weights: RMS of the change of scale*B@A over the RMS of the adapted base weights."""
    after = adapter.state()
    moved = base = 0.0
    for key in sorted(before):  # a resumed run holds the same keys in another order, and sums differ by it
        if not key.endswith(".down"):
            continue
        stem = key[: -len(".down")]
        a0, b0 = before[key].flatten(1), before[stem + ".up"].flatten(1)
        a1, b1 = after[key].flatten(1), after[stem + ".up"].flatten(1)
        moved += float((b1 @ a1 - b0 @ a0).double().square().sum()) * (alpha / rank) ** 2
        base += float(adapter.base_weight(stem).float().square().sum())
    return (moved / max(base, 1e-30)) ** 0.5
