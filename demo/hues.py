"""The name of a colour's hue: how the demo's backgrounds are told apart, and the synthetic people's clothes drawn."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

# Where one hue name ends and the next begins, in degrees; below this saturation a colour has no hue to speak of.
_LIMITS = ((15, "red"), (42, "orange"), (70, "yellow"), (165, "green"), (255, "blue"), (325, "purple"))
_COLOURFUL = 0.25
HUES = tuple(name for _, name in _LIMITS)


def hue_name(rgb: Sequence[float]) -> str | None:
    """rgb: sRGB, three values in [0, 1]. None where the colour is not colourful."""
    hue, saturation, _ = colorsys.rgb_to_hsv(*(float(channel) for channel in rgb))
    if saturation < _COLOURFUL:
        return None
    return next((name for limit, name in _LIMITS if hue * 360 < limit), "red")
