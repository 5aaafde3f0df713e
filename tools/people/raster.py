"""Triangle rasteriser with a depth buffer, and the geometry loops that numpy would be slow at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from tools.people.mesh import Array


@dataclass(frozen=True)
class Hits:
    """The pixels a mesh covers: flat pixel indices (n,), vertex ids (n,3), their weights (n,3) and depth (n,)."""

    pixels: Array
    triangles: Array
    corners: Array
    weights: Array
    depth: Array

    def gather(self, attributes: Array) -> Array:
        """Vertex attributes (V,K) or (V,) interpolated at the pixels: (n,K) or (n,)."""
        table = np.ascontiguousarray(attributes, np.float32)
        if table.ndim == 1:
            return _gather(table[:, None], self.corners, self.weights)[:, 0]
        return _gather(table, self.corners, self.weights)


def rasterise(screen: Array, triangles: Array, depth: Array, cull: bool = False) -> Hits:
    """Draw triangles (T,3) over vertices on screen (V,3: x, y in pixels, nearness) against a depth buffer (h,w).

    Nearness grows towards the viewer and must be 1/distance for a perspective picture. `depth` is not changed.
    `cull` skips triangles that turn away, which closed surfaces never show.
    """
    height, width = depth.shape
    buffer = depth.copy()
    drawn = np.full((height, width), -1, np.int32)
    weights = np.empty((height, width, 3), np.float32)
    _draw(np.ascontiguousarray(screen, np.float32), triangles, cull, buffer, drawn, weights)
    pixels = np.flatnonzero(drawn.ravel() >= 0)
    hit = drawn.ravel()[pixels]
    return Hits(pixels, hit, triangles[hit], weights.reshape(-1, 3)[pixels], buffer.ravel()[pixels])


def depth_map(screen: Array, triangles: Array, resolution: int) -> Array:
    """Nearest depth (resolution, resolution) of an orthographic view; 0 where there is nothing."""
    buffer = np.zeros((resolution, resolution), np.float32)
    _draw_depth(np.ascontiguousarray(screen, np.float32), triangles, buffer)
    return buffer


def vertex_normals(points: Array, triangles: Array) -> Array:
    """Unit normals (V,3) of points (V,3), weighted by triangle area."""
    return _normals(np.ascontiguousarray(points, np.float32), triangles)


@njit(cache=True, fastmath=True)
def _draw(screen, triangles, cull, buffer, drawn, weights):  # type: ignore[no-untyped-def]
    height, width = buffer.shape
    for index in range(len(triangles)):
        a, b, c = triangles[index]
        x0, y0, z0 = screen[a]
        x1, y1, z1 = screen[b]
        x2, y2, z2 = screen[c]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if abs(area) < 1e-9 or (cull and area > 0):
            continue
        left, right = max(0, int(np.ceil(min(x0, x1, x2)))), min(width - 1, int(np.floor(max(x0, x1, x2))))
        top, bottom = max(0, int(np.ceil(min(y0, y1, y2)))), min(height - 1, int(np.floor(max(y0, y1, y2))))
        inverse = 1.0 / area
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                w0 = ((x1 - x) * (y2 - y) - (x2 - x) * (y1 - y)) * inverse
                w1 = ((x2 - x) * (y0 - y) - (x0 - x) * (y2 - y)) * inverse
                w2 = 1.0 - w0 - w1
                if w0 < -1e-5 or w1 < -1e-5 or w2 < -1e-5:
                    continue
                near = w0 * z0 + w1 * z1 + w2 * z2
                if near > buffer[y, x]:
                    buffer[y, x] = near
                    drawn[y, x] = index
                    weights[y, x, 0] = w0 * z0 / near
                    weights[y, x, 1] = w1 * z1 / near
                    weights[y, x, 2] = w2 * z2 / near


@njit(cache=True, fastmath=True)
def _draw_depth(screen, triangles, buffer):  # type: ignore[no-untyped-def]
    height, width = buffer.shape
    for index in range(len(triangles)):
        a, b, c = triangles[index]
        x0, y0, z0 = screen[a]
        x1, y1, z1 = screen[b]
        x2, y2, z2 = screen[c]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if abs(area) < 1e-9:
            continue
        left, right = max(0, int(np.ceil(min(x0, x1, x2)))), min(width - 1, int(np.floor(max(x0, x1, x2))))
        top, bottom = max(0, int(np.ceil(min(y0, y1, y2)))), min(height - 1, int(np.floor(max(y0, y1, y2))))
        inverse = 1.0 / area
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                w0 = ((x1 - x) * (y2 - y) - (x2 - x) * (y1 - y)) * inverse
                w1 = ((x2 - x) * (y0 - y) - (x0 - x) * (y2 - y)) * inverse
                w2 = 1.0 - w0 - w1
                if w0 < -1e-5 or w1 < -1e-5 or w2 < -1e-5:
                    continue
                near = w0 * z0 + w1 * z1 + w2 * z2
                if near > buffer[y, x]:
                    buffer[y, x] = near


@njit(cache=True, fastmath=True)
def _gather(table, corners, weights):  # type: ignore[no-untyped-def]
    count, columns = len(corners), table.shape[1]
    out = np.empty((count, columns), np.float32)
    for i in range(count):
        a, b, c = corners[i]
        u, v, w = weights[i]
        for k in range(columns):
            out[i, k] = u * table[a, k] + v * table[b, k] + w * table[c, k]
    return out


@njit(cache=True, fastmath=True)
def _normals(points, triangles):  # type: ignore[no-untyped-def]
    out = np.zeros_like(points)
    for index in range(len(triangles)):
        a, b, c = triangles[index]
        ux, uy, uz = points[b] - points[a]
        vx, vy, vz = points[c] - points[a]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for corner in (a, b, c):
            out[corner, 0] += nx
            out[corner, 1] += ny
            out[corner, 2] += nz
    for i in range(len(out)):
        length = np.sqrt(out[i, 0] ** 2 + out[i, 1] ** 2 + out[i, 2] ** 2)
        if length > 1e-9:
            out[i] /= length
    return out
