"""Seeded jitter of the prepared faces, so that one to three photos do not become one to three fixed layouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .training_set import TrainingImage

OVERSAMPLING = 2  # pictures are warped at this multiple of the size wanted and then reduced, against aliasing


class MaskedPicture(Protocol):
    """What identity/prepare.PreparedFace and TrainingImage have in common; see there."""

    @property
    def pixels(self) -> np.ndarray: ...

    @property
    def face_mask(self) -> np.ndarray: ...

    @property
    def valid_mask(self) -> np.ndarray: ...


@dataclass(frozen=True)
class JitterSpec:
    """copies: pictures made of each prepared face besides itself. shift: share of the side; scale: share; rotation:
    degrees; brightness: share; each is the standard deviation, clipped at two. No flips: no face is symmetric."""

    copies: int = 0
    shift: float = 0.02
    scale: float = 0.05
    rotation: float = 3.0
    brightness: float = 0.05
    seed: int = 0


def training_images(
    faces: Sequence[MaskedPicture], captions: Sequence[str], size: int, jitter: JitterSpec
) -> list[TrainingImage]:
    """faces and captions pair up. Each face at `size` pixels a side, followed by its jittered copies."""
    rng = np.random.default_rng(jitter.seed)
    images = []
    for face, caption in zip(faces, captions, strict=True):
        images.append(_warped(face, caption, size, np.zeros(5), jitter))
        for _ in range(jitter.copies):
            images.append(_warped(face, caption, size, rng.standard_normal(5).clip(-2.0, 2.0), jitter))
    return images


def _warped(face: MaskedPicture, caption: str, size: int, draw: np.ndarray, jitter: JitterSpec) -> TrainingImage:
    import cv2

    side = size * OVERSAMPLING
    reduction = cv2.INTER_AREA if face.pixels.shape[0] > side else cv2.INTER_CUBIC
    scale = float(np.exp(draw[0] * jitter.scale))
    matrix = cv2.getRotationMatrix2D((side / 2, side / 2), float(draw[1]) * jitter.rotation, scale)
    matrix[:, 2] += draw[2:4] * jitter.shift * side

    def warp(plane: np.ndarray, border: int) -> np.ndarray:
        enlarged = cv2.resize(plane, (side, side), interpolation=reduction)
        moved = cv2.warpAffine(enlarged, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=border)
        return cv2.resize(moved, (size, size), interpolation=cv2.INTER_AREA)

    pixels = warp(face.pixels, cv2.BORDER_REFLECT_101).astype(np.float32) * (1.0 + draw[4] * jitter.brightness)
    return TrainingImage(
        np.ascontiguousarray(pixels.round().clip(0, 255).astype(np.uint8)),
        warp(face.face_mask, cv2.BORDER_REPLICATE).clip(0.0, 1.0),
        warp(face.valid_mask, cv2.BORDER_CONSTANT).clip(0.0, 1.0),
        caption,
    )
