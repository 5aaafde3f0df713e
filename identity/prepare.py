"""Preparing photos for training (paper section 3.1): background, a square crop of the face, 768 px, augmentations.

Every result is resampled once, straight from the photo's own pixels: an augmentation of an already resized crop would
teach the LoRA its blur.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import PhotoError
from .background import NO_REMOVAL, remove_background
from .faces import Face, FaceDetector, NoFaceError, the_face
from .photo import Photo
from .recognisers.store import Folders

PLAIN = "crop"  # the transform of a photo's first result
_FACE_KEPT = 0.5  # a background model that leaves less of the face than this has taken the person for background


@dataclass(frozen=True)
class PrepSettings:
    """How photos are prepared; the defaults are the paper's.

    size: px of the square result. padding: margin on each side of the face box, as a fraction of its larger side.
    background_model: 'none' or a name from background.LOCAL_MODELS; background_fill: uint8 RGB put in its place.
    rotations: add a copy turned by +rotation_degrees and one by -rotation_degrees. center_crops: add a copy of the
    central part of the crop for each of crop_fractions, scaled to full size.
    """

    size: int = 768
    padding: float = 0.6
    background_model: str | None = NO_REMOVAL
    background_fill: tuple[int, int, int] = (127, 127, 127)
    rotations: bool = False
    center_crops: bool = False
    rotation_degrees: float = 10.0
    crop_fractions: tuple[float, ...] = (0.8, 0.6)

    def __post_init__(self) -> None:
        if not 64 <= self.size <= 4096:
            raise PhotoError(f"The prepared size is {self.size} px; choose one from 64 to 4096, such as 768.")
        if not 0.0 <= self.padding <= 5.0:
            raise PhotoError(f"The padding is {self.padding}; choose one from 0 to 5, such as 0.6.")
        if not all(0.1 <= fraction <= 1.0 for fraction in self.crop_fractions):
            raise PhotoError(f"The crop fractions are {self.crop_fractions}; each must lie between 0.1 and 1.")


@dataclass(frozen=True, eq=False)
class PreparedFace:
    """One prepared picture.

    pixels: uint8 RGB (size, size, 3). face_mask: float32 (size, size), soft, 1 on the face. valid_mask: float32
    (size, size), 0 where the photo had no pixels (rotation corners, beyond its edge). face: in this crop's pixels.
    source: the photo's name. transform: 'crop', 'rotate +10', 'center 80%', ...
    """

    pixels: np.ndarray
    face_mask: np.ndarray
    valid_mask: np.ndarray
    face: Face
    source: str
    transform: str


def prepare_photo(
    photo: Photo, detector: FaceDetector, settings: PrepSettings | None = None, *, models_dir: Folders = None
) -> list[PreparedFace]:
    """The square crop of the photo's one face, then its augmentations. Raises PhotoError, RecogniserError.

    Beyond the photo's edge the picture is mirrored, or filled with background_fill where the background is removed;
    valid_mask marks it either way.
    """
    settings = settings or PrepSettings()
    face = the_face(detector, photo)
    pixels, removed = _without_background(photo, face, settings, models_dir)
    return [
        _cut(photo, pixels, face, matrix, transform, settings, mirrored=not removed)
        for transform, matrix in _transforms(face, settings)
    ]


def prepare_all(
    photos: Sequence[Photo],
    detector: FaceDetector,
    settings: PrepSettings | None = None,
    *,
    models_dir: Folders = None,
) -> list[PreparedFace]:
    """All photos prepared, in the order given.

    A photo without a face is left out while others remain: the `source` of the results tells which were used. Raises
    PhotoError where none is left, or for a photo with another fault.
    """
    prepared: list[PreparedFace] = []
    faceless: list[NoFaceError] = []
    for photo in photos:
        try:
            prepared += prepare_photo(photo, detector, settings, models_dir=models_dir)
        except NoFaceError as error:
            faceless.append(error)
    if not prepared:
        raise faceless[0] if faceless else PhotoError("No photo was given; choose one to three photos of one person.")
    return prepared


@dataclass(frozen=True, eq=False)
class Preparation:
    """What a training and an identity are made from. references: one plain crop a photo, with its background.
    training: as the settings say, photo by photo. notes: sentences about photos left out, and the like."""

    references: tuple[PreparedFace, ...]
    training: tuple[PreparedFace, ...]
    notes: tuple[str, ...]

    def summary(self) -> str:
        """One line a photo, then what there is to know."""
        lines = []
        for face in self.references:
            made = [f.transform for f in self.training if f.source == face.source]
            inside = float(face.valid_mask.mean())
            beyond = "" if inside > 0.999 else f"; {1 - inside:.0%} of the crop lies beyond the photo's edge"
            lines.append(
                f"{face.source}: one face, {face.face.size:.0f} px across in its crop of {len(face.pixels)} px, "
                f"score {face.face.score:.2f}; for training: {', '.join(made)}{beyond}."
            )
        return "\n".join([*lines, *self.notes])


def prepare_both(
    photos: Sequence[Photo],
    detector: FaceDetector,
    settings: PrepSettings | None = None,
    *,
    models_dir: Folders = None,
) -> Preparation:
    """References and training pictures of all photos; a photo without a face is left out with a note, as in
    `prepare_all`. Raises PhotoError, RecogniserError."""
    settings = settings or PrepSettings()
    training = prepare_all(photos, detector, settings, models_dir=models_dir)
    if settings.background_model in (None, NO_REMOVAL):
        references = [face for face in training if face.transform == PLAIN]
    else:
        plain = replace(settings, background_model=NO_REMOVAL, rotations=False, center_crops=False)
        references = prepare_all(photos, detector, plain, models_dir=models_dir)
    used = {face.source for face in training}
    notes = [note for photo in photos for note in photo.warnings]
    notes += [f"{photo.name} was left out: no face was found in it." for photo in photos if photo.name not in used]
    return Preparation(tuple(references), tuple(training), tuple(notes))


def soft_face_mask(face: Face, shape: tuple[int, int], *, feather: float = 0.25) -> np.ndarray:
    """A smooth ellipse from forehead to chin: float32 (H, W), 1 inside, 0 outside, for loss weights and blending.

    It follows the head's roll, and reaches a little above the detector's box, which ends under the hairline. feather:
    width of the soft rim as a fraction of the ellipse's radius, beyond the ellipse.
    """
    height, width = shape[:2]
    roll = np.radians(face.roll)
    right, down = np.array([np.cos(roll), np.sin(roll)]), np.array([-np.sin(roll), np.cos(roll)])
    box_width, box_height = face.box[2:] - face.box[:2]
    radius_x, radius_y = 0.52 * box_width, 0.56 * box_height
    center = face.center - 0.05 * box_height * down
    x = np.arange(width, dtype=np.float32)[None, :] + 0.5 - np.float32(center[0])
    y = np.arange(height, dtype=np.float32)[:, None] + 0.5 - np.float32(center[1])
    across = (x * right[0] + y * right[1]) / radius_x
    along = (x * down[0] + y * down[1]) / radius_y
    distance = np.sqrt(across**2 + along**2)
    t = np.clip((1.0 + feather - distance) / max(feather, 1e-6), 0.0, 1.0)
    return (t * t * (3.0 - 2.0 * t)).astype(np.float32)


def _without_background(
    photo: Photo, face: Face, settings: PrepSettings, models_dir: Folders
) -> tuple[np.ndarray, bool]:
    if settings.background_model in (None, NO_REMOVAL):
        return photo.pixels, False
    alpha = remove_background(photo.pixels, settings.background_model, models_dir)
    on_face = soft_face_mask(face, photo.pixels.shape[:2])
    if float((alpha * on_face).sum()) < _FACE_KEPT * float(on_face.sum()):
        raise PhotoError(
            f"{photo.name}: the background model {settings.background_model} took the face for background; "
            "choose another model, or 'none'."
        )
    fill = np.array(settings.background_fill, dtype=np.float32)
    mixed = photo.pixels * alpha[:, :, None] + fill * (1.0 - alpha[:, :, None])
    return np.rint(mixed).astype(np.uint8), True


def _transforms(face: Face, settings: PrepSettings) -> list[tuple[str, np.ndarray]]:
    """Names and matrices (2, 3), photo pixels to result pixels; the plain crop first."""
    side = float(max(face.box[2:] - face.box[:2])) * (1.0 + 2.0 * settings.padding)
    transforms = [(PLAIN, _crop_matrix(face.center, side, 0.0, settings.size))]
    if settings.rotations:
        for degrees in (settings.rotation_degrees, -settings.rotation_degrees):
            transforms.append((f"rotate {degrees:+g}", _crop_matrix(face.center, side, degrees, settings.size)))
    if settings.center_crops:
        for fraction in settings.crop_fractions:
            matrix = _crop_matrix(face.center, side * fraction, 0.0, settings.size)
            transforms.append((f"center {fraction:.0%}", matrix))
    return transforms


def _crop_matrix(center: np.ndarray, side: float, degrees: float, size: int) -> np.ndarray:
    """Maps a square of `side` px around `center` onto size x size, its content turned counter-clockwise by `degrees`.

    Coordinates are of pixel corners: the square's edges fall on the result's edges.
    """
    scale, angle = size / side, np.radians(degrees)
    turned = scale * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return np.column_stack([turned, size / 2 - turned @ center])


def _cut(
    photo: Photo,
    pixels: np.ndarray,
    face: Face,
    matrix: np.ndarray,
    transform: str,
    settings: PrepSettings,
    *,
    mirrored: bool,
) -> PreparedFace:
    moved = face.transformed(matrix)
    shape = (settings.size, settings.size)
    cut, valid = _resample(pixels, matrix, settings.size, settings.background_fill, mirrored=mirrored)
    return PreparedFace(cut, soft_face_mask(moved, shape), valid, moved, photo.name, transform)


def _resample(
    pixels: np.ndarray, matrix: np.ndarray, size: int, fill: tuple[int, int, int], *, mirrored: bool
) -> tuple[np.ndarray, np.ndarray]:
    """One resampling of a uint8 picture through `matrix`, and where it had pixels: (size, size, 3) and (size, size).

    Where the result is smaller, a Gaussian takes out beforehand what it cannot show; where larger, Lanczos.
    """
    import cv2

    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    region, corner = _source_region(pixels, matrix, size)
    # cv2 samples at pixel centres, half a pixel from the corners that the matrix counts from
    centred = matrix[:, 2] + matrix[:, :2] @ (corner + 0.5) - 0.5
    to_result = np.column_stack([matrix[:, :2], centred])
    if scale < 1.0:
        sigma = 0.5 * float(np.sqrt(1.0 / scale**2 - 1.0))
        region = cv2.GaussianBlur(region, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101) if sigma > 0.2 else region
        interpolation = cv2.INTER_CUBIC
    else:
        interpolation = cv2.INTER_LANCZOS4
    border = cv2.BORDER_REFLECT_101 if mirrored else cv2.BORDER_CONSTANT
    result = cv2.warpAffine(region, to_result, (size, size), flags=interpolation, borderMode=border, borderValue=fill)
    coverage = np.ones(region.shape[:2], dtype=np.float32)
    valid = cv2.warpAffine(coverage, to_result, (size, size), flags=cv2.INTER_LINEAR)
    return np.ascontiguousarray(result), (valid > 0.999).astype(np.float32)


def _source_region(pixels: np.ndarray, matrix: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The part of the photo that the result shows, with a margin for the filters, and its corner (x, y)."""
    corners = np.array([[0, 0], [size, 0], [0, size], [size, size]], dtype=np.float64)
    seen = (corners - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    margin = 16 + 0.05 * float(np.ptp(seen[:, 0]))
    height, width = pixels.shape[:2]
    left, top = np.clip(np.floor(seen.min(0) - margin), 0, [width - 1, height - 1]).astype(int)
    right, bottom = np.clip(np.ceil(seen.max(0) + margin), [left + 1, top + 1], [width, height]).astype(int)
    return np.ascontiguousarray(pixels[top:bottom, left:right]), np.array([left, top], dtype=np.float64)
