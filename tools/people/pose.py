"""Where the figure stands and how it is turned, and the camera that sees it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tools.people.mesh import Array, figure_mesh
from tools.people.noise import smoothstep
from tools.people.view import View

# The shoulders follow the turn of the head by this much.
SHOULDERS_FOLLOW = 0.2
# Room between the crown of the head and the upper edge of the picture, for hair.
HEADROOM = 0.30


def rotation(yaw: float, pitch: float, roll: float) -> Array:
    """Rotation matrix (3,3) from degrees."""
    y, p, r = np.radians([yaw, pitch, roll])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return (about_z @ about_x @ about_y).astype(np.float32)


@dataclass(frozen=True)
class Pose:
    """Turns the head about the neck (3,); between shoulders and head the two rotations (3,3) are blended."""

    neck: Array
    head: Array
    shoulders: Array

    @classmethod
    def of(cls, view: View, points: Array) -> Pose:
        """Pose of a view for a figure with vertices (N,3)."""
        around_neck = np.abs(figure_mesh().template[:, 1] - 5.75) < 0.15
        neck = np.array([0, points[around_neck, 1].mean(), 0.1], np.float32)
        return cls(neck, rotation(view.yaw, view.pitch, view.roll), rotation(view.yaw * SHOULDERS_FOLLOW, 0, 0))

    def __call__(self, points: Array) -> Array:
        """Posed copies of points (n,3)."""
        share = smoothstep(self.neck[1] - 0.3, self.neck[1] + 0.55, points[:, 1])[:, None] * 0.8 + 0.2
        centred = points - self.neck
        turned = centred @ self.head.T
        return (turned * share + (centred @ self.shoulders.T) * (1 - share) + self.neck).astype(np.float32)


@dataclass(frozen=True)
class Camera:
    """Looks along -z at a target (3,) from a distance; the picture is 2 * half_width wide there."""

    target: Array
    distance: float
    half_width: float

    @classmethod
    def of(cls, view: View, posed: Array, head_size: float) -> Camera:
        """Camera of a view for a posed figure (N,3); big heads are seen from further away, so that all fill alike."""
        head = posed[figure_mesh().template[:, 1] > 6.3]
        crown = head[:, 1].max()
        middle = crown + (HEADROOM - view.half_width - view.dy) * head_size
        target = np.array([head[:, 0].mean() - view.dx * head_size, middle, head[:, 2].mean()])
        return cls(target, view.distance * head_size, view.half_width * head_size)

    def project(self, points: Array, pixels: int) -> Array:
        """Points (n,3) to x, y in pixels and nearness 1/distance: (n,3)."""
        seen = points - self.target
        near = 1 / (self.distance - seen[:, 2])
        scale = pixels / 2 / self.half_width * self.distance * near
        return np.stack([pixels / 2 + seen[:, 0] * scale, pixels / 2 - seen[:, 1] * scale, near], 1).astype(np.float32)
