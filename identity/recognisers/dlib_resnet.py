"""dlib's face recognition ResNet (King, 2017): 128-D, CC0. The default second recogniser, which reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import RecogniserError
from . import store
from .align import aligned_chip
from .base import check_pairs, unit_rows

if TYPE_CHECKING:
    from ..faces import Face

CHIP_SIZE = 150

# The network was trained on chips that set dlib's mean face into the middle two thirds (padding 0.25 a side). These
# are that mean face's eye centres, nose tip and mouth corners, so that any detector with five landmarks can feed it.
MEAN_FACE = np.array([[0.2255, 0.2160], [0.7548, 0.2160], [0.4901, 0.5156], [0.2541, 0.7802], [0.7261, 0.7802]])
TEMPLATE = (0.25 + MEAN_FACE) / 1.5 * CHIP_SIZE


class DlibResNet:
    """dlib's ResNet through the dlib-bin package. Raises RecogniserError where package or file is missing or altered.

    dlib compares faces by Euclidean distance. In raw cosine its embeddings of different people are close to each other,
    so read its drift beside the photos' own (`Identity.yardstick`), not against another recogniser's threshold.
    """

    name = "dlib"
    dimension = 128
    licence = store.DLIB_RESNET.licence
    commercial_use = True
    # dlib's published bar is a Euclidean distance of 0.6 (99.38 % on LFW); at the usual norm of 1.43 it is this cosine
    same_person_bar = 0.912
    provider = "dlib"

    def __init__(self, models_dir: store.Folders = None) -> None:
        located = store.require(store.DLIB_RESNET, models_dir)
        self.path = located.path
        self.sha256 = located.sha256
        self._net = _network(str(located.path))

    def embed(self, pixels: np.ndarray, face: Face) -> np.ndarray:
        return self.embed_batch([pixels], [face])[0]

    def embed_batch(self, pixels: Sequence[np.ndarray], faces: Sequence[Face]) -> np.ndarray:
        check_pairs(pixels, faces)
        if not pixels:
            return np.zeros((0, self.dimension), dtype=np.float32)
        chips = [
            aligned_chip(p, face, template=TEMPLATE, size=CHIP_SIZE) for p, face in zip(pixels, faces, strict=True)
        ]
        return unit_rows(np.stack([np.asarray(self._net.compute_face_descriptor(chip)) for chip in chips]), self.name)


def _network(path: str) -> Any:
    try:
        import dlib
    except ImportError as error:
        raise RecogniserError("The recogniser dlib needs the Python package dlib: pip install dlib-bin.") from error
    try:
        return dlib.face_recognition_model_v1(path)
    except RuntimeError as error:
        raise RecogniserError(
            f"{path} cannot be loaded by dlib ({error}); replace it with an unaltered copy."
        ) from error
