"""The demo's own numbers, and why they are not the paper's.

The demo base is a hundredth the size of the models that the paper's table was made for. It learns at twenty and more
times the paper's learning rates, and it is over-guided at the paper's cfg. The paper names no rank: its alphas are
scales of 1, 1/2, 1/4 and 1/8 at rank 8, and at the demo's rank 32 the same scales are four times those alphas.
Strengths, losses, optimizers, phases and the blend are the paper's.
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
SAMPLING: dict[str, Any] = dict(steps=8, sampler="ddim", scheduler="simple")
CFG = 1.5

DEMO_PHASES: tuple[PhaseSpec, ...] = (
    PhaseSpec("COARSE", 2e-3, 32.0, "mse", "adamw", max_steps=500, min_steps=200),
    PhaseSpec("MID", 8e-4, 16.0, "huber", "adamw", max_steps=160, min_steps=100),
    PhaseSpec("MID_FINE", 3e-4, 8.0, "charbonnier", "adamp", max_steps=60, min_steps=40),
    PhaseSpec("FINAL_FINE", 1e-4, 4.0, "charbonnier", "adamp", max_steps=40, min_steps=30),
)
DEMO_PLAN = TrainingPlan(
    name="demo",
    phases=DEMO_PHASES,
    rank=32,
    targets="all",
    batch=4,
    background_weight=0.05,
    caption_dropout=0.1,
    probe=ProbeSpec(pairs=16, every=8),
    identity_probe=IdentityProbeSpec(
        seeds=(SEED - 1, SEED - 2, SEED - 3, SEED - 4),  # never searched
        cfg=CFG,
        every=50,
        **SAMPLING,
    ),
    checkpoint_every=50,
)
DEMO_JITTER = JitterSpec(copies=10, shift=0.008, scale=0.02, rotation=1.5)
QUICK_SHARE = 0.4  # of the steps, for `--quick`


def with_effort(plan: TrainingPlan, share: float) -> TrainingPlan:
    """The plan with `share` of each phase's steps."""
    phases = (
        replace(p, max_steps=round(p.max_steps * share), min_steps=round(p.min_steps * share)) for p in plan.phases
    )
    return replace(plan, phases=tuple(phases))


def demo_quick_plan() -> TrainingPlan:
    return replace(with_effort(DEMO_PLAN, QUICK_SHARE), name="demo-quick")


def demo_plan(subject: Subject, *, quick: bool = False) -> TrainingPlan:
    plan = demo_quick_plan() if quick else with_effort(DEMO_PLAN, subject.effort)
    prompts = (subject.prompt("gray background"), subject.prompt("green background", "warm light"))
    return replace(plan, identity_probe=replace(plan.identity_probe, prompts=prompts))


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
        style=replace(passes.style, cfg=5.0, face_denoise=0.25),
        rescue=replace(passes.rescue, cfg=CFG, steps=4),  # a quarter of the way: four steps do it
    )
    return PipelineSpec(
        prep=PrepSettings(padding=0.45),
        jitter=DEMO_JITTER,
        plan=demo_plan(subject, quick=quick),
        search=SearchSpec(
            render=passes.anchor,
            first_seed=SEED,
            count=64 if quick else 128,
            control=64,
            batch=16,
            # this base's previews rank about as well after one step as after two (python -m benchmarks seed_search)
            rungs=(Rung(0.125, 0.30), Rung(0.375, 0.25)),
            min_correlation=0.2,
        ),
        scenes=scenes(subject)[: 4 if quick else None],
        three_pass=passes,
        two_pass=TwoPassSpec(
            anchor=passes.anchor,
            style=PassSpec("", cfg=CFG, denoise=0.88, face_denoise=0.15, **SAMPLING),
        ),
        size=SIZE,
        untrained=16,
    )
