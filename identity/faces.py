"""Finding faces: detection, a documented order, and the one face of a reference photo."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Protocol

import numpy as np

from ..errors import PhotoError
from .photo import MID_GREY, Photo
from .recognisers import store

MIN_FACE = 64  # px, the smaller side of a face box that a reference photo must have
EQUAL_FACES = 0.8  # a second face with this share of the largest one's area makes "the" face ambiguous
SCORE_THRESHOLD = 0.6
DETECT_MIN_SIDE = 320  # px: smaller pictures are enlarged before detection
DETECT_MAX_SIDE = 640  # px: larger ones are reduced
REFINE_SIZES = (110.0, 150.0, 200.0)  # px of face at which the landmarks are read again


class NoFaceError(PhotoError):
    """A reference photo in which no face was found, in the first attempt or the second."""


@dataclass(frozen=True, eq=False)
class Face:
    """One detected face, in pixels of the picture it was found in.

    box: float (4,), x0 y0 x1 y1; it may reach beyond the picture's edge in a close-up.
    landmarks: float (5, 2): left-in-image eye, right-in-image eye, nose tip, left- and right-in-image mouth corner.
    score: the detector's confidence in [0, 1].
    """

    box: np.ndarray
    landmarks: np.ndarray
    score: float

    @property
    def size(self) -> float:
        """The smaller side of the box, px."""
        return float(min(self.box[2] - self.box[0], self.box[3] - self.box[1]))

    @property
    def area(self) -> float:
        return float((self.box[2] - self.box[0]) * (self.box[3] - self.box[1]))

    @property
    def center(self) -> np.ndarray:
        return (self.box[:2] + self.box[2:]) / 2

    @property
    def roll(self) -> float:
        """Angle of the line through the eyes, degrees; positive where the right-in-image eye is the lower one."""
        across = self.landmarks[1] - self.landmarks[0]
        return float(np.degrees(np.arctan2(across[1], across[0])))

    @cached_property
    def yaw_hint(self) -> float:
        """Rough yaw in [-1, 1] from the landmarks: 0 facing the camera, positive turned to the image's right.

        Where the nose tip falls between the eyes, measured along the line through them: a hint, no angle.
        """
        left, right, nose = self.landmarks[:3]
        across = right - left
        length = float(np.hypot(*across))
        if length < 1e-6:
            return 0.0
        offset = float(np.dot(nose - (left + right) / 2, across)) / length
        return float(np.clip(offset / (length / 2), -1.0, 1.0))

    def transformed(self, matrix: np.ndarray) -> Face:
        """The face after a similarity transform (2, 3) of its picture: the box keeps its proportions, not rotated."""
        matrix = np.asarray(matrix, dtype=np.float64)
        scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
        half = (self.box[2:] - self.box[:2]) / 2 * scale
        center = matrix[:, :2] @ self.center + matrix[:, 2]
        landmarks = self.landmarks @ matrix[:, :2].T + matrix[:, 2]
        return Face(np.concatenate([center - half, center + half]), landmarks, self.score)

    def moved(self, dx: float, dy: float) -> Face:
        return self.transformed(np.array([[1.0, 0.0, dx], [0.0, 1.0, dy]]))


class FaceDetector(Protocol):
    """What finds faces in a picture; `sha256` is that of its model file."""

    @property
    def name(self) -> str: ...

    @property
    def sha256(self) -> str: ...

    def detect(self, pixels: np.ndarray) -> list[Face]:
        """Faces of a uint8 RGB picture (H, W, 3), in the order of `order_faces`."""
        ...


class YuNet:
    """OpenCV's YuNet detector (MIT), run by cv2.FaceDetectorYN from a local model file.

    Wu, Peng, Yu: YuNet, a tiny millisecond-level face detector, 2023. Raises RecogniserError where the file is
    missing or altered. One instance may be used from several threads.
    """

    name = "yunet"

    def __init__(self, models_dir: store.Folders = None, *, score_threshold: float = SCORE_THRESHOLD) -> None:
        located = store.require(store.YUNET, models_dir)
        self.path = located.path
        self.sha256 = located.sha256
        self.licence = located.licence
        self.score_threshold = score_threshold
        self._lock = threading.Lock()
        self._net: Any = None

    def detect(self, pixels: np.ndarray) -> list[Face]:
        import cv2

        height, width = pixels.shape[:2]
        scale = _detection_scale(height, width)
        bgr = np.ascontiguousarray(pixels[:, :, ::-1])
        if scale != 1.0:
            target = (max(1, round(width * scale)), max(1, round(height * scale)))
            bgr = cv2.resize(bgr, target, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        shrink = np.array([bgr.shape[1] / width, bgr.shape[0] / height])
        with self._lock:
            net = self._network()
            net.setInputSize((bgr.shape[1], bgr.shape[0]))
            _, rows = net.detect(bgr)
        return order_faces([_face_from_row(row, shrink) for row in ([] if rows is None else rows)])

    def _network(self) -> Any:
        if self._net is None:
            import cv2

            level = cv2.utils.logging.getLogLevel()
            cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # OpenCV 5 warns about CPU targets
            try:
                self._net = cv2.FaceDetectorYN.create(
                    str(self.path), "", (DETECT_MIN_SIDE, DETECT_MIN_SIDE), self.score_threshold, 0.3, 100
                )
            finally:
                cv2.utils.logging.setLogLevel(level)
        return self._net


@lru_cache(maxsize=4)
def _yunet_at(folders: tuple[str, ...], sha256: str) -> YuNet:
    return YuNet(folders or None)


def default_detector(models_dir: store.Folders = None) -> YuNet:
    """The YuNet of these folders, loaded once. Raises RecogniserError where its file is missing or altered."""
    located = store.require(store.YUNET, models_dir)
    return _yunet_at(store.folder_key(models_dir), located.sha256)


def order_faces(faces: Sequence[Face]) -> list[Face]:
    """The order used everywhere: largest box area first; ties by higher score, then left to right, then top down."""
    return sorted(faces, key=lambda face: (-face.area, -face.score, float(face.box[0]), float(face.box[1])))


def largest_face(faces: Sequence[Face]) -> Face:
    """The first face by `order_faces`. Raises PhotoError for an empty list."""
    if not faces:
        raise NoFaceError("No face was found; use a picture in which the face is clearly visible.")
    return order_faces(faces)[0]


def find_faces(detector: FaceDetector, pixels: np.ndarray) -> list[Face]:
    """Faces of a picture, in `order_faces` order; where the first attempt finds none, a second one looks closer.

    The second attempt sets the picture inside a margin (grey or mirrored), which brings close-ups to a size that the
    detector knows, and then looks at overlapping quarters of large pictures, for faces too small in the whole.
    """
    faces = detector.detect(pixels)
    if faces:
        return order_faces(faces)
    reduced, scale = _reduced(pixels)  # what the margin surrounds ends up smaller than this anyway
    back = np.array([[1 / scale, 0.0, 0.0], [0.0, 1 / scale, 0.0]])
    for share, mirrored in ((0.5, False), (0.25, True), (1.0, False), (0.5, True), (2.0, False)):
        faces = _detect_padded(detector, reduced, share, mirrored=mirrored)
        if faces:
            return [face.transformed(back) for face in faces]
    if max(pixels.shape[:2]) > DETECT_MAX_SIDE:
        return _detect_quarters(detector, pixels)
    return []


def refine_face(detector: FaceDetector, pixels: np.ndarray, face: Face) -> Face:
    """The face with its landmarks averaged over readings at three sizes; the box and the score stay.

    One reading's landmarks jitter by 2 to 5 % of the face, more for close-ups, which alone puts a drift of 0.03 to 0.05
    between two views of the same photo (SFace, small turns and scalings); averaged it is 0.02 to 0.025.
    """
    import cv2

    side = float(max(face.box[2:] - face.box[:2]))
    readings = []
    for size in REFINE_SIZES:
        scale = size / max(side, 1e-6)
        corner, crop = _square_around(pixels, face.center, DETECT_MIN_SIDE / scale)
        resized = cv2.resize(
            crop,
            (DETECT_MIN_SIDE, DETECT_MIN_SIDE),
            interpolation=cv2.INTER_AREA if crop.shape[0] > DETECT_MIN_SIDE else cv2.INTER_CUBIC,
        )
        factor = crop.shape[0] / DETECT_MIN_SIDE
        back = np.array([[factor, 0.0, corner[0]], [0.0, factor, corner[1]]])
        seen = [found.transformed(back) for found in detector.detect(resized)]
        same = [found for found in seen if _overlap(found, face) > 0.4]
        if same:
            readings.append(max(same, key=lambda found: _overlap(found, face)).landmarks)
    return Face(face.box, np.mean(readings, axis=0), face.score) if readings else face


def the_face(detector: FaceDetector, photo: Photo, *, min_size: float = MIN_FACE) -> Face:
    """The one face of a reference photo. Raises PhotoError (NoFaceError for none) naming the photo and the remedy."""
    faces = find_faces(detector, photo.pixels)
    if not faces:
        raise NoFaceError(
            f"{photo.name}: no face was found; use a photo in which the face is clearly visible, lit and upright."
        )
    face = faces[0]
    if len(faces) > 1 and faces[1].area >= EQUAL_FACES * face.area:
        raise PhotoError(
            f"{photo.name}: several faces are equally large, so it is unclear whose photo this is; "
            "crop it to the one person."
        )
    if face.size < min_size:
        raise PhotoError(
            f"{photo.name}: the face is only {face.size:.0f} px across; use a photo in which it has at least "
            f"{min_size:.0f} px."
        )
    return refine_face(detector, photo.pixels, face)


def _detection_scale(height: int, width: int) -> float:
    if max(height, width) > DETECT_MAX_SIDE:
        return DETECT_MAX_SIDE / max(height, width)
    scale = max(1.0, DETECT_MIN_SIDE / min(height, width))
    return min(scale, 2 * DETECT_MAX_SIDE / max(height, width))  # a thin strip is not blown up without bound


def _face_from_row(row: np.ndarray, scale: np.ndarray) -> Face:
    """YuNet's row: x y w h, then right eye, left eye, nose, right and left mouth corner of the subject, then score.

    The subject's right is the image's left, so the landmark order is already the one used here.
    """
    values = np.asarray(row, dtype=np.float64)
    corner, extent = values[:2], values[2:4]
    box = np.concatenate([corner / scale, (corner + extent) / scale])
    return Face(box, values[4:14].reshape(5, 2) / scale, float(values[14]))


def _reduced(pixels: np.ndarray) -> tuple[np.ndarray, float]:
    longer = max(pixels.shape[:2])
    if longer <= DETECT_MAX_SIDE:
        return pixels, 1.0
    import cv2

    scale = DETECT_MAX_SIDE / longer
    return cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), scale


def _square_around(pixels: np.ndarray, center: np.ndarray, side: float) -> tuple[np.ndarray, np.ndarray]:
    """The square of about `side` px around a point, grey beyond the picture: its corner (x, y) and pixels."""
    whole = max(2, round(side))
    left, top = (int(value) for value in np.rint(center - whole / 2))
    height, width = pixels.shape[:2]
    square = np.full((whole, whole, 3), MID_GREY, dtype=np.uint8)
    x0, x1 = max(left, 0), min(left + whole, width)
    y0, y1 = max(top, 0), min(top + whole, height)
    if x0 < x1 and y0 < y1:
        square[y0 - top : y1 - top, x0 - left : x1 - left] = pixels[y0:y1, x0:x1]
    return np.array([left, top], dtype=np.float64), square


def _detect_padded(detector: FaceDetector, pixels: np.ndarray, share: float, *, mirrored: bool) -> list[Face]:
    height, width = pixels.shape[:2]
    margin = round(share * max(height, width))
    if mirrored:
        # np.pad's reflection needs a margin smaller than the picture
        margin = min(margin, height - 1, width - 1)
        if margin < 1:
            return []
    edges = ((margin, margin), (margin, margin), (0, 0))
    padded = np.pad(pixels, edges, mode="reflect") if mirrored else np.pad(pixels, edges, constant_values=MID_GREY)
    faces = [face.moved(-margin, -margin) for face in detector.detect(padded)]
    return order_faces([face for face in faces if _inside(face, width, height)])


def _detect_quarters(detector: FaceDetector, pixels: np.ndarray) -> list[Face]:
    height, width = pixels.shape[:2]
    tile_height, tile_width = round(height * 0.6), round(width * 0.6)
    found: list[Face] = []
    for top in (0, height - tile_height):
        for left in (0, width - tile_width):
            tile = np.ascontiguousarray(pixels[top : top + tile_height, left : left + tile_width])
            found += [face.moved(left, top) for face in detector.detect(tile)]
    kept: list[Face] = []
    for face in sorted(found, key=lambda face: -face.score):  # the overlap shows some faces twice
        if all(_overlap(face, other) < 0.3 for other in kept):
            kept.append(face)
    return order_faces(kept)


def _inside(face: Face, width: int, height: int) -> bool:
    """Whether the face is the picture's own, and not its reflection in the margin."""
    x, y = face.center
    return bool(0 <= x < width and 0 <= y < height)


def _overlap(a: Face, b: Face) -> float:
    """Intersection over union of the boxes."""
    corner = np.maximum(a.box[:2], b.box[:2])
    extent = np.clip(np.minimum(a.box[2:], b.box[2:]) - corner, 0, None)
    shared = float(extent[0] * extent[1])
    return shared / max(a.area + b.area - shared, 1e-9)
