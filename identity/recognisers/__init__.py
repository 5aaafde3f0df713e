"""The registry of face recognisers: `arcface`, `sface`, `dlib`, by name, from local files only."""

from __future__ import annotations

import importlib.util
from functools import lru_cache

from ...errors import RecogniserError
from . import arcface, store
from .base import Recogniser, RecogniserInfo
from .store import Folders, register_folder

NAMES = ("arcface", "sface", "dlib")

__all__ = [
    "NAMES",
    "Folders",
    "Recogniser",
    "RecogniserInfo",
    "available",
    "default_pair",
    "get_recogniser",
    "register_folder",
]


def get_recogniser(name: str, *, models_dir: Folders = None) -> Recogniser:
    """The recogniser of this name, loaded once per weights file.

    Raises RecogniserError for a name that is not registered, and where its files are missing or altered.
    """
    if name == "arcface":
        pack = arcface.require_pack(models_dir)
        return _loaded(name, store.folder_key(models_dir), str(pack.path), pack.sha256)
    if name in ("sface", "dlib"):
        located = store.require(store.SFACE if name == "sface" else store.DLIB_RESNET, models_dir)
        return _loaded(name, store.folder_key(models_dir), str(located.path), located.sha256)
    raise RecogniserError(f"There is no recogniser called {name!r}; choose one of {', '.join(NAMES)}.")


def available(models_dir: Folders = None) -> list[RecogniserInfo]:
    """What the registry holds, whether each can be used here, its licence, and what to do where it cannot."""
    return [
        _arcface_info(models_dir),
        _file_info("sface", store.SFACE, 128, ("onnx", "onnxruntime", "cv2"), models_dir),
        _file_info("dlib", store.DLIB_RESNET, 128, ("dlib", "cv2"), models_dir),
    ]


def default_pair(models_dir: Folders = None) -> tuple[str, str | None]:
    """Names of the recogniser that selects and of the one that only reports.

    arcface selects where its weights and library are present, else sface; another one that is present reports, dlib
    before the rest, or none. They are never the same: a score that was optimised cannot also be the witness.
    """
    present = [info.name for info in available(models_dir) if info.found]
    selection = "arcface" if "arcface" in present else "sface"
    witnesses = [name for name in ("dlib", "sface", "arcface") if name in present and name != selection]
    return selection, witnesses[0] if witnesses else None


@lru_cache(maxsize=8)
def _loaded(name: str, folders: tuple[str, ...], path: str, sha256: str) -> Recogniser:
    # path and sha256 are part of the key: a file that was replaced is loaded anew
    if name == "arcface":
        return arcface.ArcFace(folders or None)
    if name == "sface":
        from .sface import SFace

        return SFace(folders or None)
    from .dlib_resnet import DlibResNet

    return DlibResNet(folders or None)


def _arcface_info(models_dir: Folders) -> RecogniserInfo:
    pack = arcface.find_pack(models_dir)
    if pack is None:
        licence = "depends on the pack: InsightFace's are non-commercial, AuraFace is Apache-2.0"
        remedy = arcface.missing_sentence(models_dir)
        return RecogniserInfo("arcface", False, None, licence, False, arcface.DIMENSION, remedy)
    found = arcface.library_present()
    remedy = "" if found else "Install the library: pip install --no-deps insightface."
    return RecogniserInfo("arcface", found, pack.path, pack.licence, pack.commercial_use, arcface.DIMENSION, remedy)


def _file_info(
    name: str, model: store.Model, dimension: int, packages: tuple[str, ...], models_dir: Folders
) -> RecogniserInfo:
    found = store.find(model, models_dir)
    path = found[0] if found else None
    remedy = ""
    try:
        store.require(model, models_dir)
    except RecogniserError as error:
        remedy = str(error)
    pip_names = {"dlib": "dlib-bin", "cv2": "opencv-python-headless"}
    missing = [pip_names.get(package, package) for package in packages if importlib.util.find_spec(package) is None]
    if not remedy and missing:
        remedy = f"Install what it runs on: pip install {' '.join(missing)}."
    return RecogniserInfo(name, not remedy, path, model.licence, True, dimension, remedy)
