"""Aligning a face by its five landmarks before a recogniser sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..faces import Face

# Where the five landmarks of an upright face lie in the 112 x 112 chip that ArcFace and SFace were trained on.
# Deng et al.: ArcFace, 2019 (the reference implementation's template).
ARCFACE_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
CHIP_SIZE = 112


def similarity_transform(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rotation, uniform scale and shift that bring `source` (N, 2) closest to `target` (N, 2): float (2, 3).

    Least squares, never a reflection. Umeyama: Least-squares estimation of transformation parameters between two
    point patterns, 1991.
    """
    source = np.asarray(source, dtype=np.float64)
    target = np.asarray(target, dtype=np.float64)
    source_mean, target_mean = source.mean(0), target.mean(0)
    x, y = source - source_mean, target - target_mean
    variance = float((x**2).sum()) / len(x)
    u, singular, vt = np.linalg.svd(y.T @ x / len(x))
    signs = np.array([1.0, np.sign(np.linalg.det(u @ vt)) or 1.0])
    rotation = u @ np.diag(signs) @ vt
    scale = float((singular * signs).sum()) / max(variance, 1e-12)
    return np.column_stack([scale * rotation, target_mean - scale * rotation @ source_mean])


def aligned_chip(
    pixels: np.ndarray, face: Face, *, template: np.ndarray = ARCFACE_TEMPLATE, size: int = CHIP_SIZE
) -> np.ndarray:
    """The face as an upright uint8 RGB chip (size, size, 3), its landmarks on the template's.

    A face much larger than the chip is area-reduced first: plain bilinear sampling would alias skin texture into the
    embedding. What lies outside the picture is black, as in the networks' training data.
    """
    import cv2

    matrix = similarity_transform(face.landmarks, template)
    region, shift = _region(pixels, matrix, size)
    matrix = np.column_stack([matrix[:, :2], matrix[:, 2] + matrix[:, :2] @ shift])
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    steps = int(1.0 / max(scale, 1e-6))
    if steps >= 2 and min(region.shape[:2]) >= steps:
        height, width = region.shape[0] // steps, region.shape[1] // steps
        region = cv2.resize(region[: height * steps, : width * steps], (width, height), interpolation=cv2.INTER_AREA)
        # pixel centres: position p of the large picture is (p + 0.5) / steps - 0.5 of the small one
        offset = matrix[:, :2] @ np.full(2, (steps - 1) / 2)
        matrix = np.column_stack([matrix[:, :2] * steps, matrix[:, 2] + offset])
    chip = cv2.warpAffine(region, matrix, (size, size), flags=cv2.INTER_LINEAR)
    return np.ascontiguousarray(chip)


def _region(pixels: np.ndarray, matrix: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The part of the picture that the chip can see, with a margin, and its corner (x, y)."""
    inverse = np.linalg.inv(matrix[:, :2])
    corners = np.array([[0, 0], [size, 0], [0, size], [size, size]], dtype=np.float64)
    seen = (corners - matrix[:, 2]) @ inverse.T
    margin = 0.1 * float(np.ptp(seen[:, 0])) + 4
    height, width = pixels.shape[:2]
    left, top = np.clip(np.floor(seen.min(0) - margin), 0, [width - 1, height - 1]).astype(int)
    right, bottom = np.clip(np.ceil(seen.max(0) + margin), [left + 1, top + 1], [width, height]).astype(int)
    return np.ascontiguousarray(pixels[top:bottom, left:right]), np.array([left, top], dtype=np.float64)
