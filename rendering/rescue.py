"""Pass 3, the rescue: bring back just enough of the anchor's face to reach the lock (paper, section 5.1)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..engines.lora_file import LoraWeights
from ..engines.protocol import Engine
from ..errors import RenderError
from ..identity.drift import LOCK_THRESHOLD, Drift, DriftMeter
from ..identity.identity import Identity
from .blend import MAX_BLEND, BlendResult, blend_faces
from .log import Meters, RenderRecord, outcome
from .passes import PassSpec, models_used, run_pass

Heal = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(blended picture, face mask) -> the picture rendered again at low denoise under that mask."""

_HEALING_SIDE = 64  # px: what every UNet here can halve as often as it must
STEPS = 4  # blends tried between nothing and the cap


@dataclass(frozen=True)
class RescueResult:
    """image: uint8 (H, W, 3); outside `mask` its pixels are the styled picture's, bit for bit. blend: the share taken,
    0 where nothing was blended. healed: the low-denoise pass was kept. note: why it ended as it did, a sentence."""

    image: np.ndarray
    mask: np.ndarray
    before: Drift
    after: Drift
    blend: float
    healed: bool
    note: str


def rescue_blend(
    styled: np.ndarray,
    anchor: np.ndarray,
    meter: DriftMeter,
    *,
    cap: float = MAX_BLEND,
    threshold: float = LOCK_THRESHOLD,
    heal: Heal | None = None,
) -> RescueResult:
    """The smallest blend up to `cap` that reaches the lock; failing that the one with the lowest drift, said to be so.

    styled, anchor: uint8 RGB of any sizes. meter: the selection recogniser. A styled picture that is locked already,
    or that no blend improves, comes back as it is. Raises RenderError for a cap outside (0, MAX_BLEND].
    """
    if not 0.0 < cap <= MAX_BLEND:
        raise RenderError(f"The blend cap {cap} is out of range; give a value above 0 and up to {MAX_BLEND:.2f}.")
    before = meter.measure_one(styled)
    nothing = np.zeros(styled.shape[:2], np.float32)

    def unchanged(note: str) -> RescueResult:
        return RescueResult(styled, nothing, before, before, 0.0, False, note)

    if before.locked(threshold):
        return unchanged(f"The styled picture is locked already (drift {before.value:.3f}).")
    source = meter.measure_one(anchor)
    if source.face is None:
        return unchanged("The anchor shows no face that could be blended in; take another seed for it.")
    if before.face is None:
        return unchanged("The styled picture shows no face to blend into; lower the style pass's face denoise.")
    best: RescueResult | None = None
    for amount in np.linspace(cap / STEPS, cap, STEPS):
        try:
            blended = blend_faces(styled, anchor, before.face.landmarks, source.face.landmarks, float(amount))
        except RenderError as error:
            return unchanged(str(error))
        for image, healed in _candidates(styled, blended, heal):
            after = meter.measure_one(image)
            if best is None or after.value < best.after.value:
                best = RescueResult(image, blended.mask, before, after, float(amount), healed, "")
            if after.locked(threshold):
                note = f"Locked at a blend of {amount:.0%} (drift {before.value:.3f} to {after.value:.3f})."
                return RescueResult(image, blended.mask, before, after, float(amount), healed, note)
    if best is None or best.after.value >= before.value:
        return unchanged(f"No blend up to {cap:.0%} lowered the drift of {before.value:.3f}; not locked.")
    change = f"from {before.value:.3f} to {best.after.value:.3f}"
    note = f"Not locked: a blend of {best.blend:.0%} brought the drift {change}."
    return RescueResult(best.image, best.mask, before, best.after, best.blend, best.healed, note)


@dataclass(frozen=True)
class RescuedPicture:
    """report_*: drifts by the reporting recogniser, or None."""

    rescue: RescueResult
    report_before: Drift | None
    report_after: Drift | None
    record: RenderRecord


def rescue_picture(
    styled: np.ndarray,
    anchor: np.ndarray,
    identity: Identity,
    meters: Meters,
    seed: int,
    *,
    cap: float = MAX_BLEND,
    threshold: float = LOCK_THRESHOLD,
    engine: Engine | None = None,
    healing: PassSpec | None = None,
    lora: LoraWeights | None = None,
) -> RescuedPicture:
    """The rescue blend on any two pictures, of any sizes, with its record. With an engine and a `healing` pass each
    blend is rendered again under the mask by that pass. Raises PromptRefused, RenderError."""
    started = time.perf_counter()
    heal: Heal | None = None
    if engine is not None and healing is not None:
        healing.require_allowed()
        model, spec = engine, healing

        def heal(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
            height, width = image.shape[:2]
            fitting = _fitting(image, math.lcm(_HEALING_SIDE, model.latent_factor))
            size = (fitting.shape[1], fitting.shape[0])
            return run_pass(model, spec, seed, size, lora, start=fitting)[:height, :width]

    rescued = rescue_blend(styled, anchor, meters.selection, cap=cap, threshold=threshold, heal=heal)
    report_before, report_after = meters.report(styled), meters.report(rescued.image)
    described = {} if healing is None else healing.describe()
    record = RenderRecord(
        kind="rescue",
        seed=seed,
        passes={"rescue": described | {"blend": rescued.blend, "cap": cap, "healed": rescued.healed}},
        models={} if engine is None or healing is None else models_used(engine, lora),
        identity=identity.name,
        identity_id=identity.id,
        consent=identity.consent,
        composite=rescued.blend > 0.0,
        notes=(rescued.note,),
        seconds={"rescue": round(time.perf_counter() - started, 3)},
        **outcome(rescued.after, report_after, threshold),
    )
    return RescuedPicture(rescued, report_before, report_after, record)


def _fitting(image: np.ndarray, step: int) -> np.ndarray:
    """The picture continued to the right and downwards by its mirror image, to sides that are multiples of `step`."""
    height, width = image.shape[:2]
    return np.pad(image, ((0, -height % step), (0, -width % step), (0, 0)), mode="symmetric")


def _candidates(styled: np.ndarray, blended: BlendResult, heal: Heal | None) -> list[tuple[np.ndarray, bool]]:
    """The healed picture first, since its seam is gone; the plain blend after it."""
    if heal is None:
        return [(blended.image, False)]
    return [(within(styled, heal(blended.image, blended.mask), blended.mask), True), (blended.image, False)]


def within(outside: np.ndarray, inside: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`inside` under the soft mask, `outside` elsewhere; where the mask is 0, `outside` bit for bit."""
    weight = mask[..., None]
    mixed = np.rint(outside * (1.0 - weight) + inside * weight).clip(0, 255).astype(np.uint8)
    return np.where(weight > 0.0, mixed, outside)
