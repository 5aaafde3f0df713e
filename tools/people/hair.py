"""Hair: a shell of soft strands grown from the scalp and, for long hair, a curtain that hangs from it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from tools.people.mesh import Array
from tools.people.noise import fractal_noise, smoothstep, value_noise

STYLES = ("bald", "short", "full", "long")
# Linear RGB; the darkest and the lightest tone of each named colour.
COLOURS = {
    "black": ((0.010, 0.008, 0.007), (0.024, 0.019, 0.017)),
    "brown": ((0.045, 0.020, 0.009), (0.105, 0.048, 0.020)),
    "blond": ((0.440, 0.290, 0.115), (0.620, 0.440, 0.210)),
    "red": ((0.260, 0.060, 0.018), (0.400, 0.105, 0.030)),
    "gray": ((0.260, 0.260, 0.265), (0.480, 0.480, 0.480)),
}
_THICKNESS = {"bald": 0.0, "short": 0.05, "full": 0.14, "long": 0.10}

# Shells at these shares of the thickness give the strands their depth.
SHELLS = (0.45, 0.75, 1.0)

CURTAIN_ROWS = 30
CURTAIN_COLUMNS = 56
# The curtain follows the head down to this depth below the crown, then hangs.
CURTAIN_FREE = 1.45


@dataclass(frozen=True)
class HairLook:
    """Hair of a person. Lengths in decimetres, `colour` linear RGB (3,)."""

    style: str
    colour_name: str
    colour: Array
    tone: float
    body: float
    hairline: float
    temples: float
    peak: float
    recession: float
    softness: float
    parting: float
    length: float
    opening: float
    flare: float
    wave: float
    seed: int

    @classmethod
    def sample(cls, rng: np.random.Generator, seed: int, style: str, colour: str, man: bool, age: float) -> HairLook:
        """Draw hair of a given style and named colour."""
        tone = rng.random()
        return cls(
            style=style,
            colour_name=colour,
            colour=named_tone(colour, tone),
            tone=tone,
            body=rng.uniform(0.7, 1.4),
            hairline=rng.uniform(-0.08, 0.10) + 0.12 * age * man,
            temples=rng.uniform(-0.15, 0.25),
            peak=rng.uniform(0, 1),
            recession=rng.uniform(0, 0.28) * man,
            softness=rng.uniform(0.12, 0.40),
            parting=rng.uniform(-0.5, 0.5),
            length=rng.uniform(2.3, 3.2),
            opening=rng.uniform(-8, 8),
            flare=rng.uniform(-0.05, 0.22),
            wave=rng.uniform(0, 0.07),
            seed=seed,
        )

    @property
    def thickness(self) -> float:
        """How far the outermost shell stands off the scalp."""
        return _THICKNESS[self.style] * self.body

    def restyled(self, style: str | None = None, colour: str | None = None) -> HairLook:
        """The same head of hair cut to another style or dyed."""
        name = colour or self.colour_name
        if style not in (None, *STYLES) or name not in COLOURS:
            raise ValueError(f"hair style is one of {STYLES}, colour one of {tuple(COLOURS)}")
        return replace(self, style=style or self.style, colour_name=name, colour=named_tone(name, self.tone))


def named_tone(name: str, tone: float) -> Array:
    """Linear RGB (3,) of a named hair colour, dark at tone 0 and light at tone 1."""
    dark, light = np.array(COLOURS[name])
    return dark + tone * (light - dark)


def scalp_depth(look: HairLook, points: Array) -> Array:
    """Signed distance (n,) of template points (n,3) from the hairline, positive on the scalp."""
    x, y, z = points.T
    side = np.abs(x)
    front = 7.90 + look.hairline - look.temples * 0.5 * side**2 - 0.06 * look.peak * np.exp(-((side / 0.12) ** 2))
    front = front - 0.25 * np.clip(side - 0.5, 0, 1) + look.recession * np.exp(-(((side - 0.45) / 0.16) ** 2))
    around = np.interp(z, [-0.9, -0.2, 0.45, 0.75], [6.35, 6.60, 7.12, 7.42 + look.hairline * 0.5])
    line = np.where(z > 0.75, front - np.clip(side - 0.6, 0, None) * 2.3, around)
    depth = y - line + 0.07 * (value_noise(points, 14, look.seed) - 0.5)
    ear = (z > -0.05) & (z < 0.62) & (side > 0.70) & (y < 7.45)
    # The lines above mean nothing on the shoulders.
    return np.where(ear, -1.0, np.minimum(depth, y - 6.3))


def shell_offset(look: HairLook, points: Array, depth: Array) -> Array:
    """How far (n,) the full shell stands off at template points (n,3); slightly inside the skin off the scalp."""
    tousle = 0.85 + 0.3 * fractal_noise(points, 2.2, look.seed + 31, 2)
    crown = 1 + 0.25 * smoothstep(8.0, 8.5, points[:, 1])
    softness = look.softness + 2 * look.thickness  # thick hair must not stand off the temples like a helmet
    return np.where(depth > 0, look.thickness * smoothstep(0, softness, depth) * tousle * crown, -0.01)


def shell_opacity(look: HairLook, points: Array, share: float, layer: int) -> tuple[Array, Array]:
    """Opacity (n,) of one shell at template points (n,3), and the strand coordinates (n,3) that colour it."""
    x, y, z = points.T
    strands = np.stack([(x - look.parting * 0.4) * 34 + z * 8, y * 5, z * 22], 1)
    streak = value_noise(strands, 1, look.seed + 43 + layer)
    edge = scalp_depth(look, points) + (streak - 0.5) * 0.16 - 0.05 * share
    opacity = smoothstep(-0.02, 0.05 + 0.05 * share, edge)
    return opacity * np.where(streak < 0.12 + 0.13 * share, 0.5, 1), strands


@dataclass(frozen=True)
class Curtain:
    """Hanging hair in neutral pose: points (V,3), triangles (T,3), and grid (V,2) across and down in 0..1."""

    points: Array
    triangles: Array
    grid: Array


def hang_curtain(look: HairLook, head: Array) -> Curtain:
    """Hang long hair around a head given by its vertices (N,3) in neutral pose."""
    crown = head[:, 1].max()
    centre_z = head[head[:, 1] > crown - 1.0, 2].mean()
    across, down = np.meshgrid(np.linspace(0, 1, CURTAIN_COLUMNS), np.linspace(0, 1, CURTAIN_ROWS))
    depth = down**1.3 * look.length  # finer at the crown, where the head curves
    # The hair opens from the parting to the temples and then frames the face.
    opening = np.interp(depth, [0.0, 0.12, 0.30, 0.55, 0.9, 1.5, 2.2], [0, 0, 22, 50, 70, 70, 60])
    opening = np.radians(opening + look.opening * np.clip(depth / 0.5, 0, 1))
    parting = look.parting * np.clip(1.2 - depth, 0, 1)
    angle = parting + opening + across * (2 * np.pi - 2 * opening)
    hanging = np.clip(depth - CURTAIN_FREE, 0, None)
    radius = _head_radius(head, crown, centre_z, angle, np.minimum(depth, CURTAIN_FREE))
    body = look.thickness + 0.03
    radius = radius * np.clip(depth / 0.06, 0, 1) + body * np.clip(depth / 0.5, 0, 1) + look.flare * hanging
    places = np.stack([angle, angle * 0, depth], 2).reshape(-1, 3)
    waves = np.sin(5 * depth + 10 * value_noise(places, 1.5, look.seed).reshape(depth.shape))
    radius = radius + look.wave * waves * np.clip(depth - 0.8, 0, 1)
    height = crown - depth + body * np.clip(1 - depth / 0.8, 0, 1)
    points = np.stack([radius * np.sin(angle), height, centre_z + radius * np.cos(angle)], 2)
    return Curtain(
        points.reshape(-1, 3).astype(np.float32),
        _grid_triangles(CURTAIN_ROWS, CURTAIN_COLUMNS),
        np.stack([across, down], 2).reshape(-1, 2).astype(np.float32),
    )


def curtain_opacity(look: HairLook, grid: Array, points: Array) -> tuple[Array, Array]:
    """Opacity (n,) of the curtain at grid coordinates (n,2), ragged at its edges, and strand coordinates (n,3)."""
    across, down = grid.T
    strands = np.stack([across * 120, down * 5, points[:, 2] * 2], 1)
    streak = value_noise(strands, 1, look.seed + 51)
    sides = smoothstep(0.0, 0.035, np.minimum(across, 1 - across) + (streak - 0.5) * 0.03)
    tips = smoothstep(0.98, 0.86, down + (streak - 0.5) * 0.22)
    return sides * tips, strands


def blow(points: Array, grid: Array, wind: float) -> Array:
    """Curtain points (V,3) pushed sideways, the tips most; `wind` in decimetres, positive to the right."""
    gust = 0.6 + 0.8 * value_noise(np.stack([grid[:, 0] * 6, grid[:, 1] * 2, grid[:, 0] * 0], 1), 1, 77)
    push = wind * grid[:, 1] ** 1.5 * gust
    return points + np.stack([push, 0.25 * np.abs(push), -0.1 * np.abs(push)], 1)


def _head_radius(head: Array, crown: float, centre_z: float, angle: Array, depth: Array) -> Array:
    """Distance of the hair from the head's axis at angles and depths below the crown (any shape), never inwards."""
    rows, columns = 24, 48
    around = np.arctan2(head[:, 0], head[:, 2] - centre_z) % (2 * np.pi)
    level = (crown - head[:, 1]) / CURTAIN_FREE * (rows - 1)
    inside = level <= rows - 1
    profile = np.zeros((rows, columns))
    cells = level[inside].round().astype(int), (around[inside] / (2 * np.pi) * columns).astype(int) % columns
    np.maximum.at(profile, cells, np.hypot(head[inside, 0], head[inside, 2] - centre_z))
    for _ in range(3):  # cells without a vertex take the widest neighbour
        profile = np.where(profile > 0, profile, ndimage.grey_dilation(profile, (3, 3), mode=("nearest", "wrap")))
    profile = np.maximum.accumulate(profile, axis=0)
    profile = ndimage.gaussian_filter(profile, (0.7, 1.2), mode=("nearest", "wrap"))
    at = np.stack([depth / CURTAIN_FREE * (rows - 1), angle / (2 * np.pi) * columns - 0.5])
    return ndimage.map_coordinates(profile, at, order=1, mode="nearest")


def _grid_triangles(rows: int, columns: int) -> Array:
    """Triangles (T,3) of a grid of points."""
    index = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    return np.concatenate([np.stack([a, d, b], 2).reshape(-1, 3), np.stack([b, d, c], 2).reshape(-1, 3)])
