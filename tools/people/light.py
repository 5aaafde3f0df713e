"""Lights of a view, their shadows, and the shading of surfaces. All light is linear RGB."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tools.people.mesh import Array
from tools.people.raster import depth_map, vertex_normals
from tools.people.view import View

# Tungsten, daylight and overcast sky.
TONES = {"warm": (1.28, 0.86, 0.46), "neutral": (1.0, 1.0, 1.0), "cool": (0.84, 0.98, 1.24)}
SIDES = {"left": (-1.0, 0.62), "right": (1.0, 0.62), "front": (0.0, 1.0)}
EXPOSURES = {"dim": 0.58, "normal": 1.35, "bright": 2.1}
# What a place adds to the ambient light and to the rim of light behind the person.
_AMBIENT_TINTS = {"field": (1.08, 0.98, 0.82), "rooftop": (0.86, 0.94, 1.28), "garden": (0.92, 1.08, 0.88)}
_RIM_TINTS = {"field": (1.5, 1.0, 0.45), "rooftop": (1.5, 0.75, 0.40)}
_RIM_BOOSTS = {"field": 0.7, "rooftop": 0.6, "indoor": 0.15}

# Blood under the skin spreads red light past the edge of a shadow.
_BLEED = np.array([1.0, 0.55, 0.45], np.float32)
_SHADOW_GLOW = np.array([0.12, 0.03, 0.02], np.float32)
_TO_EYE = np.array([0, 0, 1], np.float32)

OCCLUSION_RAYS = 40
OCCLUSION_RESOLUTION = 144


@dataclass(frozen=True)
class LightRig:
    """Key, fill and rim light (unit directions towards the light (3,), colours (3,)) and ambient light (3,)."""

    key_direction: Array
    key: Array
    fill_direction: Array
    fill: Array
    rim_direction: Array
    rim: Array
    ambient: Array

    @classmethod
    def of(cls, view: View, film: bool = False) -> LightRig:
        """Lights of a view; film has a harder key."""
        side, forward = SIDES[view.light_side]
        height = view.light_height
        if view.scene == "field":  # a low sun, a little behind the person
            forward, height = forward * 0.55, height * 0.5
        other = -side if side else 1.0
        tone = np.array(TONES[view.light_tone]) * EXPOSURES[view.brightness]
        # Ambient light is light of the same colour that has been around the room.
        soft = (0.75 * tone + 0.25 * tone.mean()) * np.array(_AMBIENT_TINTS.get(view.scene, (1, 1, 1)))
        rim = view.light_rim + _RIM_BOOSTS.get(view.scene, 0.0)
        harder, softer = (1.25, 0.62) if film else (1.0, 1.0)
        return cls(
            key_direction=_unit(side, height, forward),
            key=_light(tone * view.light_key * harder),
            fill_direction=_unit(-side, 0.15, 0.7),
            fill=_light(soft * view.light_fill * softer),
            rim_direction=_unit(other * 1.2, 0.5, -0.8),
            rim=_light(tone.mean() * rim * np.array(_RIM_TINTS.get(view.scene, (1, 1, 1))) * harder),
            ambient=_light(soft * view.light_ambient * softer),
        )

    @property
    def halfway(self) -> Array:
        """Direction (3,) of a mirror that shows the key light to the camera."""
        return _unit(*(self.key_direction + _TO_EYE))

    def paler(self, share: float) -> LightRig:
        """The same lights with their colours moved towards gray by a share 0..1."""
        return replace(self, **{name: _gray(getattr(self, name), share) for name in ("key", "fill", "rim", "ambient")})

    def shade(
        self,
        normals: Array,
        albedo: Array,
        occlusion: Array,
        shadow: Array,
        specular: Array | float = 0.0,
        bleed: float = 0.0,
    ) -> Array:
        """Light (n,3) from surfaces with normals (n,3), albedo (n,3), occlusion and key-light visibility (n,).

        `specular` (n,) is the strength of highlights; `bleed` 0..1 makes the edge of shadows soft and red, like skin.
        """
        facing = normals @ self.key_direction
        direct = np.clip(facing, 0, 1)[:, None]
        if bleed:
            wrapped = np.clip((facing + 0.25) / 1.25, 0, 1)[:, None]
            direct = direct + (wrapped - direct) * (bleed * _BLEED)
            glow = 2 * bleed * _SHADOW_GLOW
            direct = direct * (shadow[:, None] * (1 - glow) + glow)
        else:
            direct = direct * shadow[:, None]
        up = (0.6 + 0.4 * normals[:, 1]) * occlusion
        fill = np.clip(normals @ self.fill_direction, 0, 1) * occlusion
        rim = np.clip(normals @ self.rim_direction, 0, 1) ** 2
        light = direct * self.key + up[:, None] * self.ambient + fill[:, None] * self.fill + rim[:, None] * self.rim
        if np.ndim(specular) == 0:
            return albedo * light
        return albedo * light + self._highlights(normals, shadow, np.asarray(specular))[:, None] * self.key

    def _highlights(self, normals: Array, shadow: Array, strength: Array) -> Array:
        """Broad highlights (n,) of key and fill light, stronger at grazing angles."""
        fill_halfway = _unit(*(self.fill_direction + _TO_EYE))
        grazing = 0.35 + 0.65 * (1 - np.clip(normals[:, 2], 0, 1)) ** 4
        key = np.clip(normals @ self.halfway, 0, 1) ** 22 * shadow
        fill = 0.35 * np.clip(normals @ fill_halfway, 0, 1) ** 22 * (self.fill.mean() / max(self.key.mean(), 1e-6))
        return 2 * strength * grazing * (key + fill)


@dataclass(frozen=True)
class ShadowMap:
    """What a distant light sees: depth (r,r) over a square of `extent` decimetres around the head."""

    axes: Array
    depth: Array
    extent: float

    _CENTRE = np.array([0, 7.0, 0.4], np.float32)
    # Depths must be positive to be told from the empty background.
    _OFFSET = 50.0
    _TAPS = ((0, 0), (2, 0), (-2, 0), (0, 2), (0, -2), (3, 3), (-3, -3), (3, -3), (-3, 3))

    @classmethod
    def cast(
        cls, points: Array, triangles: Array, direction: Array, resolution: int = 512, extent: float = 2.6
    ) -> ShadowMap:
        """Shadow map of a mesh for light from a unit direction (3,)."""
        right = np.cross(direction, [0, 1, 0.01])
        right /= np.linalg.norm(right)
        axes = np.stack([right, np.cross(right, direction), direction]).astype(np.float32)
        screen = cls._project(axes, points, resolution, extent)
        return cls(axes, depth_map(screen, triangles, resolution), extent)

    def lit(self, points: Array, bias: float = 0.05, soft: bool = True) -> Array:
        """How much of the light reaches points (n,3), 0..1: (n,)."""
        resolution = len(self.depth)
        x, y, depth = self._project(self.axes, points, resolution, self.extent).T
        taps = self._TAPS if soft else self._TAPS[:1]
        total = np.zeros(len(points), np.float32)
        for dx, dy in taps:
            column = np.clip(x + dx, 0, resolution - 1).astype(np.int32)
            row = np.clip(y + dy, 0, resolution - 1).astype(np.int32)
            total += depth >= self.depth[row, column] - bias
        return total / len(taps)

    @classmethod
    def _project(cls, axes: Array, points: Array, resolution: int, extent: float) -> Array:
        seen = (points - cls._CENTRE) @ axes.T
        seen[:, :2] = (seen[:, :2] / extent * 0.5 + 0.5) * resolution
        seen[:, 2] += cls._OFFSET
        return seen


def ambient_occlusion(points: Array, triangles: Array) -> Array:
    """Share of the sky each vertex sees (V,), from shadow maps of evenly spread directions."""
    normals = vertex_normals(points, triangles)
    seen = np.zeros(len(points), np.float32)
    total = np.zeros(len(points), np.float32)
    for ray in range(OCCLUSION_RAYS):
        height = 0.1 + 0.9 * (1 - 2 * (ray + 0.5) / OCCLUSION_RAYS)
        turn = ray * 2.399963  # golden angle
        level = np.sqrt(1 - height**2)
        direction = np.array([np.cos(turn) * level, height, np.sin(turn) * level], np.float32)
        shadow = ShadowMap.cast(points, triangles, direction, OCCLUSION_RESOLUTION)
        facing = np.clip(normals @ direction, 0, None)
        seen += facing * shadow.lit(points, soft=False)
        total += facing
    return seen / np.maximum(total, 1e-3)


def _unit(x: float, y: float, z: float) -> Array:
    direction = np.array([x, y, z], np.float32)
    return direction / np.linalg.norm(direction)


def _gray(colour: Array, share: float) -> Array:
    return colour + np.float32(share) * (colour.mean() - colour)


def _light(colour: Array) -> Array:
    return np.asarray(colour, np.float32)
