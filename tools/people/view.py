"""A picture of a person: pose, expression, framing, light, place and clothes. Left and right are those of the image."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from tools.people.palette import COLOURS

EXPRESSIONS = ("neutral", "smiling", "mouth open", "frowning", "squinting", "surprised")
TONES = ("warm", "neutral", "cool")
SIDES = ("left", "right", "front")
BRIGHTNESSES = ("dim", "normal", "bright")
SCENES = ("studio", "indoor", "field", "rooftop", "garden")
_SCENE_SHARES = (0.64, 0.09, 0.09, 0.09, 0.09)
# Places come with their own light unless the caller asks for another.
_SCENE_TONES = {"field": "warm", "rooftop": "cool", "garden": "neutral", "indoor": "neutral"}


@dataclass(frozen=True)
class View:
    """How a person is photographed.

    Angles are in degrees: yaw > 0 looks to the right of the image, pitch > 0 looks down, roll > 0 leans to the left.
    `distance` of the camera and `half_width` of the picture are in decimetres, `dx` and `dy` move the person right and
    up by decimetres. `gaze` is (right, up) in radians. `light_*` strengths are linear factors, `light_height` is the
    height of the key light against its distance. `blur` is in pixels of a 128 pixel picture, `noise` the standard
    deviation of display values. `wind` pushes long hair sideways by decimetres. `seed` draws what has no name:
    background details, the tone within a named colour, noise.
    """

    seed: int
    yaw: float
    pitch: float
    roll: float
    expression: str
    expression_strength: float
    distance: float
    half_width: float
    dx: float
    dy: float
    light_tone: str
    light_side: str
    brightness: str
    light_height: float
    light_key: float
    light_ambient: float
    light_fill: float
    light_rim: float
    scene: str
    background: str
    shirt: str
    gaze: tuple[float, float]
    blur: float
    noise: float
    wind: float

    @classmethod
    def sample(cls, seed: int, **overrides: Any) -> View:
        """The view of this seed, with any field set by name instead of drawn."""
        unknown = overrides.keys() - {f.name for f in fields(cls)}
        if unknown:
            raise TypeError(f"View has no {', '.join(sorted(unknown))}")
        drawn = _draw(seed, overrides.get("scene"))
        return cls(**{**drawn, **overrides})

    @classmethod
    def steady(cls, seed: int, **overrides: Any) -> View:
        """The view of this seed with the head nearly frontal, calm and framed alike in every picture.

        A small model spends itself on poses; aligned faces leave it the features.
        """
        drawn = cls.sample(seed)
        calm = {
            "yaw": 0.35 * drawn.yaw,
            "pitch": 0.3 * drawn.pitch,
            "roll": 0.3 * drawn.roll,
            "distance": 12.0,
            "half_width": 1.8 + 0.15 * (drawn.half_width - 1.83),
            "dx": 0.2 * drawn.dx,
            "dy": 0.2 * drawn.dy,
            "gaze": (0.3 * drawn.gaze[0], 0.3 * drawn.gaze[1]),
            "expression": drawn.expression if drawn.expression in ("smiling", "mouth open") else "neutral",
            "expression_strength": 0.5 * drawn.expression_strength,
        }
        return cls.sample(seed, **{**calm, **overrides})

    def __post_init__(self) -> None:
        allowed = {
            "expression": EXPRESSIONS,
            "light_tone": TONES,
            "light_side": SIDES,
            "brightness": BRIGHTNESSES,
            "scene": SCENES,
            "background": COLOURS,
            "shirt": COLOURS,
        }
        for name, choices in allowed.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is one of {', '.join(choices)}, not {getattr(self, name)!r}")

    @property
    def action_units(self) -> dict[str, float]:
        """Facial action units of the expression, 0..1 each."""
        s = self.expression_strength
        return {
            "neutral": {},
            "smiling": {
                **_both("mouthSmile", 0.45 + 0.55 * s, lopsided=0.93),
                **_both("cheekSquint", 0.2 + 0.3 * s),
                "jawOpen": 0.12 * s,
            },
            "mouth open": {"jawOpen": 0.18 + 0.25 * s, "browInnerUp": 0.4 * s},
            "frowning": {**_both("browDown", 0.4 + 0.5 * s), **_both("mouthFrown", 0.3 + 0.35 * s)},
            "squinting": {**_both("eyeSquint", 0.25 + 0.25 * s), "mouthPucker": 0.3 * s},
            "surprised": {
                **_both("eyeWide", 0.3 + 0.3 * s),
                **_both("browOuterUp", 0.4 + 0.3 * s),
                "browInnerUp": 0.4,
                "jawOpen": 0.10 + 0.12 * s,
            },
        }[self.expression]


def _draw(seed: int, scene: str | None) -> dict[str, Any]:
    """All fields at random. Every draw happens whatever the scene, so that an override moves nothing else."""
    rng = np.random.default_rng([seed, 2])
    drawn_scene = str(rng.choice(SCENES, p=_SCENE_SHARES))
    scene = scene or drawn_scene
    tone = str(rng.choice(TONES))
    return {
        "seed": seed,
        "scene": scene,
        "light_tone": _SCENE_TONES.get(scene, tone),
        "light_side": str(rng.choice(SIDES)),
        "brightness": str(rng.choice(BRIGHTNESSES, p=(0.2, 0.6, 0.2))),
        "background": str(rng.choice(COLOURS)),
        "shirt": str(rng.choice(COLOURS)),
        "expression": str(rng.choice(EXPRESSIONS, p=(0.27, 0.25, 0.14, 0.12, 0.11, 0.11))),
        "expression_strength": rng.uniform(0, 1),
        "yaw": float(np.clip(rng.normal(0, 19), -42, 42)),
        "pitch": float(np.clip(rng.normal(0, 6), -14, 14)),
        "roll": float(np.clip(rng.normal(0, 4.5), -12, 12)),
        "distance": rng.uniform(8, 16),
        "half_width": rng.uniform(1.68, 1.98),
        "dx": float(np.clip(rng.normal(0, 0.09), -0.2, 0.2)),
        "dy": float(np.clip(rng.normal(0, 0.06), -0.12, 0.12)),
        "light_height": rng.uniform(0.25, 0.8),
        "light_key": rng.uniform(0.75, 1.1),
        "light_ambient": rng.uniform(0.22, 0.40),
        "light_fill": rng.uniform(0.03, 0.18),
        "light_rim": rng.uniform(0.0, 0.45),
        "gaze": (rng.normal(0, 0.11), rng.normal(0, 0.05)),
        "blur": max(0.0, rng.uniform(-0.5, 0.5)),
        "noise": rng.uniform(0.002, 0.010),
        "wind": rng.normal(0, 0.5) * (scene in ("rooftop", "field")),
    }


def _both(unit: str, weight: float, lopsided: float = 1.0) -> dict[str, float]:
    """An action unit on both sides of the face."""
    return {f"{unit}Left": weight, f"{unit}Right": weight * lopsided}
