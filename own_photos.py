"""`identity-lock run`: the pipeline on the user's own one to three photos, on the demo base or on a checkpoint.

Whatever can be refused is refused first: consent, prompts, photos, checkpoints and the output folder are all looked at
before anything that takes longer than seconds.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .demo.settings import demo_spec
from .demo.subjects import BASE, LOOK, Subject
from .engines.protocol import Engine, ModelCard
from .errors import OutputError, PhotoError, RenderError, TrainingError
from .identity.drift import LOCK_THRESHOLD
from .identity.faces import default_detector
from .identity.identity import MAX_PHOTOS, build_identity
from .identity.photo import Photo, read_photo
from .identity.prepare import PrepSettings, prepare_all
from .pipeline import IDENTITY_NAME, LORA_NAME, PipelineResult, PipelineSpec, Scene, only_run, run_pipeline
from .rendering.passes import PassSpec
from .rendering.search import SEED_LIMIT, SearchSpec
from .rendering.sheet import plot_histogram, write_sheet
from .rendering.three_pass import paper_passes
from .rendering.two_pass import TwoPassSpec
from .safety import index
from .safety.atomic import replacing
from .safety.c2pa_signing import HOW_TO, Signer, read_signer
from .safety.consent import require_consent
from .safety.prompt import require_allowed
from .training.augment import JitterSpec
from .training.phases import PAPER_PLAN, IdentityProbeSpec, TrainingPlan

PAPER_SCENES = (
    Scene("indoor", "indoor room, natural light from a window"),
    Scene("field", "golden hour field, warm light"),
    Scene("rooftop", "rooftop at dusk, wind in the hair"),
    Scene("garden", "spa garden, leaves in the foreground"),
)
"""The paper's four scenes (section 6.1) as plain English."""

SIZE_STEP = 64  # px: what every supported UNet can halve as often as it must
PROBE_SEEDS = 4
SHEET_NAME, HISTOGRAM_NAME, RUN_NAME = "contact_sheet.png", "histogram.png", "run.json"


@dataclass(frozen=True)
class Request:
    """What the user asked for, checked. captions: by photo name, for training. scenes: with their whole prompts."""

    photos: tuple[Photo, ...]
    captions: dict[str, str]
    scenes: tuple[Scene, ...]
    subject: Subject


def run_own_photos(args: argparse.Namespace, should_stop: Callable[[], bool] = lambda: False) -> PipelineResult:
    """args: of the command line's `run`. Prints a table, writes run.json, the sheet and the histogram into args.out.

    Raises the IdentityLockError family, each before the long work where the cause can be known by then.
    """
    request = read_request(args)
    signer = _open_signer(args)
    for path in (args.checkpoint, args.style_checkpoint):
        if path is not None:
            _inspect(path)
    with only_run(args.out):
        return _run(args, request, signer, should_stop)


def _run(
    args: argparse.Namespace, request: Request, signer: Signer | None, should_stop: Callable[[], bool]
) -> PipelineResult:
    engine = _open(args.checkpoint)
    style_engine = _open_style(args)
    spec = make_spec(args, request, engine.card, None if style_engine is None else style_engine.card)
    result = run_pipeline(
        engine,
        style_engine,
        request.photos,
        request.captions,
        spec,
        args.out,
        name=args.name,
        consent=args.consent,
        models_dir=args.models,
        should_stop=should_stop,
        signer=signer,
    )
    index.made(result.identity.id, "report", args.out / HISTOGRAM_NAME, args.out / RUN_NAME)
    write_sheet(result.search, args.out / SHEET_NAME, result.identity.id, signer)
    plot_histogram(result.search, args.out / HISTOGRAM_NAME)
    with replacing(args.out / RUN_NAME) as temporary:
        temporary.write_text(json.dumps(run_numbers(result, request, engine.card), indent=1) + "\n", encoding="utf-8")
    print(summary(result, args.out), flush=True)
    return result


# ---- what was asked for ---------------------------------------------------------------------------------------------


def read_request(args: argparse.Namespace) -> Request:
    """Everything about the user's words and photos that can be wrong, in seconds. Raises IdentityLockErrors."""
    require_consent(args.consent)
    _check_numbers(args)
    description = args.description.strip().strip(",")
    subject = Subject(args.name, args.name, {}, None, description, args.consent, "")
    require_allowed(subject.prompt(), field="description")
    for text in args.scene:
        require_allowed(text, field="scene")
    scenes = named_scenes(args.scene) if args.scene else PAPER_SCENES
    photos = _read_photos(args.photos)
    captions = _captions(photos, args.caption, subject)
    for text in captions.values():
        require_allowed(text, field="caption")
    prepare_all(photos, default_detector(args.models), PrepSettings(size=64), models_dir=args.models)
    build_identity(photos, name=args.name, consent=args.consent, models_dir=args.models)  # of one person, recognisably
    return Request(
        tuple(photos),
        captions,
        tuple(Scene(scene.name, subject.prompt(scene.prompt)) for scene in scenes),
        replace(subject, photos=captions),
    )


def _check_numbers(args: argparse.Namespace) -> None:
    if args.seeds < 1 or not 0 <= args.first_seed <= SEED_LIMIT - args.seeds:
        raise RenderError(
            f"{args.seeds} seeds from {args.first_seed} on are none, or leave 0 .. 2^64-1; "
            "give --seeds of at least 1 and a smaller --first-seed."
        )
    if args.size is not None and (args.size < SIZE_STEP or args.size % SIZE_STEP):
        raise RenderError(f"The size {args.size} does not fit the models; give --size as a multiple of {SIZE_STEP}.")
    phases = len(PAPER_PLAN.phases)
    if args.max_steps is not None and args.max_steps < phases:
        raise TrainingError(
            f"{args.max_steps} training steps are too few for {phases} phases; give --max-steps of at least {phases}."
        )


def _read_photos(paths: Sequence[Path]) -> list[Photo]:
    if len(paths) > MAX_PHOTOS:
        raise PhotoError(
            f"{len(paths)} photos were given, and an identity is made from one to {MAX_PHOTOS}; keep the clearest ones."
        )
    names = [path.name for path in paths]
    return [read_photo(path, name=str(path) if names.count(path.name) > 1 else None) for path in paths]


def _captions(photos: Sequence[Photo], told: Sequence[str], subject: Subject) -> dict[str, str]:
    if told and len(told) != len(photos):
        raise PhotoError(
            f"{len(photos)} photos came with {len(told)} captions; give --caption once for each photo, or not at all."
        )
    return {
        photo.name: subject.prompt(text) for photo, text in zip(photos, told or [""] * len(photos), strict=True)
    }


def named_scenes(prompts: Sequence[str]) -> tuple[Scene, ...]:
    """Scenes whose names are their prompts' own words, fit for file names, each one different."""
    scenes: list[Scene] = []
    for prompt in prompts:
        name = "_".join(re.findall(r"[a-z0-9]+", prompt.lower()))[:40].strip("_") or "scene"
        taken = {scene.name for scene in scenes}
        number = 2
        unique = name
        while unique in taken:
            unique, number = f"{name}_{number}", number + 1
        scenes.append(Scene(unique, prompt))
    return tuple(scenes)


def _open_signer(args: argparse.Namespace) -> Signer | None:
    if args.sign_certificate is None and args.sign_key is None:
        return None
    if args.sign_certificate is None or args.sign_key is None:
        raise OutputError(
            "Signing takes both a certificate chain and its key; give --sign-certificate CHAIN.pem and --sign-key "
            f"KEY.pem. {HOW_TO}"
        )
    return read_signer(args.sign_certificate, args.sign_key, args.sign_algorithm)


# ---- models ---------------------------------------------------------------------------------------------------------


def _inspect(path: Path) -> None:
    from .engines.checkpoints import inspect_checkpoint

    inspect_checkpoint(path)


def _open(checkpoint: Path | None) -> Engine:
    from .engines.diffusers import open_checkpoint, open_demo_base

    return open_demo_base(BASE) if checkpoint is None else open_checkpoint(checkpoint)


def _open_style(args: argparse.Namespace) -> Engine | None:
    """The two-pass mode's second base: the one named; with the demo base its shipped second look; else none."""
    from .engines.diffusers import open_checkpoint, open_demo_base

    if args.style_checkpoint is not None:
        return open_checkpoint(args.style_checkpoint)
    return open_demo_base(BASE, look=LOOK) if args.checkpoint is None and LOOK.is_file() else None


# ---- settings -------------------------------------------------------------------------------------------------------


def make_spec(args: argparse.Namespace, request: Request, base: ModelCard, style: ModelCard | None) -> PipelineSpec:
    """The demo's settings on the demo base, the paper's on a checkpoint; in both the user's scenes, seeds and size."""
    spec = demo_spec(request.subject) if base.architecture == "demo" else _paper_spec(request.subject, base)
    count = args.seeds
    size = args.size or base.native_size
    probe = replace(spec.plan.identity_probe, seeds=_probe_seeds(args.first_seed, count))
    two_pass = spec.two_pass
    if two_pass is not None and style is not None and style.architecture != "demo":
        two_pass = replace(two_pass, style=_style_pass(style))
    return replace(
        spec,
        plan=shortened(replace(spec.plan, identity_probe=probe), args.max_steps),
        search=replace(
            spec.search, first_seed=args.first_seed, count=count, control=min(count, max(8, count // 4))
        ),
        scenes=request.scenes,
        two_pass=two_pass,
        size=size,
        untrained=min(spec.untrained, count),
        style_size=None if style is None or style.native_size == base.native_size else (style.native_size,) * 2,
    )


def _paper_spec(subject: Subject, base: ModelCard) -> PipelineSpec:
    """Paper sections 3.3 and 5: the four phases, the strengths and the cfgs, at the base's own size."""
    sampling = _sampling(base)
    anchor = subject.prompt("neutral expression, facing forward, soft light, plain background")
    passes = paper_passes(anchor, "", **sampling)
    probe = IdentityProbeSpec(
        prompts=(anchor, subject.prompt("outdoors in daylight")),
        sampler=sampling["sampler"],
        scheduler="normal" if base.prediction == "flow" else "sgm_uniform",
    )
    return PipelineSpec(
        prep=PrepSettings(),
        jitter=JitterSpec(copies=8),
        plan=replace(PAPER_PLAN, identity_probe=probe),
        search=SearchSpec(render=passes.anchor, batch=2 if base.architecture == "sdxl" else 4),
        scenes=PAPER_SCENES,
        three_pass=passes,
        two_pass=TwoPassSpec(anchor=passes.anchor, style=_style_pass(base)),
        size=base.native_size,
        untrained=4,
    )


def _style_pass(style: ModelCard) -> PassSpec:
    """The second base's own pass: far enough for its look, less on the face. Its prompt is filled in by scene."""
    return PassSpec("", cfg=6.3, denoise=0.55, face_denoise=0.3, **_sampling(style))


def _sampling(base: ModelCard) -> dict[str, Any]:
    if base.prediction == "flow":
        return dict(steps=28, sampler="euler", scheduler="normal")
    return dict(steps=24, sampler="dpmpp_2m", scheduler="karras")


def _probe_seeds(first: int, count: int) -> tuple[int, ...]:
    """Seeds next to the searched ones, but none of them: the probe must not have chosen what the search then finds."""
    start = first - PROBE_SEEDS if first >= PROBE_SEEDS else first + count
    return tuple(range(start, start + PROBE_SEEDS))


def shortened(plan: TrainingPlan, max_steps: int | None) -> TrainingPlan:
    """The plan with every phase shortened in proportion, so that they add up to max_steps; never lengthened."""
    if max_steps is None or max_steps >= plan.max_steps:
        return plan
    share = max_steps / plan.max_steps
    budgets = [max(1, int(phase.max_steps * share)) for phase in plan.phases]
    rests = [phase.max_steps * share - budget for phase, budget in zip(plan.phases, budgets, strict=True)]
    while sum(budgets) != max_steps:  # the largest remainder gets the step left over, the fullest phase gives one up
        short = sum(budgets) < max_steps
        candidates = [i for i, budget in enumerate(budgets) if short or budget > 1]
        chosen = max(candidates, key=lambda i: rests[i]) if short else min(candidates, key=lambda i: rests[i])
        change = 1 if short else -1
        budgets[chosen] += change
        rests[chosen] -= change
    phases = tuple(
        replace(phase, max_steps=budget, min_steps=min(budget, max(1, int(phase.min_steps * share))))
        for phase, budget in zip(plan.phases, budgets, strict=True)
    )
    return replace(plan, name=f"{plan.name}, {max_steps} steps", phases=phases)


# ---- what came of it ------------------------------------------------------------------------------------------------


def run_numbers(result: PipelineResult, request: Request, base: ModelCard) -> dict[str, Any]:
    """What run.json holds: numbers, prompts and hashes; never a photo or an embedding."""
    selection, reporting = result.meters.selection, result.meters.reporting
    best = result.search.best
    three = {
        name: {
            "drift": t.drift.value,
            "report_drift": None if t.report_after is None else t.report_after.value,
            "before_rescue": t.rescue.before.value,
            "blend": t.rescue.blend,
            "locked": t.locked,
            "note": t.rescue.note,
        }
        for name, t in result.three_pass.items()
    }
    two = {
        name: {
            "drift": t.drift.value,
            "report_drift": None if t.report is None else t.report.value,
            "locked": t.locked,
        }
        for name, t in result.two_pass.items()
    }
    return {
        "base": {"name": base.name, "sha256": base.sha256, "architecture": base.architecture},
        "lora": {"file": LORA_NAME, "sha256": result.lora.sha256},
        "identity": {"file": IDENTITY_NAME, **asdict(result.identity.person)},
        "identity_id": result.identity.id,
        "photos": list(request.captions),
        "captions": request.captions,
        "warnings": list(result.identity.warnings),
        "recogniser": selection.recogniser,
        "report_recogniser": None if reporting is None else reporting.recogniser,
        "space": "raw cosine",
        "threshold": LOCK_THRESHOLD,
        "yardstick": {name: list(values) for name, values in result.identity.yardstick.items()},
        "locked": _locked(best.drift),
        "seed": best.seed,
        "drift": best.drift,
        "report_drift": best.report_drift,
        "seeds": {
            "looked_at": len(result.search.results),
            "finished": len(result.search.finished),
            "locked": sum(_locked(r.drift) for r in result.search.finished),
            "median_full": _median([r.drift for r in result.search.full]),
            "median_untrained": _median(_untrained(result)),
            "rank_correlations": list(result.search.correlations),
            "cost": result.search.cost,
            "notes": list(result.search.notes),
        },
        "training": {
            "plan": result.training.plan,
            "steps": result.training.steps,
            "kept_step": result.training.best_step,
            "phases": [phase.sentence for phase in result.training.phases],
        },
        "three_pass": three,
        "two_pass": two,
        "prompts": {scene.name: scene.prompt for scene in request.scenes},
        "unknown_words": list(result.unknown_words),
        "seconds": result.seconds,
    }


def summary(result: PipelineResult, folder: Path) -> str:
    """A table of drifts by both recognisers, what to know about them, and where everything is."""
    selection, reporting = result.meters.selection, result.meters.reporting
    second = "-" if reporting is None else reporting.recogniser
    best = result.search.best
    rows: list[tuple[str, float | None, float | None]] = []
    if result.untrained is not None:
        told = [r.report_drift for r in result.untrained.full]
        rows.append(("before training, median", _median(_untrained(result)), _median(told)))
    full = result.search.full
    rows.append(("after training, median", _median([r.drift for r in full]), _median([r.report_drift for r in full])))
    rows.append((f"best seed {best.seed}", best.drift, best.report_drift))
    for name, t in result.three_pass.items():
        rows.append((f"three passes: {name}", t.drift.value, None if t.report_after is None else t.report_after.value))
    for name, two in result.two_pass.items():
        rows.append((f"two passes: {name}", two.drift.value, None if two.report is None else two.report.value))
    width = max(len(label) for label, _, _ in rows)
    table = [f"{'drift (raw cosine)':<{width}}  {selection.recogniser:>8}  {second:>8}"]
    table += [f"{label:<{width}}  {_number(one):>8}  {_number(other):>8}" for label, one, other in rows]
    state = "Locked" if _locked(best.drift) else "Not locked"
    lines = [
        *table,
        f"{state} at seed {best.seed}: drift {_number(best.drift)}, and the lock is at {LOCK_THRESHOLD}. "
        f"{selection.recogniser} chose; {second} was never consulted.",
    ]
    yardstick = result.identity.yardstick.get(selection.recogniser, ())
    if yardstick:
        lines.append(f"Your photos differ among themselves by {', '.join(_number(value) for value in yardstick)}.")
    lines += [*result.identity.warnings, *result.search.notes]
    if result.unknown_words:
        lines.append(f"Words that this base does not know: {', '.join(result.unknown_words)}.")
    lines += [
        f"LoRA:      {folder / LORA_NAME}",
        f"Identity:  {folder / IDENTITY_NAME} (biometric data: keep it to yourself)",
        f"Pictures:  {folder / 'renders'}; every finished seed in {folder / 'seeds'}",
        f"Overview:  {folder / SHEET_NAME}, {folder / HISTOGRAM_NAME}",
        f"Numbers:   {folder / RUN_NAME}",
    ]
    return "\n".join(lines)


def _untrained(result: PipelineResult) -> list[float | None]:
    return [] if result.untrained is None else [r.drift for r in result.untrained.full]


def _locked(drift: float | None) -> bool:
    return drift is not None and drift <= LOCK_THRESHOLD


def _median(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return float(np.median(found)) if found else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
