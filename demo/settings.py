"""The demo's own numbers, and why they are not the paper's.

The demo base is a hundredth the size of the models that the paper's table was made for. It learns at about twenty times
the paper's learning rates, and it is over-guided at the paper's cfg; strengths, losses, optimizers, alphas, phases and
the blend are the paper's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..identity.prepare import PrepSettings
from ..pipeline import PipelineSpec, Scene
from ..rendering.passes import PassSpec
from ..rendering.search import Rung, SearchSpec
from ..rendering.three_pass import paper_passes
from ..rendering.two_pass import TwoPassSpec
from ..training.augment import JitterSpec
from ..training.phases import IdentityProbeSpec, PhaseSpec, ProbeSpec, TrainingPlan
from .subjects import Subject

SIZE = 128
SEED = 1187891159  # the paper's
SAMPLING: dict[str, Any] = dict(steps=8, sampler="ddim", scheduler="sgm_uniform")
CFG = 1.5

DEMO_PHASES: tuple[PhaseSpec, ...] = (
    PhaseSpec("COARSE", 4e-3, 8.0, "mse", "adamw", max_steps=500, min_steps=200),
    PhaseSpec("MID", 2e-3, 4.0, "huber", "adamw", max_steps=300, min_steps=120),
    PhaseSpec("MID_FINE", 6e-4, 2.0, "charbonnier", "adamp", max_steps=150, min_steps=60),
    PhaseSpec("FINAL_FINE", 2e-4, 1.0, "charbonnier", "adamp", max_steps=100, min_steps=50),
)


def demo_plan(subject: Subject, *, quick: bool = False) -> TrainingPlan:
    phases = DEMO_PHASES
    if quick:
        phases = tuple(replace(p, max_steps=p.max_steps // 3, min_steps=p.min_steps // 3) for p in phases)
    return TrainingPlan(
        name="demo-quick" if quick else "demo",
        phases=phases,
        rank=32,
        targets="all",
        batch=4,
        background_weight=0.3,
        caption_dropout=0.1,
        probe=ProbeSpec(pairs=16, every=8),
        identity_probe=IdentityProbeSpec(
            prompts=(subject.prompt("gray background"), subject.prompt("green background", "warm light")),
            seeds=(SEED - 1, SEED - 2, SEED - 3, SEED - 4),  # never searched
            steps=SAMPLING["steps"],
            cfg=CFG,
            sampler="ddim",
            scheduler="sgm_uniform",
            every=50,
        ),
        checkpoint_every=50,
    )


def scenes(subject: Subject) -> tuple[Scene, ...]:
    """Six named backgrounds, whose hue can be measured, and the paper's four scenes (section 6.1)."""
    told = (
        ("green", "warm light", "green background", "red shirt"),
        ("red", "neutral light", "red background", "white shirt"),
        ("blue", "cool light", "blue background", "yellow shirt"),
        ("purple", "neutral light", "purple background", "black shirt"),
        ("orange", "warm light", "orange background", "blue shirt"),
        ("yellow", "bright light", "yellow background", "green shirt"),
        ("indoor", "neutral light", "indoor room", "white shirt"),
        ("field", "warm light", "golden hour field", "blue shirt"),
        ("rooftop", "cool light", "rooftop at dusk", "black shirt"),
        ("garden", "neutral light", "spa garden", "white shirt"),
    )
    return tuple(Scene(name, subject.prompt(*phrases)) for name, *phrases in told)


def demo_spec(subject: Subject, *, quick: bool = False) -> PipelineSpec:
    anchor_prompt = subject.prompt("neutral expression", "facing forward", "neutral light", "gray background")
    passes = paper_passes(anchor_prompt, "", **SAMPLING)
    passes = replace(
        passes,
        anchor=replace(passes.anchor, cfg=CFG),
        style=replace(passes.style, cfg=2.0, face_denoise=0.5),
        rescue=replace(passes.rescue, cfg=CFG),
    )
    return PipelineSpec(
        prep=PrepSettings(padding=0.45),
        jitter=JitterSpec(copies=24),
        plan=demo_plan(subject, quick=quick),
        search=SearchSpec(
            render=passes.anchor,
            first_seed=SEED,
            count=64 if quick else 256,
            control=64,
            batch=16,
            rungs=(Rung(0.25, 0.30), Rung(0.50, 0.40)),
        ),
        scenes=scenes(subject)[: 4 if quick else None],
        three_pass=passes,
        two_pass=TwoPassSpec(
            anchor=passes.anchor,
            style=PassSpec("", cfg=CFG, denoise=0.9, face_denoise=0.3, **SAMPLING),
        ),
        size=SIZE,
        untrained=16,
    )
