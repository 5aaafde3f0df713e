"""The renders of a run, scene by scene: what a run before finished is read back, and only what is missing is made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..engines.lora_file import LoraWeights
from ..engines.protocol import Engine
from ..identity.drift import Drift
from ..identity.identity import Identity
from ..safety.c2pa_signing import Signer
from ..safety.fingerprint import fingerprint
from .blend import blend_faces
from .log import Meters, RenderLog, RenderRecord, outcome
from .passes import PassSpec, made_with, models_used, run_pass
from .rescue import RescueResult
from .three_pass import ThreePassResult, ThreePassSpec, render_three_pass
from .two_pass import TwoPassResult, TwoPassSpec, render_two_pass


def three_pass_name(scene: str) -> str:
    return f"three_pass_{scene}"


def two_pass_name(scene: str) -> str:
    return f"two_pass_{scene}"


@dataclass(frozen=True)
class Renderer:
    """Everything but the scene. size: (width, height). folder: of the finished pictures and their log; what the passes
    before them gave is in its folder `passes`, so that a kill costs one pass at most. signer: signs
    each of them, and those of an earlier run."""

    engine: Engine
    style_engine: Engine | None
    lora: LoraWeights | None
    identity: Identity
    meters: Meters
    seed: int
    size: tuple[int, int]
    folder: Path
    signer: Signer | None = None

    @cached_property
    def _log(self) -> RenderLog:
        return RenderLog(self.folder, signer=self.signer)

    @cached_property
    def _passes(self) -> RenderLog:
        return RenderLog(self.folder / "passes", signer=self.signer)

    def three_pass(self, scene: str, spec: ThreePassSpec) -> ThreePassResult:
        """Raises PromptRefused, and RenderError where the picture there was made with something since swapped."""
        name, told = three_pass_name(scene), self._fingerprint(asdict(spec))
        anchor = self._anchor(spec.anchor)
        record = self._log.finished(name, told)
        styled = None if self._passes.finished(name, told) is None else self._passes.picture(name)
        if record is not None and styled is not None:
            return self._read_back(name, record, anchor, styled)
        result = render_three_pass(
            self.engine, self.lora, self.identity, self.meters, self.seed, spec, self.size, anchor=anchor, styled=styled
        )
        if styled is None:
            before = outcome(result.rescue.before, result.report_before, spec.threshold)
            passes = {"anchor": spec.anchor.describe(), "style": spec.style.describe()}
            self._passes.write(result.styled, name, self._record("styled", passes, told, before))
        self._log.write(result.final, name, replace(result.record, fingerprint=told))
        return result

    def two_pass(self, scene: str, spec: TwoPassSpec, style_size: tuple[int, int] | None = None) -> TwoPassResult:
        """As `three_pass`. Wants a style engine."""
        assert self.style_engine is not None
        name = two_pass_name(scene)
        told = self._fingerprint({**asdict(spec), "style_size": style_size}, self.style_engine)
        anchor = self._anchor(spec.anchor)
        record = self._log.finished(name, told)
        if record is not None:
            image = self._log.picture(name)
            measure = self.meters.selection.measure_one
            return TwoPassResult(anchor, image, measure(anchor), measure(image), self.meters.report(image), record)
        result = render_two_pass(
            self.engine, self.style_engine, self.lora, self.identity, self.meters, self.seed, spec, self.size,
            style_size, anchor=anchor,
        )  # fmt: skip
        self._log.write(result.image, name, replace(result.record, fingerprint=told))
        return result

    def refuse_swapped(self, scenes: list[str]) -> None:
        """Before any work: RenderError where a scene's pictures were made with another model, identity or recogniser.
        The LoRA and the seed are not known yet."""
        for scene in scenes:
            self._log.refuse_swapped(three_pass_name(scene), self._fingerprint({}), "lora")
            if self.style_engine is not None:
                self._log.refuse_swapped(two_pass_name(scene), self._fingerprint({}, self.style_engine), "lora")

    def _anchor(self, spec: PassSpec) -> np.ndarray:
        """The first pass, which every scene begins with."""
        told = self._fingerprint(asdict(spec))
        if self._passes.finished("anchor", told) is None:
            image = run_pass(self.engine, spec, self.seed, self.size, self.lora)
            measured = outcome(self.meters.selection.measure_one(image), self.meters.report(image))
            self._passes.write(image, "anchor", self._record("anchor", {"anchor": spec.describe()}, told, measured))
            return image
        return self._passes.picture("anchor")

    def _read_back(
        self, name: str, record: RenderRecord, anchor: np.ndarray, styled: np.ndarray
    ) -> ThreePassResult:
        final = self._log.picture(name)
        measure = self.meters.selection.measure_one
        anchor_drift, before, after = measure(anchor), measure(styled), measure(final)
        rescue = record.passes["rescue"]
        blend = float(rescue["blend"])
        mask = _blend_mask(styled, anchor, before, anchor_drift, blend)
        rescued = RescueResult(final, mask, before, after, blend, bool(rescue["healed"]), record.notes[0])
        report_before, report_after = self.meters.report(styled), self.meters.report(final)
        return ThreePassResult(
            self.seed, anchor, styled, final, anchor_drift, rescued, report_before, report_after, record
        )

    def _record(
        self, kind: str, passes: Mapping[str, Mapping[str, Any]], told: str, measured: Mapping[str, Any]
    ) -> RenderRecord:
        return RenderRecord(
            kind=kind,
            seed=self.seed,
            passes=passes,
            models=models_used(self.engine, self.lora),
            identity=self.identity.name,
            identity_id=self.identity.id,
            consent=self.identity.consent,
            fingerprint=told,
            **measured,
        )

    def _fingerprint(self, spec: Mapping[str, Any], style: Engine | None = None) -> str:
        settings = json.dumps([self.seed, spec], sort_keys=True)
        size = f"{self.size[0]} x {self.size[1]}"
        return fingerprint(**made_with(self.engine, self.lora, self.meters, style), settings=settings + size)


def _blend_mask(
    styled: np.ndarray, anchor: np.ndarray, before: Drift, source: Drift, blend: float
) -> np.ndarray:
    """Where the rescue blended, which its result alone does not tell."""
    if not blend or before.face is None or source.face is None:
        return np.zeros(styled.shape[:2], np.float32)
    return blend_faces(styled, anchor, before.face.landmarks, source.face.landmarks, blend).mask
