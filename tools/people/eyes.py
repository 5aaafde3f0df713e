"""Eyeballs: iris, pupil and white, turned by the gaze."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tools.people.mesh import LEFT_EYE, Array, figure_mesh
from tools.people.noise import smoothstep, value_noise

WHITE = np.array([0.55, 0.50, 0.47])
BROWN = np.array([0.06, 0.03, 0.015])
LIGHT_IRISES = np.array([[0.08, 0.16, 0.28], [0.09, 0.15, 0.08], [0.20, 0.11, 0.04], [0.15, 0.18, 0.20]])
# Half angles in degrees as seen from the centre of the eyeball.
IRIS_ANGLE = 28.0
PUPIL_ANGLE = 10.5


@dataclass(frozen=True)
class EyeLook:
    """Iris colour, linear RGB (3,)."""

    iris: Array
    seed: int

    @classmethod
    def sample(cls, rng: np.random.Generator, seed: int, melanin: float) -> EyeLook:
        """Brown for most, the more so the darker the skin; else blue, green, amber or gray."""
        light = LIGHT_IRISES[rng.integers(len(LIGHT_IRISES))]
        iris = BROWN if rng.random() < 0.45 + 0.5 * melanin else light
        return cls(iris * rng.uniform(0.7, 1.3), seed)


def eye_albedo(look: EyeLook, points: Array, gaze: tuple[float, float]) -> Array:
    """Colour (n,3) at template points (n,3) on either eyeball; `gaze` is (right, up) in radians."""
    centre = figure_mesh().base[LEFT_EYE].mean(0)
    direction = points - np.where(points[:, :1] > 0, centre, centre * np.array([-1, 1, 1]))
    direction = direction / np.linalg.norm(direction, axis=1, keepdims=True)
    ahead = np.array([np.sin(gaze[0]), np.sin(gaze[1]), 1.0])
    ahead /= np.linalg.norm(ahead)
    angle = np.degrees(np.arccos(np.clip(direction @ ahead, -1, 1)))
    turn = np.arctan2(direction[:, 1] - ahead[1], direction[:, 0] - ahead[0])
    fibres = 0.7 + 0.6 * value_noise(np.stack([np.cos(turn) * 6, np.sin(turn) * 6, angle * 0.05], 1), 1.5, look.seed)
    rim = 1 - 0.6 * np.exp(-(((angle - IRIS_ANGLE + 1) / 2.5) ** 2))
    iris = smoothstep(IRIS_ANGLE + 1, IRIS_ANGLE - 1.5, angle)[:, None]
    pupil = smoothstep(PUPIL_ANGLE + 1, PUPIL_ANGLE - 1, angle)[:, None]
    albedo = WHITE * (1 - iris) + iris * look.iris * (1.4 * fibres * rim)[:, None]
    return albedo * (1 - pupil) + 0.004 * pupil
