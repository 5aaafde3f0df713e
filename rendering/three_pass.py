"""The 3-pass dynamic rendering (paper, section 5.1): anchor the identity, style the scene, rescue the drift."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..engines.lora_file import LoraWeights
from ..engines.protocol import Engine
from ..errors import RenderError
from ..identity.drift import LOCK_THRESHOLD, Drift
from ..identity.identity import Identity
from ..identity.prepare import soft_face_mask
from .log import Meters, RenderRecord, outcome
from .passes import PassSpec, models_used, run_pass
from .rescue import RescueResult, rescue_blend


@dataclass(frozen=True)
class ThreePassSpec:
    """The paper's strengths and cfgs are the defaults; prompts are the caller's. blend: cap of the rescue, up to 0.30.

    The style pass denoises the scene in full and the face only in part, so that light and background follow the prompt.
    """

    anchor: PassSpec
    style: PassSpec
    rescue: PassSpec
    blend: float = 0.30
    threshold: float = LOCK_THRESHOLD


def paper_passes(anchor_prompt: str, style_prompt: str, negative: str = "", **sampling: Any) -> ThreePassSpec:
    """Strength 1.0 / 0.85 / 0.90, cfg 5.8 / 6.3 / 6.8, blend 30 %. sampling: steps, sampler, scheduler of each pass."""
    base = PassSpec(anchor_prompt, negative, **sampling)
    return ThreePassSpec(
        anchor=replace(base, strength=1.0, cfg=5.8),
        style=replace(base, prompt=style_prompt, strength=0.85, cfg=6.3, denoise=1.0, face_denoise=0.55),
        rescue=replace(base, prompt=style_prompt, strength=0.90, cfg=6.8, denoise=0.25),
    )


@dataclass(frozen=True)
class ThreePassResult:
    """anchor, styled, final: uint8 RGB. Drifts by the selection recogniser; report_*: by the reporting one, or None."""

    seed: int
    anchor: np.ndarray
    styled: np.ndarray
    final: np.ndarray
    anchor_drift: Drift
    rescue: RescueResult
    report_before: Drift | None
    report_after: Drift | None
    record: RenderRecord

    @property
    def drift(self) -> Drift:
        return self.rescue.after

    @property
    def locked(self) -> bool:
        return self.record.locked


def render_three_pass(
    engine: Engine,
    lora: LoraWeights | None,
    identity: Identity,
    meters: Meters,
    seed: int,
    spec: ThreePassSpec,
    size: tuple[int, int],
    *,
    anchor: np.ndarray | None = None,
    styled: np.ndarray | None = None,
) -> ThreePassResult:
    """The locked seed is the seed of every pass. anchor, styled: passes that were rendered before, to spare their time.

    A render that misses the lock is returned with its drift and `locked` false, never hidden. Raises PromptRefused
    before the first pass, and RenderError for an anchor of another size.
    """
    clock = _Clock()
    for name, asked in (("anchor prompt", spec.anchor), ("scene prompt", spec.style), ("rescue prompt", spec.rescue)):
        asked.require_allowed(name)
    if anchor is None:
        anchor = run_pass(engine, spec.anchor, seed, size, lora)
    elif (anchor.shape[1], anchor.shape[0]) != size:
        raise RenderError(
            f"The anchor is {anchor.shape[1]} x {anchor.shape[0]} px and the render {size[0]} x {size[1]}; "
            "give the render the anchor's width and height."
        )
    anchor_drift = meters.selection.measure_one(anchor)
    clock.lap("anchor")
    face_mask = None if anchor_drift.face is None else soft_face_mask(anchor_drift.face, anchor.shape[:2])
    if styled is None:
        styled = run_pass(engine, spec.style, seed, size, lora, start=anchor, face_mask=face_mask)
    clock.lap("style")

    def heal(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return run_pass(engine, spec.rescue, seed, size, lora, start=image)

    rescued = rescue_blend(
        styled, anchor, meters.selection, cap=spec.blend, threshold=spec.threshold, heal=heal
    )
    clock.lap("rescue")
    report_before, report_after = meters.report(styled), meters.report(rescued.image)
    record = RenderRecord(
        kind="three_pass",
        seed=seed,
        passes={
            "anchor": spec.anchor.describe(),
            "style": spec.style.describe(),
            "rescue": spec.rescue.describe() | {"blend": rescued.blend, "cap": spec.blend, "healed": rescued.healed},
        },
        models=models_used(engine, lora),
        identity=identity.name,
        identity_id=identity.id,
        consent=identity.consent,
        composite=rescued.blend > 0.0,
        notes=(rescued.note,),
        seconds=clock.laps,
        **outcome(rescued.after, report_after, spec.threshold),
    )
    return ThreePassResult(
        seed, anchor, styled, rescued.image, anchor_drift, rescued, report_before, report_after, record
    )


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self._last, 3)
        self._last = now
