"""Smooth pseudo-random fields over points, and the soft step that shapes them."""

from __future__ import annotations

import numpy as np
from numba import njit

from tools.people.mesh import Array


def value_noise(points: Array, frequency: float, seed: int) -> Array:
    """Value noise (n,) in 0..1 at points (n,3) scaled by `frequency`; the same seed gives the same field."""
    return _value_noise(np.ascontiguousarray(points, np.float32), np.float32(frequency), int(seed) % 9973)


def fractal_noise(points: Array, frequency: float, seed: int, octaves: int = 3) -> Array:
    """Sum of `octaves` value noises, each twice as fine and half as strong, (n,) in 0..1."""
    total = sum(value_noise(points, frequency * 2**k, seed + k) * 0.5**k for k in range(octaves))
    return np.asarray(total) / sum(0.5**k for k in range(octaves))


def smoothstep(start: float | Array, end: float | Array, value: Array) -> Array:
    """0 before `start`, 1 after `end`, smooth in between; `start` may be greater than `end`."""
    t = np.clip((value - start) / (end - start), 0, 1)
    return t * t * (3 - 2 * t)


@njit(cache=True, fastmath=True)
def _value_noise(points, frequency, seed):  # type: ignore[no-untyped-def]
    out = np.empty(len(points), np.float32)
    for i in range(len(points)):
        x, y, z = points[i, 0] * frequency, points[i, 1] * frequency, points[i, 2] * frequency
        floor_x, floor_y, floor_z = np.floor(x), np.floor(y), np.floor(z)
        cell_x, cell_y, cell_z = int(floor_x), int(floor_y), int(floor_z)
        x, y, z = x - floor_x, y - floor_y, z - floor_z
        x, y, z = x * x * (3 - 2 * x), y * y * (3 - 2 * y), z * z * (3 - 2 * z)
        total = 0.0
        for corner in range(8):
            dx, dy, dz = corner & 1, (corner >> 1) & 1, corner >> 2
            hashed = (cell_x + dx) * 374761393 + (cell_y + dy) * 668265263 + (cell_z + dz) * 1274126177
            hashed = (hashed + seed * 961748927) & 0x7FFFFFFF
            hashed = ((hashed ^ (hashed >> 13)) * 1274126177) & 0x7FFFFFFF
            hashed = (hashed ^ (hashed >> 16)) & 0xFFFF
            weight = (x if dx else 1 - x) * (y if dy else 1 - y) * (z if dz else 1 - z)
            total += weight * hashed / 65535.0
        out[i] = total
    return out
