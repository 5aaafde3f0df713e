"""How a diffusion model noises a latent, and what its output means: one rule for eps, v, x0 and flow models.

Every model here is trained on  x_t = signal(t) * x0 + noise(t) * eps  and differs only in what it predicts:

| prediction     | output           | source |
| -------------- | ---------------- | ------ |
| epsilon        | eps              | Ho et al. 2020 (DDPM) |
| v_prediction   | signal*eps - noise*x0 | Salimans & Ho 2022 |
| sample         | x0               | Ho et al. 2020 |
| flow           | eps - x0         | Lipman et al. 2023; Liu et al. 2023 (rectified flow) |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import CheckpointError

Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]
PREDICTIONS: tuple[Prediction, ...] = ("epsilon", "v_prediction", "sample", "flow")


@dataclass(frozen=True)
class NoisingRule:
    """signal and noise: float32 (T,), the two factors of each of the T training timesteps, on the CPU."""

    prediction: Prediction
    signal: Tensor
    noise: Tensor

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise CheckpointError(
                f"The model's prediction type '{self.prediction}' is not one of {', '.join(PREDICTIONS)}; "
                "name the right one when loading the checkpoint."
            )

    @property
    def steps(self) -> int:
        return len(self.signal)

    def _factors(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1,) + (1,) * (like.ndim - 1)
        index = t.to("cpu")
        signal, noise = self.signal[index], self.noise[index]
        return signal.to(like.device).view(shape), noise.to(like.device).view(shape)

    def add_noise(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x0, eps: (N, C, h, w); t: (N,) long in [0, T). Returns x_t in float32."""
        signal, noise = self._factors(t, x0)
        return signal * x0.float() + noise * eps.float()

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """The output that a perfect model gives for x_t, float32 (N, C, h, w)."""
        signal, noise = self._factors(t, x0)
        x0, eps = x0.float(), eps.float()
        if self.prediction == "epsilon":
            return eps
        if self.prediction == "v_prediction":
            return signal * eps - noise * x0
        if self.prediction == "sample":
            return x0
        return eps - x0

    def x0(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The clean latent that `output` stands for, float32 (N, C, h, w)."""
        signal, noise = self._factors(t, x_t)
        return x0_from_output(self.prediction, output.float(), x_t.float(), signal.clamp(min=1e-6), noise)

    def loss_weight(self, t: Tensor) -> Tensor:
        """(N,) weight of each sample's loss.

        An x0 model needs the low noise levels raised, or it never learns detail: min(1 / noise^2, 4), the
        truncated form of Salimans & Ho 2022. The other targets carry that weight in themselves: 1.
        """
        if self.prediction != "sample":
            return torch.ones(len(t))
        return (1.0 / self.noise[t.to("cpu")].square()).clamp(max=4.0)

    def model_time(self, t: Tensor) -> Tensor:
        """What the module is given as its timestep: the index, or for flow models 1000 times the noise level."""
        return self.noise[t.to("cpu")] * 1000.0 if self.prediction == "flow" else t


def x0_from_output(prediction: Prediction, output: Tensor, x_t: Tensor, signal: Any, noise: Any) -> Tensor:
    """Solves the table above for x0; signal and noise are the factors of x_t, numbers or broadcastable tensors."""
    if prediction == "epsilon":
        return (x_t - noise * output) / signal
    if prediction == "v_prediction":
        return signal * x_t - noise * output
    if prediction == "sample":
        return output
    return x_t - noise * output


def discrete_rule(prediction: Prediction, alphas_cumprod: Tensor) -> NoisingRule:
    """From a DDPM-style table, alphas_cumprod (T,) in [0, 1]."""
    table = alphas_cumprod.detach().to("cpu", torch.float32)
    return NoisingRule(prediction, table.sqrt(), (1.0 - table).sqrt())


def flow_rule(steps: int = 1000, shift: float = 1.0) -> NoisingRule:
    """Rectified flow: noise level sigma = shift*u / (1 + (shift-1)*u) for u = 1/T .. 1 (Esser et al. 2024, eq. 23)."""
    u = torch.arange(1, steps + 1, dtype=torch.float32) / steps
    sigma = shift * u / (1.0 + (shift - 1.0) * u)
    return NoisingRule("flow", 1.0 - sigma, sigma)
