"""Who is this? Reading photos, finding and aligning faces, embedding them, and measuring drift. NumPy in, NumPy out.

Importing this package imports NumPy and Pillow only; cv2, onnxruntime, insightface, dlib and rembg are imported by the
calls that need them. (`drift.drift` and `identity.load_identity` live in modules of the same name as this package's
parts, so the function `drift` is imported from `.drift`.)
"""

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
