"""The 2-pass stylizer (paper, section 5.2): an identity lock with the LoRA anchor, then another base's realism."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from ..engines.lora_file import LoraWeights
from ..engines.protocol import Engine
from ..identity.drift import LOCK_THRESHOLD, Drift
from ..identity.identity import Identity
from ..identity.prepare import soft_face_mask
from .log import Meters, RenderRecord, outcome
from .passes import PassSpec, models_used, run_pass


@dataclass(frozen=True)
class TwoPassSpec:
    """anchor: on the adapted base. style: on the second base, from the anchor's pixels, without the LoRA: its denoise
    decides how far it may go, its face_denoise how far on the face."""

    anchor: PassSpec
    style: PassSpec
    threshold: float = LOCK_THRESHOLD


@dataclass(frozen=True)
class TwoPassResult:
    anchor: np.ndarray
    image: np.ndarray
    anchor_drift: Drift
    drift: Drift
    report: Drift | None
    record: RenderRecord

    @property
    def locked(self) -> bool:
        return self.record.locked


def render_two_pass(
    engine: Engine,
    style_engine: Engine,
    lora: LoraWeights | None,
    identity: Identity,
    meters: Meters,
    seed: int,
    spec: TwoPassSpec,
    size: tuple[int, int],
    style_size: tuple[int, int] | None = None,
    *,
    anchor: np.ndarray | None = None,
) -> TwoPassResult:
    """Pixels pass between the two models, so the second may be of another architecture; style_size is its size then,
    by default the anchor's. anchor: a first pass that was rendered before. Raises PromptRefused before the first pass.
    """
    for name, asked in (("anchor prompt", spec.anchor), ("scene prompt", spec.style)):
        asked.require_allowed(name)
    started = time.perf_counter()
    if anchor is None:
        anchor = run_pass(engine, spec.anchor, seed, size, lora)
    anchor_drift = meters.selection.measure_one(anchor)
    middle = time.perf_counter()
    style_size = style_size or (anchor.shape[1], anchor.shape[0])
    start = _resized(anchor, style_size)
    face = meters.selection.measure_one(start).face
    mask = None if face is None else soft_face_mask(face, start.shape[:2])
    image = run_pass(style_engine, spec.style, seed, style_size, None, start=start, face_mask=mask)
    drift, report = meters.selection.measure_one(image), meters.report(image)
    record = RenderRecord(
        kind="two_pass",
        seed=seed,
        passes={"anchor": spec.anchor.describe(), "style": spec.style.describe()},
        models=models_used(engine, lora, style=style_engine),
        identity=identity.name,
        identity_id=identity.id,
        consent=identity.consent,
        seconds={"anchor": round(middle - started, 3), "style": round(time.perf_counter() - middle, 3)},
        **outcome(drift, report, spec.threshold),
    )
    return TwoPassResult(anchor, image, anchor_drift, drift, report, record)


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if (image.shape[1], image.shape[0]) == size:
        return image
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
