"""Drift: how far a generated face is from the reference (paper section 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ..errors import PhotoError, RecogniserError
from .faces import Face, FaceDetector, find_faces, refine_face
from .recognisers.base import Recogniser

LOCK_THRESHOLD = 0.18  # paper section 4: a render is identity-locked at drift <= 0.18
UNDETECTED = 1.0  # the drift of a picture without a face: it is counted, never dropped


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine similarity of two embeddings, in [-1, 1]. Raises RecogniserError where they cannot be compared."""
    a = np.asarray(a, dtype=np.float64).ravel()
    b = np.asarray(b, dtype=np.float64).ravel()
    if a.shape != b.shape:
        raise RecogniserError(
            f"Embeddings of {a.size} and {b.size} numbers come from different recognisers and do not compare; "
            "embed both pictures with the same one."
        )
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    if not np.isfinite(norms) or norms < 1e-12:
        raise RecogniserError("An embedding is empty or not finite; embed the picture again.")
    return float(np.clip(np.dot(a, b) / norms, -1.0, 1.0))


def drift(reference: np.ndarray, generated: np.ndarray) -> float:
    """1 - cosine(reference, generated): 0 for one direction, about 1 for strangers, 2 at most (paper section 4)."""
    return 1.0 - cosine(reference, generated)


@dataclass(frozen=True, eq=False)
class Drift:
    """The drift of one picture.

    value: 1 - cosine; exactly 1.0 where no face was found. face: the largest face, which was measured, or None.
    recogniser: registry name. space: the space the number was taken in. recogniser_sha256: of the weights that
    measured.
    """

    value: float
    face: Face | None
    recogniser: str
    space: str = "raw cosine"
    recogniser_sha256: str = ""

    @property
    def detected(self) -> bool:
        return self.face is not None

    def locked(self, threshold: float = LOCK_THRESHOLD) -> bool:
        """Whether a face was found and its drift is at most the threshold: lower is more alike."""
        return self.detected and self.value <= threshold


@dataclass(frozen=True, eq=False)
class Reading:
    """What was read from one picture: its largest face and that face's embedding, or None for both."""

    face: Face | None
    embedding: np.ndarray | None


class FaceReader:
    """Finds the largest face of a picture and embeds it."""

    def __init__(self, detector: FaceDetector, recogniser: Recogniser) -> None:
        self.detector = detector
        self.recogniser = recogniser

    def read(self, pixels: np.ndarray) -> Reading:
        """Read a uint8 RGB picture (H, W, 3). No face is no error. Raises PhotoError for any other array."""
        _check_picture(pixels, "The picture")
        return self._read(pixels)

    def read_all(
        self, images: Iterable[np.ndarray], progress: Callable[[int, int], None] | None = None
    ) -> list[Reading]:
        """One Reading per picture, in the order given. `progress(done, total)` is called after each."""
        pictures = list(images)
        readings = []
        for index, pixels in enumerate(pictures):
            _check_picture(pixels, f"Picture {index + 1} of {len(pictures)}")
            readings.append(self._read(pixels))
            if progress is not None:
                progress(index + 1, len(pictures))
        return readings

    def _read(self, pixels: np.ndarray) -> Reading:
        faces = find_faces(self.detector, pixels)
        if not faces:
            return Reading(None, None)
        face = refine_face(self.detector, pixels, faces[0])
        return Reading(face, self.recogniser.embed(pixels, face))


class DriftMeter:
    """Measures drift from one reference embedding by one recogniser."""

    def __init__(self, reference: np.ndarray, reader: FaceReader) -> None:
        """reference: (D,), of the reader's recogniser. Raises RecogniserError for another dimension."""
        reference = np.asarray(reference, dtype=np.float32).ravel()
        if reference.size != reader.recogniser.dimension:
            raise RecogniserError(
                f"The reference has {reference.size} numbers, but {reader.recogniser.name} gives "
                f"{reader.recogniser.dimension}; embed the reference with {reader.recogniser.name}."
            )
        cosine(reference, reference)  # refuses a reference with no direction
        self.reference = reference
        self.reader = reader

    @property
    def recogniser(self) -> str:
        return self.reader.recogniser.name

    def measure_one(self, image: np.ndarray) -> Drift:
        """Drift of the largest face of a uint8 RGB picture (H, W, 3)."""
        return self.judge(self.reader.read(image))

    def measure(self, images: Iterable[np.ndarray], progress: Callable[[int, int], None] | None = None) -> list[Drift]:
        """One Drift per picture, in the order given; a picture without a face counts as 1.0."""
        return [self.judge(reading) for reading in self.reader.read_all(images, progress)]

    def judge(self, reading: Reading) -> Drift:
        """Drift of a picture that was read already, by this meter's recogniser."""
        sha256 = self.reader.recogniser.sha256
        if reading.embedding is None:
            return Drift(UNDETECTED, None, self.recogniser, recogniser_sha256=sha256)
        value = drift(self.reference, reading.embedding)
        return Drift(value, reading.face, self.recogniser, recogniser_sha256=sha256)


def _check_picture(pixels: np.ndarray, what: str) -> None:
    shape = getattr(pixels, "shape", None)
    if getattr(pixels, "dtype", None) != np.uint8 or shape is None or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise PhotoError(f"{what} is not a uint8 RGB array of shape (height, width, 3); convert it first.")
