"""What is behind the person, and leaves in front: linear RGB pictures without outside images."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from tools.people.mesh import Array
from tools.people.noise import fractal_noise, smoothstep
from tools.people.palette import draw_colour, to_linear
from tools.people.view import View

# The backdrop follows the light's brightness only a little: its name must stay true.
_BACKDROP_GAINS = {"dim": 0.78, "normal": 1.0, "bright": 1.1}
_SCENE_GAINS = {"dim": 0.60, "normal": 1.0, "bright": 1.25}


def paint_background(view: View, pixels: int, film: bool = False) -> Array:
    """Background of a view, linear RGB (pixels, pixels, 3) float32; film throws it out of focus."""
    rng = np.random.default_rng([view.seed, 3])
    x, y = np.meshgrid(*[(np.arange(pixels) + 0.5) / pixels] * 2)
    picture = _SCENES[view.scene](view, rng, x, y)
    gains = _BACKDROP_GAINS if view.scene == "studio" else _SCENE_GAINS
    picture = picture * gains[view.brightness]
    if film:
        picture = _blur(picture, 0.012 if view.scene == "studio" else 0.022)
    return picture.astype(np.float32)


def paint_leaves(view: View, pixels: int, protect: tuple[float, float, float]) -> tuple[Array, Array] | None:
    """Blurred leaves before the camera: linear RGB (p,p,3) and opacity (p,p), or None where the scene has none.

    `protect` is a circle (x, y, radius in shares of the picture) that they leave free.
    """
    if view.scene != "garden":
        return None
    rng = np.random.default_rng([view.seed, 4])
    x, y = np.meshgrid(*[(np.arange(pixels) + 0.5) / pixels] * 2)
    colour: Array = np.zeros((pixels, pixels, 3), np.float32)
    cover: Array = np.zeros((pixels, pixels), np.float32)
    corner = np.array([rng.integers(0, 2), 1.0 if rng.random() < 0.6 else rng.uniform(0, 0.3)])
    for _ in range(rng.integers(4, 8)):
        place = corner + rng.normal(0, 0.13, 2)
        leaf = _leaf(x - place[0], y - place[1], rng.uniform(0, np.pi), rng.uniform(0.16, 0.27))
        green = to_linear(np.array([rng.uniform(0.2, 0.4), rng.uniform(0.42, 0.65), rng.uniform(0.12, 0.25)]))
        colour += leaf[..., None] * (green - colour)
        cover = np.maximum(cover, leaf)
    sigma = pixels * 0.012
    cover = cv2.GaussianBlur(cover, (0, 0), sigma)
    colour = cv2.GaussianBlur(colour, (0, 0), sigma) / np.maximum(cover, 1e-3)[..., None]
    away = np.hypot(x - protect[0], y - protect[1])
    return colour, cover * smoothstep(protect[2], protect[2] * 1.2, away)


def _studio(view: View, rng: np.random.Generator, x: Array, y: Array) -> Array:
    """A paper backdrop of the named colour: soft gradient, a pool of light, slight texture."""
    colour = to_linear(draw_colour(view.background, rng))
    turn = rng.uniform(0, 2 * np.pi)
    slope = ((x - 0.5) * np.cos(turn) + (y - 0.5) * np.sin(turn)) * rng.uniform(0.1, 0.35)
    pool = 0.18 * np.exp(-((x - rng.uniform(0.3, 0.7)) ** 2 + (y - 0.45) ** 2) / 0.12) - 0.08
    texture = 0.05 * (_texture(x, y, 24, view.seed) - 0.5)
    return colour * (1 + slope + pool + texture)[..., None]


def _indoor(view: View, rng: np.random.Generator, x: Array, y: Array) -> Array:
    """A beige wall with a bright window to one side, the side of the light if it has one."""
    wall = to_linear(np.array([0.80, 0.72, 0.60]) * rng.uniform(0.85, 1.0))
    side = {"left": 0.0, "right": 1.0}.get(view.light_side, float(rng.integers(0, 2)))
    from_window = np.abs(x - side)
    picture = wall * (1.05 - 0.45 * from_window + 0.06 * (_texture(x, y, 5, view.seed) - 0.5))[..., None]
    skirting = rng.uniform(0.72, 0.85)
    picture = np.where((y > skirting)[..., None], picture * 0.55, picture)
    middle = abs(side - rng.uniform(0.10, 0.20))
    half_width, top, bottom = rng.uniform(0.13, 0.18), rng.uniform(0.02, 0.12), rng.uniform(0.55, 0.66)
    frame = _box(x, y, middle, half_width + 0.02, top - 0.02, bottom + 0.02)
    pane = _box(x, y, middle, half_width, top, bottom)
    bars = (np.abs(x - middle) < 0.008) | (np.abs(y - (top + bottom) / 2) < 0.008)
    sky = to_linear(np.array([0.86, 0.94, 1.0])) * (1.35 - 0.5 * y)[..., None]
    picture = np.where(frame[..., None], to_linear(np.array([0.92, 0.90, 0.86])), picture)
    picture = np.where((pane & ~bars)[..., None], sky, picture)
    return _blur(picture, 0.010)


def _field(view: View, rng: np.random.Generator, x: Array, y: Array) -> Array:
    """A field at golden hour: a warm sky, a low sun on the side of the light, yellow-green grass."""
    horizon = rng.uniform(0.56, 0.66)
    sky = _ramp(y / horizon, ((0.55, 0.68, 0.82), (0.95, 0.80, 0.55), (1.0, 0.66, 0.30)))
    sun_x = {"left": 0.08, "right": 0.92}.get(view.light_side, rng.choice([0.12, 0.88]))
    glow = np.exp(-((x - sun_x) ** 2 + (y - horizon + 0.10) ** 2) / 0.035)
    sky = sky + glow[..., None] * np.array([1.0, 0.62, 0.22])
    grass = _ramp((y - horizon) / (1 - horizon), ((0.76, 0.66, 0.26), (0.58, 0.58, 0.20), (0.36, 0.42, 0.12)))
    blades = _texture(x * 3, y, 22, view.seed) * 0.7 + _texture(x, y * 3, 9, view.seed + 1) * 0.5
    grass = grass * (0.5 + 0.9 * blades)[..., None]
    trees = horizon - 0.05 * _texture(x, y * 0, 9, view.seed + 2)
    picture = np.where((y > horizon)[..., None], grass, sky)
    far = (y > trees) & (y <= horizon)
    picture = np.where(far[..., None], to_linear(np.array([0.50, 0.42, 0.20])), picture)
    return _blur(picture, 0.010)


def _rooftop(view: View, rng: np.random.Generator, x: Array, y: Array) -> Array:
    """A city at dusk seen from a roof: blue to violet sky, a dark skyline with small lit windows."""
    picture = _ramp(y / 0.75, ((0.10, 0.12, 0.34), (0.26, 0.22, 0.52), (0.62, 0.38, 0.56)))
    for distance in (0.0, 1.0):
        left = rng.uniform(-0.1, 0.0)
        while left < 1:
            width, top = rng.uniform(0.08, 0.18), rng.uniform(0.40, 0.72) + 0.12 * distance
            tower = (x >= left) & (x < left + width) & (y > top)
            wall = to_linear(np.array([0.20, 0.18, 0.33]) * (0.8 - 0.35 * distance) * rng.uniform(0.8, 1.1))
            picture = np.where(tower[..., None], wall, picture)
            picture = _light_windows(picture, tower, x - left, y - top, rng)
            left += width
    return _blur(picture, 0.006)


def _light_windows(picture: Array, tower: Array, x: Array, y: Array, rng: np.random.Generator) -> Array:
    """Lit windows on a grid over one tower, measured from its upper left corner."""
    step_x, step_y = 0.034, 0.042
    column, row = np.clip(x / step_x, 0, 9).astype(int), np.clip(y / step_y, 0, 29).astype(int)
    lit = rng.random((10, 30)) < rng.uniform(0.1, 0.45)
    pane = (x % step_x > 0.012) & (x % step_x < 0.028) & (y % step_y > 0.014) & (y % step_y < 0.034)
    glow = to_linear(np.array([1.0, 0.80, 0.42])) * rng.uniform(0.7, 1.3)
    return np.where((tower & pane & lit[column, row])[..., None], glow, picture)


def _garden(view: View, rng: np.random.Generator, x: Array, y: Array) -> Array:
    """A spa garden: foliage in many greens, spots of light and a few blossoms, out of focus."""
    picture = _ramp(y, ((0.42, 0.60, 0.34), (0.26, 0.46, 0.24), (0.16, 0.32, 0.16)))
    for _ in range(46):
        dark = rng.random() < 0.55
        green = np.array([rng.uniform(0.12, 0.42), rng.uniform(0.36, 0.68), rng.uniform(0.14, 0.34)])
        blob = _leaf(x - rng.random(), y - rng.random(), rng.uniform(0, np.pi), rng.uniform(0.06, 0.20))
        picture = picture + (0.8 * blob)[..., None] * (to_linear(green * (0.6 if dark else 1.0)) - picture)
    for _ in range(rng.integers(6, 14)):
        spot = _spot(x - rng.random(), y - rng.uniform(0, 0.6), rng.uniform(0.012, 0.035))
        picture = picture + (0.7 * spot)[..., None] * (to_linear(np.array([0.82, 0.93, 0.62])) - picture)
    for _ in range(rng.integers(2, 7)):
        petal = to_linear(np.array([[0.95, 0.60, 0.72], [0.97, 0.95, 0.92], [0.80, 0.55, 0.85]])[rng.integers(3)])
        spot = _spot(x - rng.random(), y - rng.uniform(0.2, 1.0), rng.uniform(0.012, 0.03))
        picture = picture + (0.9 * spot)[..., None] * (petal - picture)
    return _blur(picture, 0.012)


_SCENES: dict[str, Callable[[View, np.random.Generator, Array, Array], Array]] = {
    "studio": _studio,
    "indoor": _indoor,
    "field": _field,
    "rooftop": _rooftop,
    "garden": _garden,
}


def _ramp(t: Array, stops: tuple[tuple[float, float, float], ...]) -> Array:
    """Linear RGB along t in 0..1 through sRGB stops."""
    table = to_linear(np.array(stops))
    at = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(t, at, table[:, channel]) for channel in range(3)], -1)


def _texture(x: Array, y: Array, frequency: float, seed: int) -> Array:
    """Fractal noise in 0..1 over the picture."""
    points = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], 1)
    return fractal_noise(points, frequency, seed).reshape(x.shape)


def _leaf(x: Array, y: Array, turn: float, length: float) -> Array:
    """Opacity of a pointed leaf around the origin."""
    along = (x * np.cos(turn) + y * np.sin(turn)) / length
    across = (y * np.cos(turn) - x * np.sin(turn)) / length
    return smoothstep(0.03, -0.03, np.abs(across) - 0.38 * (1 - along**2)).astype(np.float32)


def _spot(x: Array, y: Array, radius: float) -> Array:
    return smoothstep(1.15, 0.85, np.hypot(x, y) / radius)


def _box(x: Array, y: Array, middle: float, half_width: float, top: float, bottom: float) -> Array:
    return (np.abs(x - middle) < half_width) & (y > top) & (y < bottom)


def _blur(picture: Array, share: float) -> Array:
    """Gaussian blur by a share of the picture's width."""
    return cv2.GaussianBlur(picture.astype(np.float32), (0, 0), max(0.3, picture.shape[1] * share))
