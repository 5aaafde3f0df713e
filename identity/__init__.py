"""Who is this? Reading photos, finding and aligning faces, embedding them, and measuring drift. NumPy in, NumPy out.

Importing this package imports nothing: its parts come when they are asked for, and cv2, onnxruntime, insightface, dlib
and rembg with the calls that need them. (`drift.drift` and `identity.load_identity` live in modules of the same name as
this package's parts, so the function `drift` is imported from `.drift`.)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .background import remove_background
    from .drift import LOCK_THRESHOLD, Drift, DriftMeter, FaceReader, Reading, cosine
    from .faces import (
        Face,
        FaceDetector,
        NoFaceError,
        YuNet,
        default_detector,
        find_faces,
        largest_face,
        order_faces,
        refine_face,
        the_face,
    )
    from .identity import (
        Embedding,
        Identity,
        IdentityFileError,
        PhotoRecord,
        build_identity,
        load_identity,
        save_identity,
    )
    from .photo import Photo, photo_from_array, read_photo
    from .prepare import PreparedFace, PrepSettings, prepare_all, prepare_photo, soft_face_mask
    from .quality import FaceQuality, face_quality
    from .recognisers import Recogniser, RecogniserInfo, available, default_pair, get_recogniser, register_folder

__all__ = [
    "LOCK_THRESHOLD",
    "Drift",
    "DriftMeter",
    "Embedding",
    "Face",
    "FaceDetector",
    "FaceQuality",
    "FaceReader",
    "Identity",
    "IdentityFileError",
    "NoFaceError",
    "Photo",
    "PhotoRecord",
    "PrepSettings",
    "PreparedFace",
    "Reading",
    "Recogniser",
    "RecogniserInfo",
    "YuNet",
    "available",
    "build_identity",
    "cosine",
    "default_detector",
    "default_pair",
    "face_quality",
    "find_faces",
    "get_recogniser",
    "largest_face",
    "load_identity",
    "order_faces",
    "photo_from_array",
    "prepare_all",
    "prepare_photo",
    "read_photo",
    "refine_face",
    "register_folder",
    "remove_background",
    "save_identity",
    "soft_face_mask",
    "the_face",
]

_HOMES = {
    "background": "remove_background",
    "drift": "LOCK_THRESHOLD Drift DriftMeter FaceReader Reading cosine",
    "faces": "Face FaceDetector NoFaceError YuNet default_detector "
    "find_faces largest_face order_faces refine_face the_face",
    "identity": "Embedding Identity IdentityFileError PhotoRecord build_identity load_identity save_identity",
    "photo": "Photo photo_from_array read_photo",
    "prepare": "PreparedFace PrepSettings prepare_all prepare_photo soft_face_mask",
    "quality": "FaceQuality face_quality",
    "recognisers": "Recogniser RecogniserInfo available default_pair get_recogniser register_folder",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
