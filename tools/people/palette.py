"""Named colours: where each one lies in hue, saturation and value, how to draw one, and how to recognise one.

Colours here are sRGB in 0..1; the renderer works in linear light (`to_linear`).
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from identity_lock.demo.hues import hue_name
from tools.people.mesh import Array

GAMMA = 2.2


@dataclass(frozen=True)
class ColourBand:
    """Ranges of hue (degrees), saturation and value (0..1) from which a named colour is drawn."""

    hue: tuple[float, float]
    saturation: tuple[float, float]
    value: tuple[float, float]


BANDS = {
    "red": ColourBand((-6, 6), (0.70, 0.90), (0.60, 0.85)),
    "orange": ColourBand((24, 33), (0.75, 0.95), (0.85, 0.98)),
    "yellow": ColourBand((50, 57), (0.65, 0.90), (0.85, 0.97)),
    "green": ColourBand((110, 145), (0.50, 0.80), (0.40, 0.70)),
    "blue": ColourBand((212, 232), (0.60, 0.85), (0.50, 0.85)),
    "purple": ColourBand((272, 290), (0.58, 0.80), (0.45, 0.70)),
    "gray": ColourBand((0, 360), (0.00, 0.04), (0.42, 0.56)),
    "white": ColourBand((0, 360), (0.00, 0.03), (0.93, 0.98)),
    "black": ColourBand((0, 360), (0.00, 0.06), (0.04, 0.10)),
}
COLOURS = tuple(BANDS)


def draw_colour(name: str, rng: np.random.Generator) -> Array:
    """A random sRGB colour (3,) that deserves the name."""
    band = BANDS[name]
    hue, saturation, value = (rng.uniform(*limits) for limits in (band.hue, band.saturation, band.value))
    return np.array(colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value))


def name_colour(rgb: Array) -> str:
    """The name of an sRGB colour (3,): the hue's if it is colourful, else white, gray or black by value."""
    _, saturation, value = colorsys.rgb_to_hsv(*(float(channel) for channel in rgb))
    if value < 0.2 and saturation < 0.6:
        return "black"
    return hue_name(rgb) or ("white" if value > 0.75 else "gray")


def to_linear(srgb: Array) -> Array:
    """Display values to linear light."""
    return np.asarray(srgb) ** GAMMA
