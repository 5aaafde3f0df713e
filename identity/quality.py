"""How much a photo's face can be trusted to say who it is: the weight with which photos are fused."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .faces import Face
from .recognisers.align import aligned_chip

FLOOR = 0.05  # one bad trait makes a photo count little, not nothing
_WEIGHTS_RGB = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class FaceQuality:
    """Quality of one face, each part in [0.05, 1]; `value` is their geometric mean.

    size: smaller box side, from 40 px (worst) to 160 px (enough for any recogniser here).
    sharpness: variance of the Laplacian of the aligned 112 px chip, on a log scale from 30 to 1000.
    frontality: 1 facing the camera, falling with the yaw hint of the landmarks; 0.7 and beyond is the worst.
    exposure: mean brightness near the middle, and little of the face burnt out or black.
    detection: the detector's score from 0.5 to 0.9.
    """

    value: float
    size: float
    sharpness: float
    frontality: float
    exposure: float
    detection: float


def face_quality(pixels: np.ndarray, face: Face) -> FaceQuality:
    """Quality of a face in a uint8 RGB picture (H, W, 3)."""
    luma = aligned_chip(pixels, face).astype(np.float64) @ _WEIGHTS_RGB
    parts = (
        _ramp(face.size, 40.0, 160.0),
        _ramp(float(np.log(max(_laplacian_variance(luma), 1e-6))), float(np.log(30.0)), float(np.log(1000.0))),
        _ramp(0.7 - abs(face.yaw_hint), 0.0, 0.6),
        _exposure(luma[20:100, 24:88]),  # the middle of the chip: skin, no hair or background
        _ramp(face.score, 0.5, 0.9),
    )
    return FaceQuality(float(np.exp(np.mean(np.log(parts)))), *parts)


def _ramp(value: float, worst: float, best: float) -> float:
    return float(np.clip((value - worst) / (best - worst), FLOOR, 1.0))


def _laplacian_variance(luma: np.ndarray) -> float:
    laplacian = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * luma[1:-1, 1:-1]  # (110, 110)
    return float(laplacian.var())


def _exposure(luma: np.ndarray) -> float:
    mean = float(luma.mean()) / 255.0
    balanced = min(_ramp(mean, 0.05, 0.25), _ramp(1.0 - mean, 0.05, 0.25))
    clipped = float(((luma < 4) | (luma > 251)).mean())
    return float(np.clip(balanced * (1.0 - clipped), FLOOR, 1.0))
