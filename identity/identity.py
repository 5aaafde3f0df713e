"""An identity: what one to three consenting photos say about one face, per recogniser, and how it is kept.

Embeddings are biometric data. They stay in memory or in a local file that only its owner may read; the photos
themselves are never stored, and nothing here is logged.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import numpy as np

from ..errors import IdentityLockError, PhotoError, RecogniserError
from ..safety import index
from ..safety.atomic import replacing
from ..safety.consent import require_consent
from ..safety.tensors import TensorHeader, read_header, read_tensors
from ..safety.untrusted import FileRefused, from_json, parse_json
from .drift import DriftMeter, FaceReader, cosine, drift
from .faces import Face, FaceDetector, NoFaceError, default_detector, the_face
from .photo import Photo
from .quality import face_quality
from .recognisers import Recogniser, default_pair, get_recogniser
from .recognisers.store import Folders

MAX_PHOTOS = 3  # paper section 3.1: a single photo, or up to three
FORMAT = "identity-lock-identity"
FORMAT_VERSION = 1
_TENSOR_PREFIX = "embedding."
_MAX_DIMENSION = 4096  # the recognisers' are 128 and 512


class IdentityFileError(IdentityLockError):
    """A file that holds no identity, or not all of it."""


@dataclass(frozen=True, eq=False)
class Embedding:
    """A fused face embedding, float32 (dimension,) of unit norm, and the exact recogniser that made it."""

    vector: np.ndarray
    recogniser: str
    recogniser_sha256: str
    dimension: int

    def drift_to(self, other: Embedding) -> float:
        """1 - cosine. Raises RecogniserError unless both were made by the same weights of the same recogniser."""
        if self.recogniser != other.recogniser:
            raise RecogniserError(
                f"Embeddings by {self.recogniser} and by {other.recogniser} do not compare; "
                "build both identities with the same recogniser."
            )
        if self.recogniser_sha256 != other.recogniser_sha256:
            raise RecogniserError(
                f"Both embeddings are by {self.recogniser}, but from different model files "
                f"({self.recogniser_sha256[:12]}... and {other.recogniser_sha256[:12]}...); "
                "build both identities with the same file."
            )
        return drift(self.vector, other.vector)


@dataclass(frozen=True)
class PhotoRecord:
    """What is kept of a photo: no pixels.

    fingerprint: first 16 hex digits of the SHA-256 of its pixels. quality in [0, 1]. weight: its share in the fused
    embedding; the weights of an identity sum to 1. similarity_to_mean: cosine to the fused embedding, by the selection
    recogniser.
    """

    name: str
    fingerprint: str
    quality: float
    weight: float
    similarity_to_mean: float


@dataclass(frozen=True, eq=False)
class Identity:
    """One person, as one to three photos show them.

    embeddings: by recogniser name. selection: the recogniser that chooses seeds, blends and stopping points.
    reporting: another one that is never consulted in choosing, or None. yardstick: drifts between the photos
    themselves, per recogniser, one per pair (none for a single photo): a render's drift is read against these.
    consent: the statement given. created: ISO 8601, UTC. warnings: sentences about photos left out and the like.
    """

    name: str
    embeddings: Mapping[str, Embedding]
    selection: str
    reporting: str | None
    photos: tuple[PhotoRecord, ...]
    yardstick: Mapping[str, tuple[float, ...]]
    consent: str
    created: str
    warnings: tuple[str, ...] = field(default=())

    @property
    def id(self) -> str:
        """16 hex digits, of the photos alone: the same by whichever recognisers."""
        return index.person_id([photo.fingerprint for photo in self.photos])

    @property
    def person(self) -> index.Person:
        """Who this is, for the files that are made from it and for the index of them."""
        return index.Person(self.id, self.name, self.consent, tuple(photo.fingerprint for photo in self.photos))

    def embedding(self, recogniser: str) -> Embedding:
        """The embedding by this recogniser. Raises RecogniserError where the identity has none."""
        if recogniser not in self.embeddings:
            raise RecogniserError(
                f"The identity {self.name} was made with {', '.join(self.embeddings)}, not with {recogniser}; "
                f"build it again with {recogniser}."
            )
        return self.embeddings[recogniser]

    def meters(self, models_dir: Folders = None) -> tuple[DriftMeter, DriftMeter | None]:
        """The selection meter and the reporting one.

        Raises RecogniserError where a recogniser is missing, or its weights are not those that made the identity.
        """
        detector = default_detector(models_dir)
        selection = self._meter(self.selection, detector, models_dir)
        reporting = None if self.reporting is None else self._meter(self.reporting, detector, models_dir)
        return selection, reporting

    def drift_to(self, other: Identity) -> dict[str, float]:
        """Drift between two identities, by each recogniser that made both. Raises RecogniserError for none."""
        shared = [name for name in self.embeddings if name in other.embeddings]
        if not shared:
            raise RecogniserError(
                f"The identities {self.name} ({', '.join(self.embeddings)}) and {other.name} "
                f"({', '.join(other.embeddings)}) share no recogniser; build both with the same one."
            )
        return {name: self.embeddings[name].drift_to(other.embeddings[name]) for name in shared}

    def summary(self) -> str:
        """What it was made of, by which recognisers, and how far its photos are from each other."""
        lines = [
            f"{photo.name}: quality {photo.quality:.2f}, weight {photo.weight:.2f}, similarity to the identity "
            f"{photo.similarity_to_mean:.3f}."
            for photo in self.photos
        ]
        by = f"{self.reporting} only reports" if self.reporting else "no second one is here to report"
        lines.append(f"{self.selection} chooses seeds and blends; {by}.")
        for name, drifts in self.yardstick.items():
            if drifts:
                lines.append(f"Drift between the photos by {name}: {', '.join(f'{value:.3f}' for value in drifts)}.")
        if len(self.photos) == 1:
            lines.append("Made from one photo; a second one would show how far photos of this person differ anyway.")
        return "\n".join([*lines, *self.warnings, f"Consent: {self.consent}"])

    def _meter(self, name: str, detector: FaceDetector, models_dir: Folders) -> DriftMeter:
        embedding = self.embedding(name)
        recogniser = get_recogniser(name, models_dir=models_dir)
        if recogniser.sha256 != embedding.recogniser_sha256:
            raise RecogniserError(
                f"The identity {self.name} was made with another file of {name} "
                f"({embedding.recogniser_sha256[:12]}...) than the one found here ({recogniser.sha256[:12]}...); "
                "restore that file or build the identity again."
            )
        return DriftMeter(embedding.vector, FaceReader(detector, recogniser))


def build_identity(
    photos: Sequence[Photo],
    *,
    name: str,
    consent: str,
    selection: str | None = None,
    reporting: str | None = None,
    models_dir: Folders = None,
) -> Identity:
    """An identity from one to three photos of one person (paper section 3.2), fused by quality-weighted mean.

    consent: the statement of the person shown, or of who may speak for them; see safety/consent.py. selection and
    reporting: recogniser names; by default `default_pair`. A photo without a face is left out with a warning while
    others remain. A photo of somebody else, by either recogniser's same_person_bar, is never averaged in: PhotoError
    names it.
    Raises ConsentError, PhotoError, RecogniserError.
    """
    statement = require_consent(consent).statement
    if not 1 <= len(photos) <= MAX_PHOTOS:
        raise PhotoError(f"An identity is made from one to three photos, but {len(photos)} were given for {name}.")
    selection, reporting = _choose_pair(selection, reporting, models_dir)
    recognisers = [get_recogniser(chosen, models_dir=models_dir) for chosen in (selection, reporting) if chosen]
    used, faces, warnings = _photos_with_faces(photos, default_detector(models_dir))
    vectors = {
        recogniser.name: recogniser.embed_batch([photo.pixels for photo in used], faces) for recogniser in recognisers
    }
    warnings += _refuse_strangers(used, vectors, recognisers)
    qualities = [face_quality(photo.pixels, face).value for photo, face in zip(used, faces, strict=True)]
    weights = np.array(qualities) / sum(qualities)
    embeddings = {
        recogniser.name: Embedding(
            fuse(vectors[recogniser.name], weights), recogniser.name, recogniser.sha256, recogniser.dimension
        )
        for recogniser in recognisers
    }
    mean = embeddings[selection].vector
    records = tuple(
        PhotoRecord(photo.name, fingerprint(photo.pixels), quality, float(weight), cosine(vector, mean))
        for photo, quality, weight, vector in zip(used, qualities, weights, vectors[selection], strict=True)
    )
    return Identity(
        name=name,
        embeddings=MappingProxyType(embeddings),
        selection=selection,
        reporting=reporting,
        photos=records,
        yardstick=MappingProxyType({key: _pair_drifts(rows) for key, rows in vectors.items()}),
        consent=statement,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        warnings=tuple(warnings),
    )


def fuse(vectors: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean of unit embeddings (N, D), scaled back to unit norm: float32 (D,)."""
    mean = np.asarray(weights, dtype=np.float64) @ np.asarray(vectors, dtype=np.float64)
    norm = float(np.linalg.norm(mean))
    if norm < 1e-6:
        raise PhotoError("The photos cancel each other out; use photos of one person.")
    return (mean / norm).astype(np.float32)


def fingerprint(pixels: np.ndarray) -> str:
    """16 hex digits that tell photos (uint8 RGB) apart and from which no pixel can be had back."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(pixels.tobytes())
    return digest.hexdigest()[:16]


def save_identity(identity: Identity, path: str | os.PathLike[str], *, keep: bool = False) -> Path:
    """Write an identity as safetensors, with everything but the vectors as JSON metadata.

    Written to a temporary name and renamed, so a crash leaves the old file or the new one; readable by its owner only.
    keep: raise NameTaken rather than write over a file. Raises OutputError where the folder cannot be written or the
    disk is full.
    """
    from safetensors.numpy import save

    path = Path(path)
    index.introduce(identity.person)
    index.made(identity.id, "identity", path)
    tensors = {
        _TENSOR_PREFIX + name: np.ascontiguousarray(embedding.vector) for name, embedding in identity.embeddings.items()
    }
    described = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "name": identity.name,
        "selection": identity.selection,
        "reporting": identity.reporting,
        "recognisers": {name: embedding.recogniser_sha256 for name, embedding in identity.embeddings.items()},
        "photos": [asdict(record) for record in identity.photos],
        "yardstick": {name: list(drifts) for name, drifts in identity.yardstick.items()},
        "consent": identity.consent,
        "created": identity.created,
        "warnings": list(identity.warnings),
    }
    content = save(tensors, metadata={"identity": json.dumps(described)})
    with replacing(path, keep=keep, private=True) as temporary:
        temporary.write_bytes(content)
    return path


def load_identity(path: str | os.PathLike[str]) -> Identity:
    """Read an identity written by `save_identity`. Raises IdentityFileError for any other file."""
    path = Path(path)
    if not os.path.isfile(path):
        raise IdentityFileError(f"There is no identity file at {path}; check the path, or save the identity first.")
    try:
        header = read_header(path)
        if not _is_small(header):
            raise FileRefused("it holds other tensors than embeddings")
        tensors, _ = read_tensors(path, "numpy")
    except FileRefused as error:
        raise IdentityFileError(
            f"{path.name} is not an identity file, or was cut short ({error}); only safetensors files written by "
            "this pack are read, never pickles."
        ) from error
    try:
        told = parse_json(header.metadata["identity"])
        if told["format"] != FORMAT:
            raise KeyError("format")
        if from_json(int, told["version"]) > FORMAT_VERSION:
            raise IdentityFileError(f"{path.name} was written by a newer version of this pack; update the pack.")
        return _from_description(from_json(_Description, told), tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise IdentityFileError(
            f"{path.name} is a safetensors file but holds no complete identity; choose a file that Save Identity wrote."
        ) from error


def _choose_pair(selection: str | None, reporting: str | None, models_dir: Folders) -> tuple[str, str | None]:
    default_selection, default_reporting = default_pair(models_dir)
    if selection is None:
        selection = default_selection if reporting != default_selection else default_reporting or default_selection
    if reporting is None:
        candidates = (default_reporting, default_selection)
        reporting = next((name for name in candidates if name and name != selection), None)
    if reporting == selection:
        raise RecogniserError(
            f"Selection and reporting are both {selection}: a score that is optimised cannot also be the witness; "
            "choose another recogniser for one of them."
        )
    return selection, reporting


def _photos_with_faces(photos: Sequence[Photo], detector: FaceDetector) -> tuple[list[Photo], list[Face], list[str]]:
    used: list[Photo] = []
    faces: list[Face] = []
    warnings = [note for photo in photos for note in photo.warnings]
    refused: list[NoFaceError] = []
    for photo in photos:
        try:
            face = the_face(detector, photo)
        except NoFaceError as error:
            refused.append(error)
            warnings.append(f"{photo.name} was left out: no face was found in it.")
            continue
        used.append(photo)
        faces.append(face)
    if not used:
        if len(refused) == 1:
            raise refused[0]
        names = ", ".join(photo.name for photo in photos)
        raise NoFaceError(f"No face was found in any of {names}; use photos in which the face is clearly visible.")
    return used, faces, warnings


def _refuse_strangers(
    photos: Sequence[Photo], vectors: Mapping[str, np.ndarray], recognisers: Sequence[Recogniser]
) -> list[str]:
    """Raise PhotoError for a photo of somebody else; return warnings about pairs that only a third photo links.

    Two photos are apart where any recogniser puts them under its bar: the reporting one may object here too, for
    letting a photo in is no score that anything is optimised for.
    """
    count = len(photos)
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    objections = {pair: _objection(pair, vectors, recognisers) for pair in pairs}
    apart = [pair for pair in pairs if objections[pair]]
    if not apart:
        return []
    linked = [pair for pair in pairs if not objections[pair]]
    names = [photo.name for photo in photos]
    measure = objections[apart[0]]
    if len(linked) == 2:  # each looks like the third: one person in two very different photos
        first, second = apart[0]
        return [f"{names[first]} and {names[second]} look unlike each other ({measure}); a third photo links them."]
    if len(linked) == 1:
        (odd,) = set(range(count)) - set(linked[0])
        raise PhotoError(
            f"{names[odd]} seems to show somebody else than the other two photos ({measure}); leave it out."
        )
    raise PhotoError(
        f"{' and '.join(names) if count == 2 else ', '.join(names)} seem to show different people ({measure}); "
        "use photos of one person."
    )


def _objection(
    pair: tuple[int, int], vectors: Mapping[str, np.ndarray], recognisers: Sequence[Recogniser]
) -> str | None:
    """Which recogniser takes two photos for different people, and by how much; None where all agree on one."""
    for recogniser in recognisers:
        similarity = cosine(*vectors[recogniser.name][list(pair)])
        if similarity < recogniser.same_person_bar:
            return f"{recogniser.name} similarity {similarity:.2f}, same-person bar {recogniser.same_person_bar:.3g}"
    return None


def _pair_drifts(vectors: np.ndarray) -> tuple[float, ...]:
    count = len(vectors)
    return tuple(drift(vectors[i], vectors[j]) for i in range(count) for j in range(i + 1, count))


@dataclass(frozen=True)
class _Description:
    """What an identity file says as JSON: everything but the vectors. recognisers: name -> SHA-256 of its file."""

    format: str
    version: int
    name: str
    selection: str
    reporting: str | None
    recognisers: dict[str, str]
    photos: tuple[PhotoRecord, ...]
    yardstick: dict[str, tuple[float, ...]]
    consent: str
    created: str
    warnings: tuple[str, ...]


def _is_small(header: TensorHeader) -> bool:
    """Whether its tensors can be embeddings: seen before one of them is read."""
    return all(len(shape) == 1 and shape[0] <= _MAX_DIMENSION for shape in header.shapes.values())


def _from_description(told: _Description, tensors: Mapping[str, np.ndarray]) -> Identity:
    embeddings = {}
    for name, sha256 in told.recognisers.items():
        vector = tensors[_TENSOR_PREFIX + name]
        if vector.dtype != np.float32 or not abs(float(np.linalg.norm(vector)) - 1.0) < 1e-3:
            raise ValueError(f"embedding of {name}")
        embeddings[name] = Embedding(vector, name, sha256, int(vector.size))
    if told.selection not in embeddings or (told.reporting or told.selection) not in embeddings:
        raise ValueError("recogniser without an embedding")
    return Identity(
        name=told.name,
        embeddings=MappingProxyType(embeddings),
        selection=told.selection,
        reporting=told.reporting,
        photos=told.photos,
        yardstick=MappingProxyType(told.yardstick),
        consent=told.consent,
        created=told.created,
        warnings=told.warnings,
    )
