"""Pass 3, the rescue: bring back just enough of the anchor's face to reach the lock (paper, section 5.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import RenderError
from ..identity.drift import LOCK_THRESHOLD, Drift, DriftMeter
from .blend import MAX_BLEND, BlendResult, blend_faces

Heal = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(blended picture, face mask) -> the picture rendered again at low denoise under that mask."""

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
