"""The two fixed yardsticks of a run: the denoising probe (has the loss stopped falling?) and the identity probe
(is it the person?). Both see the same noise at every check, so that checks compare pair by pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..engines.memory import by_rows
from ..engines.protocol import Conditioning, Engine, SampleRequest, TrainableDenoiser
from ..identity.drift import DriftMeter
from .losses import loss_map
from .phases import IdentityProbeSpec, ProbeSpec
from .training_set import TrainingSet


class DenoisingProbe:
    """`pairs` (timestep, noise) pairs, one in each of as many equal strata of the timesteps, over all the pictures."""

    def __init__(
        self,
        denoiser: TrainableDenoiser,
        data: TrainingSet,
        spec: ProbeSpec,
        seed: int,
        free_memory: Callable[[], None] = lambda: None,
    ) -> None:
        self._denoiser, self._data, self._free_memory, self._at_once = denoiser, data, free_memory, 8
        generator = torch.Generator().manual_seed(seed)
        strata = (torch.arange(spec.pairs) + torch.rand(spec.pairs, generator=generator)) / spec.pairs
        self._t = (strata * denoiser.rule.steps).long().clamp(max=denoiser.rule.steps - 1)
        self._rows = torch.arange(spec.pairs) % len(data.latents)
        self._eps = torch.randn((spec.pairs, *data.latents.shape[1:]), generator=generator)

    @torch.no_grad()
    def residuals(self) -> Tensor:
        """Output minus target of each pair, (pairs, C, h, w), CPU."""
        parts, self._at_once = by_rows(range(len(self._t)), self._at_once, self._residuals_of, self._free_memory)
        return torch.cat(parts)

    def _residuals_of(self, pairs: Sequence[int]) -> Tensor:
        part = list(pairs)
        rows, t, eps = self._rows[part], self._t[part], self._eps[part].to(self._denoiser.device)
        z = self._data.latents[rows].to(self._denoiser.device)
        x_t = self._denoiser.rule.add_noise(z, eps, t)
        output = self._denoiser.predict(x_t, t, [self._data.conditioning[r] for r in rows])
        return (output - self._denoiser.rule.target(z, eps, t)).cpu()

    def losses(self) -> np.ndarray:
        """(pairs,) float64: the masked squared error of each pair, the same measure in every phase."""
        residuals = self.residuals()
        squared = loss_map("mse", residuals, torch.zeros_like(residuals))
        masks = self._data.masks[self._rows]
        total = (squared * masks).sum((1, 2, 3)) / (masks.sum((1, 2, 3)) * squared.shape[1])
        return total.double().numpy()


@dataclass(frozen=True)
class IdentityCheck:
    """drift: mean over the probe's renders, a render without a face counting 1. detected: share with a face.
    report_drift: the same by the reporting recogniser, which chooses nothing; None where there is none."""

    step: int
    drift: float
    detected: float
    report_drift: float | None = None


class IdentityProbe:
    """Fixed prompts and seeds, rendered with the adapter as it stands."""

    def __init__(
        self, engine: Engine, meter: DriftMeter, spec: IdentityProbeSpec, size: int, reporting: DriftMeter | None
    ) -> None:
        self._engine, self._meter, self._spec, self._size = engine, meter, spec, size
        self._reporting, self._at_once = reporting, len(spec.seeds)
        self._positive = [engine.encode_prompt(prompt) for prompt in spec.prompts]
        self._negative = engine.encode_prompt(spec.negative)

    def check(self, step: int) -> IdentityCheck:
        images = []
        for positive in self._positive:
            parts, self._at_once = by_rows(
                self._spec.seeds,
                self._at_once,
                lambda seeds, positive=positive: self._render(positive, seeds),  # type: ignore[misc]
                self._engine.free_memory,
            )
            images += [image for part in parts for image in part]
        drifts = self._meter.measure(images)
        told = None if self._reporting is None else self._reporting.measure(images)
        return IdentityCheck(
            step,
            float(np.mean([d.value for d in drifts])),
            float(np.mean([d.detected for d in drifts])),
            None if told is None else float(np.mean([d.value for d in told])),
        )

    def _render(self, positive: Conditioning, seeds: Sequence[int]) -> list[np.ndarray]:
        request = SampleRequest(
            positive=positive,
            negative=self._negative,
            seeds=tuple(seeds),
            width=self._size,
            height=self._size,
            steps=self._spec.steps,
            cfg=self._spec.cfg,
            sampler=self._spec.sampler,
            scheduler=self._spec.scheduler,
        )
        return self._engine.decode_latents(self._engine.sample(request).latents)
