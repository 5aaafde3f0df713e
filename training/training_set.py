"""What the trainer sees: pictures encoded once, their loss masks at latent resolution, their captions encoded once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..engines.protocol import Conditioning, Engine
from ..errors import TrainingError
from ..safety.prompt import require_allowed


@dataclass(frozen=True)
class TrainingImage:
    """pixels: uint8 (H, W, 3). face_mask, valid_mask: float32 (H, W) in [0, 1]; see identity/prepare.py."""

    pixels: np.ndarray
    face_mask: np.ndarray
    valid_mask: np.ndarray
    caption: str


@dataclass(frozen=True)
class TrainingSet:
    """latents (M, C, h, w) and masks (M, 1, h, w) float32, CPU; conditioning: one a picture; empty: no caption."""

    latents: Tensor
    masks: Tensor
    conditioning: tuple[Conditioning, ...]
    empty: Conditioning

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for tensor in (self.latents, self.masks):
            digest.update(tensor.contiguous().numpy().tobytes())
        digest.update("\n".join(c.prompt for c in self.conditioning).encode())
        return digest.hexdigest()[:16]


def build_training_set(engine: Engine, images: Sequence[TrainingImage], *, background_weight: float) -> TrainingSet:
    """Encodes the pictures and captions with `engine`. The loss weight is 1 on the face, `background_weight` off it,
    and 0 where a rotation left no picture. Raises PromptRefused for a caption that the guard refuses."""
    for caption in dict.fromkeys(image.caption for image in images):
        require_allowed(caption, field="caption")
    if not images:
        raise TrainingError("There is no picture to train on; give at least one prepared face.")
    latents = engine.encode_images([image.pixels for image in images]).cpu()
    broken = [index for index in range(len(images)) if not bool(torch.isfinite(latents[index]).all())]
    if broken:
        raise TrainingError(
            f"The latents of picture {broken[0] + 1} of {len(images)} are not finite: the VAE overflowed, as some "
            "do in float16; run it in float32 or bfloat16."
        )
    height, width = latents.shape[-2:]
    weights = [
        (background_weight + (1.0 - background_weight) * image.face_mask) * (image.valid_mask > 0.999)
        for image in images
    ]
    stack = torch.from_numpy(np.stack(weights).astype(np.float32))[:, None]
    masks = torch.nn.functional.adaptive_avg_pool2d(stack, (height, width))
    captions = {caption: engine.encode_prompt(caption) for caption in dict.fromkeys(i.caption for i in images)}
    return TrainingSet(latents, masks, tuple(captions[i.caption] for i in images), engine.encode_prompt(""))
