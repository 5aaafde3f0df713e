"""The picture mathematics of the rescue blend (paper section 5.1, phase 3): align, match colour, mask, mix.

Nothing here knows an engine or a recogniser: uint8 RGB pictures and five landmarks in, a picture out. The landmarks
are (5, 2) pixels: left-in-image eye, right-in-image eye, nose, left-in-image and right-in-image mouth corner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..errors import RenderError

MAX_BLEND = 0.30
"""The paper's blend, and the most that is ever taken of the anchor."""

MAX_RESIDUAL = 0.15
"""RMS landmark error, in eye distances, above which two faces do not lie on top of each other."""

MAX_YAW_DIFFERENCE = 20.0
"""Degrees of estimated head turn between the two faces above which an in-plane alignment shows a second nose."""

FEATHER = 0.45
"""Width of the mask's soft edge, in eye distances."""

_LANDMARK_ORDER = "left eye, right eye, nose, left mouth corner, right mouth corner, each as seen in the picture"
# How far the tip of the nose lies in front of the line from the eyes to the mouth, in eye distances: 32 of 63 mm.
_NOSE_DEPTH = 0.5
# Outline of the inner face, brows to chin: across in eye distances from the midline, down in eye-to-mouth lengths from
# the eyes. Convex. The forehead stays out, so hair and hats of the styled picture are never touched.
_OUTLINE = np.array(
    [(0.0, -0.55), (0.55, -0.55), (0.9, -0.35), (1.02, 0.1), (0.98, 0.6), (0.85, 1.05), (0.58, 1.42), (0.25, 1.62),
     (0.0, 1.66), (-0.25, 1.62), (-0.58, 1.42), (-0.85, 1.05), (-0.98, 0.6), (-1.02, 0.1), (-0.9, -0.35),
     (-0.55, -0.55)]
)  # fmt: skip
_MIN_EYE_DISTANCE = 4.0
_MIN_COVERAGE = 0.75
# A lightness gain outside these bounds would flatten or harden the features that the blend is there to bring back.
_LIGHTNESS_GAIN = (0.5, 2.0)
_CHROMA_GAIN = 2.0


class PoseMismatch(RenderError):
    """The anchor's face and the styled face look in directions too different to be laid over each other."""


@dataclass(frozen=True)
class Alignment:
    """The similarity transform that lays the anchor's face on the styled one.

    `matrix` is (2, 3): styled = matrix @ (x, y, 1) of the anchor, in pixels. `scale` is styled over anchor,
    `rotation_degrees` is in (-180, 180], clockwise on the screen. `residual` is the RMS distance of the five landmarks
    after the alignment, in styled pixels divided by the styled eye distance. `yaw_difference` is estimated, in degrees.
    """

    matrix: np.ndarray
    scale: float
    rotation_degrees: float
    residual: float
    yaw_difference: float = 0.0


@dataclass(frozen=True)
class BlendResult:
    """`image` uint8 (H, W, 3); `mask` float32 (H, W): 1 on the face, 0 where `image` is `styled` bit for bit."""

    image: np.ndarray
    mask: np.ndarray
    alignment: Alignment


def align_faces(anchor_landmarks: np.ndarray, styled_landmarks: np.ndarray) -> Alignment:
    """Least-squares similarity (rotation, uniform scale, shift; never a reflection) from anchor to styled landmarks.

    Both are (5, 2) pixels. This is Umeyama (1991) in the plane, where it has a closed form over complex numbers.
    Raises RenderError for landmarks that are not five finite points of a face.
    """
    anchor = _checked_landmarks(anchor_landmarks, "anchor")
    styled = _checked_landmarks(styled_landmarks, "styled")
    a = anchor[:, 0] + 1j * anchor[:, 1]
    s = styled[:, 0] + 1j * styled[:, 1]
    centred = a - a.mean()
    w = np.vdot(centred, s - s.mean()) / np.vdot(centred, centred).real
    shift = s.mean() - w * a.mean()
    matrix = np.array([[w.real, -w.imag, shift.real], [w.imag, w.real, shift.imag]], dtype=np.float64)
    error = np.sqrt(np.mean(np.abs(w * a + shift - s) ** 2))
    return Alignment(
        matrix=matrix,
        scale=float(abs(w)),
        rotation_degrees=float(math.degrees(math.atan2(w.imag, w.real))),
        residual=float(error / _eye_distance(styled)),
        yaw_difference=estimate_yaw(styled) - estimate_yaw(anchor),
    )


def estimate_yaw(landmarks: np.ndarray) -> float:
    """Degrees that a head is turned, from where its nose lies between the eyes-to-mouth line and one side.

    Positive when the nose points to the right of the picture. From five points it is an estimate, good to several
    degrees: the nose's offset across the face is its depth times tan(yaw), with one depth for everybody.
    """
    points = _checked_landmarks(landmarks, "given")
    middle_of_eyes, middle_of_mouth = points[:2].mean(0), points[3:].mean(0)
    down = middle_of_mouth - middle_of_eyes
    across = points[2] - middle_of_eyes
    offset = (across[0] * down[1] - across[1] * down[0]) / max(float(np.hypot(*down)), 1e-9)
    return math.degrees(math.atan(offset / _eye_distance(points) / _NOSE_DEPTH))


def check_pose(alignment: Alignment) -> None:
    """Raise PoseMismatch, with the measured numbers, where the two faces cannot be laid over each other."""
    if abs(alignment.yaw_difference) > MAX_YAW_DIFFERENCE:
        raise PoseMismatch(
            f"The anchor's head and the styled head are turned about {abs(alignment.yaw_difference):.0f} degrees apart "
            f"(at most {MAX_YAW_DIFFERENCE:.0f} can be blended). Ask for a pose nearer to the anchor's, "
            "or render the anchor with the styled pose."
        )
    if alignment.residual > MAX_RESIDUAL:
        raise PoseMismatch(
            "The anchor's face does not fit the styled one: after alignment their landmarks are "
            f"{alignment.residual:.2f} eye distances apart (at most {MAX_RESIDUAL:.2f}). The pose or the expression "
            "differs too far, or one face is mirrored or in profile. Ask for a pose nearer to the anchor's."
        )


def match_color(source: np.ndarray, target: np.ndarray, mask: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """`source` with the colour statistics that `target` has inside `mask`; uint8 (H, W, 3).

    Both are uint8 RGB of one size, `mask` is float32 (H, W) in [0, 1], `strength` in [0, 1] is how far to go. In CIE
    Lab: mean and deviation of lightness as in Reinhard et al. (2001), and mean and covariance of the two chroma axes by
    the linear Monge-Kantorovich map of Pitie and Kokaram (2007). Gains are bounded, so a flat picture gives no NaN and
    noise is not blown up; a greyscale target takes all colour out of the source.
    """
    import cv2

    _check_picture(source, "source")
    _check_picture(target, "target")
    if source.shape != target.shape or mask.shape != source.shape[:2]:
        raise RenderError(
            f"Colour can be matched only between pictures of one size: source {source.shape[:2]}, "
            f"target {target.shape[:2]}, mask {mask.shape}. Align the source first."
        )
    weights = mask.astype(np.float64)
    if strength <= 0.0 or weights.sum() < 1.0:
        return source.copy()
    lab = cv2.cvtColor(source.astype(np.float32) / 255.0, cv2.COLOR_RGB2LAB)
    goal = cv2.cvtColor(target.astype(np.float32) / 255.0, cv2.COLOR_RGB2LAB)
    inside = weights > 0.0
    mean_s, cov_s = _moments(lab[inside], weights[inside])
    mean_t, cov_t = _moments(goal[inside], weights[inside])

    transform = np.zeros((3, 3))
    gain = math.sqrt(max(cov_t[0, 0], 0.0) / max(cov_s[0, 0], 1e-6))
    transform[0, 0] = np.clip(gain, *_LIGHTNESS_GAIN)
    transform[1:, 1:] = _monge_kantorovich(cov_s[1:, 1:], cov_t[1:, 1:], _CHROMA_GAIN)
    matched = (lab - mean_s) @ transform.T + mean_t
    mixed = (lab + min(strength, 1.0) * (matched - lab)).astype(np.float32)
    mixed[..., 0] = np.clip(mixed[..., 0], 0.0, 100.0)
    rgb = cv2.cvtColor(mixed, cv2.COLOR_LAB2RGB)
    return np.ascontiguousarray(np.rint(np.clip(rgb, 0.0, 1.0) * 255.0).astype(np.uint8))


def feathered_mask(landmarks: np.ndarray, shape: tuple[int, ...], feather: float = FEATHER) -> np.ndarray:
    """Soft mask of the inner face, brows to chin: float32 (H, W), 1 on the features, exactly 0 outside the outline.

    `landmarks` are (5, 2) pixels, `shape` is the picture's (H, W, ...), and `feather` is the width of the soft edge in
    eye distances. The edge runs inwards and has no kink at either end.
    """
    points = _checked_landmarks(landmarks, "given")
    return _soften(_depth_inside(_face_outline(points), shape), feather * _face_unit(points))


def laplacian_blend(styled: np.ndarray, aligned: np.ndarray, weight_mask: np.ndarray) -> np.ndarray:
    """Mix two pictures band by band, each band with a mask as soft as the band is coarse (Burt and Adelson 1983).

    `styled` and `aligned` are uint8 RGB of one size; `weight_mask` is float32 (H, W) in [0, 1], the share of `aligned`.
    Where the weights are constant the result is (1 - w) styled + w aligned. Coarse bands reach past the mask's edge, so
    the change fades out inside the mask's support: where `weight_mask` is exactly 0 the result is `styled` bit for bit.
    """
    import cv2

    _check_picture(styled, "styled")
    _check_picture(aligned, "aligned anchor")
    if styled.shape != aligned.shape or weight_mask.shape != styled.shape[:2]:
        raise RenderError(
            f"Only pictures of one size can be blended: styled {styled.shape[:2]}, aligned {aligned.shape[:2]}, mask "
            f"{weight_mask.shape}. Align the anchor first."
        )
    result = styled.copy()
    rows, columns = np.nonzero(weight_mask > 0.0)
    if rows.size == 0:
        return result
    # Bands are built on the support alone: a small face in a large picture costs what the small face costs.
    extent = min(int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1)
    levels = max(0, min(6, int(math.log2(max(extent, 1) / 8.0)) if extent >= 8 else 0))
    margin = 2 ** (levels + 1)
    top, bottom = max(0, int(rows.min()) - margin), min(styled.shape[0], int(rows.max()) + 1 + margin)
    left, right = max(0, int(columns.min()) - margin), min(styled.shape[1], int(columns.max()) + 1 + margin)
    window = np.s_[top:bottom, left:right]

    weights = weight_mask[window].astype(np.float32)
    base = styled[window].astype(np.float32)
    # Bands are linear, so those of the difference are enough: a band of (1 - w) s + w a is s + w (a - s) in that band.
    difference = aligned[window].astype(np.float32) - base
    bands, softened = [], [weights]
    for _ in range(levels):
        smaller = cv2.pyrDown(difference)
        bands.append(difference - cv2.pyrUp(smaller, dstsize=difference.shape[1::-1]))
        softened.append(np.asarray(cv2.pyrDown(softened[-1]), np.float32))
        difference = np.asarray(smaller, np.float32)
    change = difference * softened[-1][..., None]
    for band, weight in zip(reversed(bands), reversed(softened[:-1]), strict=True):
        change = cv2.pyrUp(change, dstsize=band.shape[1::-1]) + band * weight[..., None]

    gate = _smoothstep(weights / (0.5 * float(weights.max())))
    mixed = np.clip(np.rint(base + change * gate[..., None]), 0.0, 255.0).astype(np.uint8)
    result[window] = np.where((weights > 0.0)[..., None], mixed, styled[window])
    return result


def blend_faces(
    styled: np.ndarray,
    anchor: np.ndarray,
    styled_landmarks: np.ndarray,
    anchor_landmarks: np.ndarray,
    amount: float,
    *,
    maximum: float = MAX_BLEND,
    feather: float = FEATHER,
) -> BlendResult:
    """Bring `amount` of the anchor's face into the styled picture: (1 - amount) styled + amount anchor on the face.

    Both pictures are uint8 RGB of any sizes, with (5, 2) landmarks each. `amount` is in [0, `maximum`]; at 0 the styled
    picture comes back bit for bit. The anchor is laid on the styled face by `align_faces`, takes its colours by
    `match_color`, and goes in by `laplacian_blend`; outside `mask` no pixel changes.

    Raises PoseMismatch where `check_pose` finds the poses too different, and RenderError for an amount out of range, a
    face outside its picture, or an anchor whose face is cut off by the picture's edge.
    """
    _check_picture(styled, "styled")
    _check_picture(anchor, "anchor")
    if not 0.0 <= amount <= maximum:
        raise RenderError(f"Blend {amount} is out of range. Give a value from 0 to {maximum:.2f}.")
    alignment = align_faces(anchor_landmarks, styled_landmarks)
    points = _checked_landmarks(styled_landmarks, "styled")
    edge = feather * _face_unit(points)
    face = _depth_inside(_face_outline(points), styled.shape)
    if not face.any():
        raise RenderError(
            "The styled face lies outside its picture. Use the landmarks that were found in this very picture."
        )
    if amount == 0.0:
        return BlendResult(styled.copy(), _soften(face, edge), alignment)
    check_pose(alignment)

    height, width = anchor.shape[:2]
    corners = np.array([(0, 0, 1), (width - 1, 0, 1), (width - 1, height - 1, 1), (0, height - 1, 1)], dtype=np.float64)
    support = np.minimum(face, _depth_inside(corners @ alignment.matrix.T, styled.shape))
    if np.count_nonzero(support) < _MIN_COVERAGE * np.count_nonzero(face):
        raise RenderError(
            "The anchor shows too little of the face: the picture's edge cuts it off. "
            "Render the anchor with the whole face in frame."
        )
    mask = _soften(support, edge)
    aligned = match_color(_warp(anchor, alignment, styled.shape), styled, mask)
    return BlendResult(laplacian_blend(styled, aligned, mask * np.float32(amount)), mask, alignment)


def _checked_landmarks(landmarks: np.ndarray, whose: str) -> np.ndarray:
    points = np.asarray(landmarks, dtype=np.float64)
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise RenderError(
            f"The {whose} face needs five finite (x, y) landmarks ({_LANDMARK_ORDER}); got shape {points.shape}."
        )
    if _eye_distance(points) < _MIN_EYE_DISTANCE:
        raise RenderError(
            f"The {whose} face is too small or in profile: its eyes are {_eye_distance(points):.1f} pixels apart, "
            f"and {_MIN_EYE_DISTANCE:.0f} are needed. Use a larger picture of a face seen from the front."
        )
    return points


def _check_picture(pixels: np.ndarray, name: str) -> None:
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
        raise RenderError(f"The {name} picture must be uint8 RGB (H, W, 3); got {pixels.dtype} {pixels.shape}.")


def _eye_distance(points: np.ndarray) -> float:
    return float(np.hypot(*(points[1] - points[0])))


def _face_unit(points: np.ndarray) -> float:
    """The eye distance that the face would have seen from the front: a turned head keeps its height."""
    height = float(np.hypot(*(points[3:].mean(0) - points[:2].mean(0))))
    return max(_eye_distance(points), 0.9 * height)


def _face_outline(points: np.ndarray) -> np.ndarray:
    """Convex polygon (N, 2) around the inner face: the outline laid on the landmarks, and the landmarks themselves."""
    import cv2

    middle = points[:2].mean(0)
    across = (points[1] - points[0]) / _eye_distance(points) * _face_unit(points)
    down = points[3:].mean(0) - middle
    outline = middle + _OUTLINE[:, :1] * across + _OUTLINE[:, 1:] * down
    return cv2.convexHull(np.vstack([outline, points]).astype(np.float32))[:, 0, :].astype(np.float64)


def _depth_inside(polygon: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """float32 (H, W): how far each pixel's centre lies inside a convex polygon, in pixels; exactly 0 outside.

    A distance to the polygon's own edges, not to a filled picture of it, so the mask has no staircase at 128 pixels.
    """
    depth = np.zeros(shape[:2], np.float32)
    left, top = np.maximum(np.floor(polygon.min(0)), 0).astype(int)
    right, bottom = np.minimum(np.ceil(polygon.max(0)) + 1, (shape[1], shape[0])).astype(int)
    if left >= right or top >= bottom:
        return depth
    x = np.arange(left, right, dtype=np.float64)[None, :]
    y = np.arange(top, bottom, dtype=np.float64)[:, None]
    inside = np.full((bottom - top, right - left), np.inf)
    centre = polygon.mean(0)
    for start, end in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        length = float(np.hypot(*(end - start)))
        if length < 1e-6:
            continue
        normal = np.array([start[1] - end[1], end[0] - start[0]]) / length
        if normal @ (centre - start) < 0.0:
            normal = -normal
        np.minimum(inside, (x - start[0]) * normal[0] + (y - start[1]) * normal[1], out=inside)
    depth[top:bottom, left:right] = np.maximum(inside, 0.0)
    return depth


def _soften(depth: np.ndarray, edge: float) -> np.ndarray:
    return _smoothstep(depth / max(edge, 1.0)).astype(np.float32)


def _smoothstep(t: np.ndarray) -> np.ndarray:
    t = np.clip(t, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _warp(anchor: np.ndarray, alignment: Alignment, shape: tuple[int, ...]) -> np.ndarray:
    import cv2

    if alignment.scale < 0.9:
        # warpAffine samples, it does not average: take out what the smaller picture cannot hold.
        sigma = 0.5 * math.sqrt(1.0 / alignment.scale**2 - 1.0)
        anchor = cv2.GaussianBlur(anchor, (0, 0), sigma)
    # Repeated edge pixels, never black: outside the anchor nothing has weight, but coarse bands look past the edge.
    size = (shape[1], shape[0])
    return cv2.warpAffine(anchor, alignment.matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def _moments(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = values.astype(np.float64)
    share = weights / weights.sum()
    mean = share @ values
    centred = values - mean
    return mean, (centred * share[:, None]).T @ centred


def _monge_kantorovich(source: np.ndarray, target: np.ndarray, largest: float) -> np.ndarray:
    """The symmetric T with T source T = target (Pitie and Kokaram 2007), its gains cut at `largest`."""
    floor = 1e-4 * np.eye(len(source))
    root = _matrix_root(source + floor)
    inverse = np.linalg.inv(root)
    transform = inverse @ _matrix_root(root @ target @ root) @ inverse
    gains, axes = np.linalg.eigh((transform + transform.T) / 2.0)
    return (axes * np.clip(gains, 0.0, largest)) @ axes.T


def _matrix_root(matrix: np.ndarray) -> np.ndarray:
    values, axes = np.linalg.eigh((matrix + matrix.T) / 2.0)
    return (axes * np.sqrt(np.maximum(values, 0.0))) @ axes.T
