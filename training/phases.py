"""The four phases as data (paper, section 3.3), and the plans built from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from ..errors import TrainingError
from .plateau import PlateauSpec

Targets = Literal["attention", "all"]


@dataclass(frozen=True)
class PhaseSpec:
    """One phase. max_steps is its budget; the plateau test may end it sooner, never before min_steps."""

    name: str
    lr: float
    alpha: float
    loss: Literal["mse", "huber", "charbonnier"]
    optimizer: Literal["adamw", "adamp"]
    max_steps: int
    min_steps: int
    warmup_steps: int = 10


@dataclass(frozen=True)
class ProbeSpec:
    """The fixed MSE probe: `pairs` (timestep, noise) pairs, stratified over timesteps, read every `every` steps."""

    pairs: int = 24
    every: int = 10


@dataclass(frozen=True)
class IdentityProbeSpec:
    """The identity probe: fixed prompts and seeds, a few sampling steps, mean drift; every `every` steps."""

    prompts: tuple[str, ...] = ("photo of sks person",)
    negative: str = ""
    seeds: tuple[int, ...] = (1187891159, 1187891160, 1187891161, 1187891162)
    steps: int = 8
    cfg: float = 5.8
    sampler: str = "dpmpp_2m"
    scheduler: str = "sgm_uniform"
    every: int = 50


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that decides the weights that come out, apart from the photos and the model.

    targets: which layers get an adapter: attention projections, or all linear and convolution layers.
    background_weight: loss weight outside the face mask, (0, 1]. caption_dropout: share of steps without a caption.
    """

    name: str
    phases: tuple[PhaseSpec, ...]
    rank: int
    targets: Targets
    batch: int
    accumulation: int = 1
    gradient_checkpointing: bool = False
    background_weight: float = 0.2
    caption_dropout: float = 0.1
    clip_norm: float = 1.0
    seed: int = 1187891159
    probe: ProbeSpec = ProbeSpec()
    identity_probe: IdentityProbeSpec = IdentityProbeSpec()
    plateau: PlateauSpec = PlateauSpec()
    checkpoint_every: int = 50

    @property
    def max_steps(self) -> int:
        return sum(phase.max_steps for phase in self.phases)

    def fingerprint(self) -> str:
        """Changes whenever anything that shapes the weights changes; a resume must match it. Gradient checkpointing
        does not: whoever runs out of memory may turn it on and go on."""
        shaping = {key: value for key, value in asdict(self).items() if key != "gradient_checkpointing"}
        return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()[:16]


PAPER_PHASES = (
    PhaseSpec("COARSE", 1e-4, 8.0, "mse", "adamw", max_steps=600, min_steps=150),
    PhaseSpec("MID", 3e-5, 4.0, "huber", "adamw", max_steps=400, min_steps=100),
    PhaseSpec("MID_FINE", 1e-6, 2.0, "charbonnier", "adamp", max_steps=200, min_steps=50),
    PhaseSpec("FINAL_FINE", 5e-7, 1.0, "charbonnier", "adamp", max_steps=100, min_steps=50),
)

PAPER_PLAN = TrainingPlan(
    name="paper", phases=PAPER_PHASES, rank=8, targets="attention", batch=1, gradient_checkpointing=True
)


def adjusted(
    plan: TrainingPlan,
    *,
    steps: Sequence[int] = (),
    rank: int = 0,
    targets: Targets | None = None,
    batch: int = 0,
    rate: float = 1.0,
    background_weight: float = 0.0,
    gradient_checkpointing: bool | None = None,
    seed: int | None = None,
    probe_prompts: Sequence[str] = (),
) -> TrainingPlan:
    """The plan with what is given in place of its own; 0, None and () leave it as it is.

    steps: budget of each phase. rate: factor on every learning rate. With the rank the alphas change in proportion, so
    that the scale alpha / rank of each phase stays. Raises TrainingError for numbers that no training can have.
    """
    if any(value < 0 for value in (*steps, rank, batch)) or rate <= 0.0 or not 0.0 <= background_weight <= 1.0:
        raise TrainingError(
            f"Steps {tuple(steps)}, rank {rank} and batch {batch} must not be negative, the learning-rate factor "
            f"{rate} must be above 0 and the background weight {background_weight} in 0 .. 1; change what is not."
        )
    budgets = [*steps, *[0] * (len(plan.phases) - len(steps))]
    share = (rank or plan.rank) / plan.rank
    phases = tuple(
        replace(
            phase,
            alpha=phase.alpha * share,
            max_steps=budget or phase.max_steps,
            min_steps=min(phase.min_steps, budget or phase.min_steps),
        )
        for phase, budget in zip(plan.phases, budgets, strict=True)
    )
    changed = replace(
        plan,
        phases=scaled_rates(phases, rate),
        rank=rank or plan.rank,
        targets=targets or plan.targets,
        batch=batch or plan.batch,
        background_weight=background_weight or plan.background_weight,
        gradient_checkpointing=(
            plan.gradient_checkpointing if gradient_checkpointing is None else gradient_checkpointing
        ),
        seed=plan.seed if seed is None else seed,
        identity_probe=replace(plan.identity_probe, prompts=tuple(probe_prompts) or plan.identity_probe.prompts),
    )
    return plan if changed == plan else replace(changed, name=f"{plan.name}, adjusted")


def scaled_rates(phases: tuple[PhaseSpec, ...], factor: float) -> tuple[PhaseSpec, ...]:
    return tuple(replace(phase, lr=phase.lr * factor) for phase in phases)
