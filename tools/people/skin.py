"""Skin: its parameters and its colour at any point of the template figure (procedural, no photographs)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tools.people.mesh import Array
from tools.people.noise import fractal_noise, smoothstep, value_noise

# Heights on the template figure.
BROW_Y = 7.50
MOUTH_Y = 6.66

_LIGHTEST = np.array([0.86, 0.56, 0.42])
_DARKEST = np.array([0.14, 0.06, 0.032])


@dataclass(frozen=True)
class Brow:
    """Eyebrows on the template figure: extent in |x|, offset and arch in y, half height, and strength 0..1."""

    inner: float
    outer: float
    offset: float
    arch: float
    tilt: float
    thickness: float
    density: float


@dataclass(frozen=True)
class SkinLook:
    """A face's surface. Colours are linear RGB (3,), strengths run from 0 to 1."""

    colour: Array
    lip_colour: Array
    lipstick: float
    lipstick_colour: Array
    eyeshadow: float
    eyeshadow_colour: Array
    lashes: float
    brow: Brow
    brow_colour: Array
    beard: float
    moustache: float
    beard_line: float
    beard_colour: Array
    freckles: float
    moles: Array
    wrinkles: float
    eye_bags: float
    blush: float
    gloss: float
    collar: float
    seed: int

    @classmethod
    def sample(
        cls, rng: np.random.Generator, seed: int, man: bool, bearded: bool, age: float, melanin: float, hair: Array
    ) -> SkinLook:
        """Draw a look. `melanin` 0..1 goes from the lightest to the darkest skin; `hair` is the natural colour (3,)."""
        colour = np.exp((1 - melanin) * np.log(_LIGHTEST) + melanin * np.log(_DARKEST))
        colour = colour * np.array([1, rng.uniform(0.90, 1.06), rng.uniform(0.85, 1.10)])
        redder = np.array([0.92, rng.uniform(0.36, 0.60), rng.uniform(0.38, 0.62)])
        made_up = not man and rng.random() < 0.5
        face = np.stack([rng.uniform(-0.7, 0.7, 6), rng.uniform(6.4, 7.9, 6), np.full(6, 1.3)], 1)
        moles = np.concatenate([face, rng.uniform(0.012, 0.03, (6, 1))], 1)[: rng.integers(0, 5)]
        return cls(
            colour=colour,
            lip_colour=colour * redder * rng.uniform(0.7, 1.15),
            lipstick=rng.uniform(0.2, 0.7) * made_up,
            lipstick_colour=np.array([rng.uniform(0.3, 0.6), rng.uniform(0.02, 0.14), rng.uniform(0.05, 0.18)]),
            eyeshadow=rng.uniform(0.0, 0.7) * made_up,
            eyeshadow_colour=colour * rng.uniform(0.35, 0.8, 3),
            lashes=(0.45 if man else 0.9) + rng.uniform(-0.1, 0.1),
            brow=_sample_brow(rng, man),
            brow_colour=hair * 0.8,
            beard=rng.uniform(0.55, 1.0) * bearded,
            moustache=rng.uniform(0.4, 1.0) * (man and rng.random() < 0.15),
            beard_line=rng.uniform(6.45, 6.62),
            beard_colour=hair * 0.6 + colour * 0.08,
            freckles=max(0.0, rng.uniform(-0.8, 0.8)) * (melanin < 0.45),
            moles=moles,
            wrinkles=age * rng.uniform(0.6, 1.2),
            eye_bags=rng.uniform(0, 0.4) + 0.4 * age,
            blush=rng.uniform(0, 0.5),
            gloss=rng.uniform(0.05, 0.22),
            collar=rng.uniform(5.62, 5.95),
            seed=seed,
        )


def _sample_brow(rng: np.random.Generator, man: bool) -> Brow:
    return Brow(
        inner=rng.uniform(0.12, 0.20),
        outer=rng.uniform(0.50, 0.62),
        offset=rng.uniform(-0.03, 0.03),
        arch=rng.uniform(0.01, 0.08) * (0.6 if man else 1.0),
        tilt=rng.uniform(-0.05, 0.03),
        thickness=rng.uniform(0.022, 0.06) * (1.3 if man else 1.0),
        density=rng.uniform(0.45, 1.0),
    )


def skin_albedo(look: SkinLook, points: Array, lip: Array, lid: Array) -> tuple[Array, Array]:
    """Colour (n,3) at template points (n,3) with lip and lid masks (n,), and how much of it is beard (n,)."""
    albedo = _base_colour(look, points)
    albedo *= 1 - _wrinkles(look, points)[:, None] * np.array([0.6, 0.7, 0.7])
    albedo = _paint(albedo, look.eyeshadow * 0.8 * lid, look.eyeshadow_colour * 0.6)
    albedo = _paint(albedo, _brows(look, points), look.brow_colour)
    lips = look.lip_colour * (1 - look.lipstick) + look.lipstick_colour * look.lipstick
    creases = 0.85 + 0.3 * value_noise(points * np.array([9, 1, 1]), 5, look.seed + 2)
    albedo = _paint(albedo, 0.85 * lip, lips * creases[:, None])
    beard = _beard(look, points) * (1 - lip)
    return _paint(albedo, beard, look.beard_colour), beard


def shirt_cover(look: SkinLook, points: Array) -> Array:
    """How much of the surface at template points (n,3) is under the shirt, 0..1: (n,)."""
    x, y, z = points.T
    side = np.abs(x)
    neckline = y - 0.22 * smoothstep(0, 1.2, side) + 0.12 * (z > 0.3) * (1 - smoothstep(0, 0.5, side))
    return smoothstep(look.collar + 0.03, look.collar - 0.03, neckline)


def skin_bump(look: SkinLook, points: Array) -> Array:
    """Small random tilt of the normals (n,3) that keeps highlights from looking like plastic."""
    return (np.stack([value_noise(points, 45, look.seed + axis) for axis in range(3)], 1) - 0.5) * 0.1


def _paint(below: Array, cover: Array, colour: Array) -> Array:
    """Lay a colour (3,) or (n,3) over colours (n,3) with an opacity (n,)."""
    return below + cover[:, None] * (colour - below)


def _spot(x: Array, y: Array, width: float, height: float) -> Array:
    """Soft spot: 1 where x and y are 0."""
    return np.exp(-(x**2 / width + y**2 / height))


def _base_colour(look: SkinLook, points: Array) -> Array:
    """Skin (n,3) with mottling, blood, bags under the eyes, freckles and moles."""
    x, y, z = points.T
    side = np.abs(x)
    mottle = 0.86 + 0.28 * fractal_noise(points, 3, look.seed)
    pores = 0.93 + 0.14 * value_noise(points, 38, look.seed + 5)
    albedo = look.colour * (mottle * pores)[:, None]
    cheeks = _spot(side - 0.48, y - 6.95, 0.05, 0.06) * look.blush
    nose = 0.6 * _spot(x, y - 6.98, 0.03, 0.03) * (z > 1.4)
    ears = 0.5 * _spot(side - 0.95, y - 7.1, 0.04, 0.1)
    albedo *= 1 - (cheeks + nose + ears)[:, None] * np.array([0.02, 0.22, 0.18])
    bags = look.eye_bags * _spot(side - 0.33, y - 7.10, 0.03, 0.004) * (z > 0.9)
    albedo *= 1 - bags[:, None] * np.array([0.35, 0.45, 0.38])
    if look.freckles > 0:
        dots = smoothstep(0.70, 0.78, value_noise(points, 30, look.seed + 9)) * (z > 1) * (y < 7.5) * (y > 6.6)
        albedo *= 1 - (look.freckles * dots)[:, None] * np.array([0.25, 0.40, 0.50])
    for *centre, radius in look.moles:
        # Only x and y: the mole lies wherever the face is in front of that place.
        dot = _spot(x - centre[0], y - centre[1], radius**2 / 1.5, radius**2 / 1.5) * (z > 0.6)
        albedo *= 1 - dot[:, None] * np.array([0.70, 0.80, 0.85])
    return albedo


def _wrinkles(look: SkinLook, points: Array) -> Array:
    """Depth 0..0.6 (n,) of forehead lines, nasolabial folds and crow's feet."""
    x, y, z = points.T
    side = np.abs(x)
    lines = (0.5 + 0.5 * np.sin((y + 0.05 * value_noise(points, 3, look.seed + 3)) * 42)) ** 6
    forehead = lines * smoothstep(7.55, 7.68, y) * (1 - smoothstep(7.90, 8.05, y)) * (side < 0.6) * (z > 1)
    fold_x = 0.22 + (6.98 - y) * 0.42
    folds = np.exp(-(((side - fold_x) / 0.03) ** 2)) * ((y < 6.98) & (y > 6.6) & (z > 1))
    feet = np.exp(-(((side - 0.6) / 0.06) ** 2)) * (0.5 + 0.5 * np.sin(y * 60 + side * 20)) ** 4
    feet = feet * (np.abs(y - 7.25) < 0.14)
    return np.clip(look.wrinkles * (0.5 * forehead + 0.9 * folds + 0.6 * feet), 0, 0.6)


def _brows(look: SkinLook, points: Array) -> Array:
    """Opacity (n,) of the eyebrows, drawn as strands along an arch."""
    x, y, z = points.T
    side, brow = np.abs(x), look.brow
    along = np.clip((side - brow.inner) / (brow.outer - brow.inner), 0, 1)
    middle = BROW_Y + brow.offset + brow.arch * np.sin(np.pi * along**1.3 * 0.95) + brow.tilt * along
    # Thin at the nose, full in the first third, tapering to the temple.
    half_height = brow.thickness * (0.75 + 0.45 * smoothstep(0, 0.3, along) - 0.75 * along**1.5)
    strands = value_noise(np.stack([side * 10 + y * 26, y * 14 - side * 8, z * 2], 1), 4, look.seed + 11)
    across = np.abs(y - middle) / half_height + 0.6 * (strands - 0.5)
    ends = smoothstep(brow.inner - 0.06, brow.inner + 0.10, side) * (
        1 - smoothstep(brow.outer - 0.12, brow.outer + 0.02, side)
    )
    cover = (1 - smoothstep(0.45, 1.35, across)) * ends * (z > 0.9) * brow.density * (0.72 + 0.5 * strands)
    return np.clip(cover, 0, 0.95)


def _beard(look: SkinLook, points: Array) -> Array:
    """Opacity (n,) of beard and moustache."""
    if look.beard == 0 and look.moustache == 0:
        return np.zeros(len(points))
    x, y, z = points.T
    side = np.abs(x)
    line = np.where(side < 0.34, look.beard_line, look.beard_line + 0.665 * (side - 0.34))
    jaw = smoothstep(0, 0.12, line - y) * (y > 5.9) * (z > 0.35) * smoothstep(6.12, 6.27, y)
    lip = np.exp(-(((y - (MOUTH_Y + 0.155)) / 0.05) ** 4)) * (1 - smoothstep(0.24, 0.34, side)) * (z > 1)
    cover = np.clip(look.beard * jaw + max(look.moustache, look.beard * 0.8) * lip, 0, 1)
    strands = value_noise(points * np.array([1, 0.35, 1]), 60, look.seed + 21)
    return np.clip(cover * (0.45 + 0.9 * strands), 0, 0.95)
