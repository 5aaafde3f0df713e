"""From linear light to a finished picture: the plain studio look and a photographic film look."""

from __future__ import annotations

import cv2
import numpy as np

from tools.people.mesh import Array
from tools.people.palette import GAMMA
from tools.people.view import View

LOOKS = ("studio", "film")
_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)


def develop(linear: Array, view: View, look: str) -> Array:
    """Linear RGB (size,size,3) to display values, uint8 of the same shape."""
    rng = np.random.default_rng([view.seed, 5])
    size = linear.shape[0]
    picture: Array = np.clip(linear / (1 + 0.18 * linear), 0, 1) ** (1 / GAMMA)
    if look == "film":
        picture = _film(picture, rng)
    blur = view.blur * size / 128
    if blur > 0.05:
        picture = cv2.GaussianBlur(picture, (0, 0), blur)
    picture = picture + rng.normal(0, view.noise, picture.shape)
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def _film(picture: Array, rng: np.random.Generator) -> Array:
    """Deeper contrast, less colour, teal shadows and amber highlights, vignette, grain."""
    size = picture.shape[0]
    curve = picture * picture * (3 - 2 * picture)
    picture = 0.35 * picture + 0.65 * curve
    luma = (picture @ _LUMA)[..., None]
    picture = luma + 0.70 * (picture - luma)
    shadows, highlights = np.array([-0.010, 0.002, 0.014]), np.array([0.030, 0.008, -0.034])
    picture = picture * 0.95 + 0.014 + (1 - luma) * shadows + luma * highlights
    across = np.linspace(-1, 1, size)
    picture = picture * (1 - 0.18 * (across[:, None] ** 2 + across[None] ** 2) ** 1.3)[..., None]
    grain = cv2.GaussianBlur(rng.normal(0, 1, (size, size)), (0, 0), 0.55)
    return (picture + 0.024 * (grain * (1.1 - luma[..., 0]))[..., None]).astype(np.float32)
