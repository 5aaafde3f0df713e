"""What a diffusion host must be able to do for this pack, and no more.

`engines/diffusers.py` does it with diffusers components from local files; `engines/comfy.py` with the MODEL, CLIP and
VAE that a user wired in. Training, seed search and rendering are written once, against this page.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..safety.prompt import require_renderable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from .lora_file import LoraWeights
    from .noising import NoisingRule


@dataclass(frozen=True)
class ModelCard:
    """What a render log says of a model. sha256 is over the unpatched weights; variant tells what else decides its
    pictures (patches on the weights, noise schedule, text encoder, VAE), empty where the weights say it all."""

    name: str
    sha256: str
    architecture: str
    prediction: str
    native_size: int  # pixels a side that the model was trained on
    variant: str = ""


@dataclass(frozen=True)
class Conditioning:
    """An encoded prompt. `data` belongs to the engine that made it."""

    prompt: str
    data: Any
    unknown_words: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepView:
    """What a callback sees after each sampling step: the predicted clean latents of the rows still alive.

    step: 1 .. total; rows: their places in the request's seeds; x0: (len(rows), C, h, w), after cfg.
    """

    step: int
    total: int
    rows: tuple[int, ...]
    x0: Tensor


StepCallback = Callable[[StepView], Collection[int] | None]
"""Returns the rows to keep, or None for all. An empty collection ends the run."""


@dataclass(frozen=True)
class SampleRequest:
    """One batch: a row for every seed. Each row equals a run of that seed alone.

    denoise: (0, 1], the share of the noise schedule that is run when `init` is given. init: latents (1 or N, C, h, w).
    mask: (1 or N, 1, h, w) in [0, 1], latent resolution: 0 keeps `init`, 1 is sampled through the whole run, and
    values between join in once that share of the run is left (differential diffusion, Levin & Fried 2023).

    A request that the prompt guard refuses cannot be made: every picture of every engine starts here, so no render
    path can leave the guard out. Raises PromptRefused.
    """

    positive: Conditioning
    negative: Conditioning
    seeds: tuple[int, ...]
    width: int
    height: int
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    denoise: float = 1.0
    init: Tensor | None = None
    mask: Tensor | None = None
    lora: LoraWeights | None = None
    strength: float = 1.0

    def __post_init__(self) -> None:
        require_renderable(self.positive.prompt, self.negative.prompt, self.cfg)


@dataclass(frozen=True)
class SampleResult:
    """The rows that were kept to the end, and their latents (len(rows), C, h, w)."""

    rows: tuple[int, ...]
    latents: Tensor


class TrainableDenoiser(Protocol):
    """The module to adapt, lent inside `Engine.trainable()`; on leaving, the host has its model back unchanged."""

    module: torch.nn.Module
    rule: NoisingRule
    device: torch.device

    def predict(self, x_t: Tensor, t: Tensor, conditioning: Sequence[Conditioning]) -> Tensor:
        """x_t (N, C, h, w) and t (N,) in [0, rule.steps) -> the model's output, same shape, float32."""

    def lora_key(self, module_name: str) -> str:
        """The name under which a LoRA file addresses a submodule (kohya layout, without its suffix)."""

    def checkpoint_gradients(self) -> None:
        """From now on until the end of the lending, activations are recomputed where memory is dearer than time."""


class Engine(Protocol):
    @property
    def card(self) -> ModelCard: ...

    @property
    def samplers(self) -> tuple[str, ...]: ...

    @property
    def schedulers(self) -> tuple[str, ...]: ...

    @property
    def latent_factor(self) -> int:
        """Pixels a side per latent cell; widths and heights are multiples of it."""

    def encode_prompt(self, prompt: str) -> Conditioning: ...

    def encode_images(self, images: Sequence[np.ndarray]) -> Tensor:
        """uint8 RGB (H, W, 3) each, of one size -> latents (N, C, h, w), float32."""

    def decode_latents(self, latents: Tensor) -> list[np.ndarray]:
        """Latents (N, C, h, w) -> uint8 RGB (H, W, 3) each."""

    def sample(self, request: SampleRequest, on_step: StepCallback | None = None) -> SampleResult: ...

    def trainable(self) -> AbstractContextManager[TrainableDenoiser]: ...

    def free_memory(self) -> None:
        """Gives back what is cached and not in use: memory ran out, and a smaller batch is tried next."""
