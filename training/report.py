"""What a training run says of itself: curves, phases, which weights were kept and why; as JSON and as a plot."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..identity.drift import LOCK_THRESHOLD
from ..safety.atomic import replacing
from ..safety.provenance import chart_info
from ..safety.untrusted import from_json
from .plateau import PlateauVerdict
from .probes import IdentityCheck

MOVED_NOTHING = 1e-6  # relative weight change below which a phase has, to a float32 eye, done nothing


@dataclass(frozen=True)
class Progress:
    """What a progress bar or a live chart is told after each step."""

    step: int
    max_steps: int
    phase: str
    phase_step: int
    loss: float
    probe: float | None
    drift: float | None
    report: TrainingReport | None = None  # the run so far, for whoever draws its curves


@dataclass
class PhaseReport:
    """first_step exclusive, last_step inclusive. alpha, optimizer, warmup_steps: every phase begins with a fresh
    optimizer and a warm-up, and with B rescaled so that the new alpha leaves the function as it was. moved: RMS weight
    change within the phase over the RMS of the adapted weights; total: the same since the run began. drift: of the
    identity probe at the end of the phase."""

    name: str
    first_step: int
    start_norm: float = 0.0
    last_step: int = 0
    reason: str = "not finished"
    drift: float = 1.0
    moved: float = 0.0
    total: float = 0.0
    alpha: float = 0.0
    optimizer: str = ""
    warmup_steps: int = 0

    def end(self, step: int, reason: str, *, drift: float, moved: float, total: float) -> None:
        self.last_step, self.reason, self.drift, self.moved, self.total = step, reason, drift, moved, total

    def end_or(self, step: int) -> int:
        """Its last step, or `step` while it runs."""
        return self.last_step or step

    @property
    def sentence(self) -> str:
        nothing = "; it moved the weights by next to nothing" if self.moved < MOVED_NOTHING else ""
        return (
            f"{self.name}: alpha {self.alpha:g} (B rescaled to keep the function), {self.optimizer} state reset with "
            f"{self.warmup_steps} warm-up steps; "
            f"{self.last_step - self.first_step} steps, ended because {self.reason}; "
            f"probe drift {self.drift:.3f}, weights moved by {self.moved:.2e}{nothing}."
        )


@dataclass
class TrainingReport:
    plan: str
    max_steps: int
    phases: list[PhaseReport] = field(default_factory=list)
    losses: list[tuple[int, float]] = field(default_factory=list)
    probe: list[PlateauVerdict] = field(default_factory=list)
    identity: list[IdentityCheck] = field(default_factory=list)
    best_step: int = 0
    best_drift: float = 1.0
    seconds_probing: float = 0.0
    resumed_at: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lora_sha256: str = ""

    @classmethod
    def empty(cls, plan: str, max_steps: int) -> TrainingReport:
        return cls(plan, max_steps)

    def add_probe(self, verdict: PlateauVerdict) -> None:
        self.probe.append(verdict)

    @property
    def steps(self) -> int:
        return self.losses[-1][0] if self.losses else 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TrainingReport:
        """What `to_json` gave. Raises ValueError for anything else."""
        return from_json(cls, data)

    def summary(self) -> str:
        lines = [phase.sentence for phase in self.phases]
        lines.append(
            f"Kept: the weights of step {self.best_step} of {self.steps}, with the lowest probe drift "
            f"{self.best_drift:.3f}."
        )
        if self.identity and not any(check.detected for check in self.identity):
            lines.append("No probe render showed a face, so the probe could not choose: these are the last weights.")
        return "\n".join([*lines, *self.notes])

    def write_json(self, path: Path) -> None:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(self.to_json()))

    def plot(self, path: Path) -> None:
        """Three rows over the steps: training loss (its scale changes with the phase), denoising probe, drift."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 8), layout="constrained")
        loss, probe, drift = figure.subplots(3, 1, sharex=True)
        if self.losses:
            loss.plot(*zip(*self.losses, strict=True), lw=0.4, color="0.7")
            for phase in self.phases:  # smoothed within a phase: the next one's loss has another scale
                end = phase.end_or(self.steps)
                within = [(step, value) for step, value in self.losses if phase.first_step < step <= end]
                if within:
                    steps, values = zip(*within, strict=True)
                    loss.plot(steps, _smoothed(values), lw=1.2, color="tab:blue")
            loss.set_yscale("log")
        loss.set_ylabel("training loss\n(scale differs by phase)")
        if self.probe:
            probe.plot([p.step for p in self.probe], [p.mean for p in self.probe], color="tab:orange")
        probe.set_ylabel("denoising probe\n(fixed MSE, window mean)")
        drift.plot([c.step for c in self.identity], [c.drift for c in self.identity], marker=".", color="tab:green")
        drift.axhline(LOCK_THRESHOLD, color="0.4", ls="--", lw=1)
        drift.plot([self.best_step], [self.best_drift], "o", ms=10, mfc="none", color="tab:red")
        drift.annotate("kept", (self.best_step, self.best_drift), textcoords="offset points", xytext=(8, 8))
        drift.set_ylabel("identity probe\n(mean drift)")
        drift.set_xlabel("optimizer step")
        for axis in (loss, probe, drift):
            for phase in self.phases:
                axis.axvline(phase.first_step, color="0.85", lw=1, zorder=0)
        for phase in self.phases:
            loss.annotate(
                phase.name, (phase.first_step, 1.03), xycoords=("data", "axes fraction"), fontsize=7, rotation=35,
                color="0.3",
            )  # fmt: skip
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=110, pil_kwargs={"pnginfo": chart_info()})


def _smoothed(values: tuple[float, ...], horizon: float = 0.95) -> list[float]:
    mean = values[0]
    out = []
    for value in values:
        mean = horizon * mean + (1.0 - horizon) * value
        out.append(mean)
    return out
