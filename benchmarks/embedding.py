"""Embedding throughput over the raw ONNX model: how much alignment and bookkeeping add."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from identity_lock.demo.subjects import others
from identity_lock.identity.faces import default_detector, find_faces
from identity_lock.identity.recognisers import get_recogniser
from identity_lock.identity.recognisers.align import aligned_chip

from .common import Bench, Row, ratio_of_medians

ROUNDS = 15


def measure(bench: Bench) -> list[Row]:
    recogniser = cast(Any, get_recogniser("sface"))
    pictures = [photo.pixels for photo in others()]
    found = [(pixels, faces[0]) for pixels in pictures if (faces := find_faces(default_detector(), pixels))]
    images, faces = [p for p, _ in found], [f for _, f in found]
    chips = [aligned_chip(pixels, face) for pixels, face in found]
    tensors = [np.ascontiguousarray(chip.transpose(2, 0, 1)[None].astype(np.float32)) for chip in chips]
    session = recogniser._session

    def raw() -> None:
        for tensor in tensors:
            session.run(None, {"data": tensor})

    ratio, ours, bare = ratio_of_medians(lambda: recogniser.embed_batch(images, faces), raw, ROUNDS)
    return [
        Row(
            "embedding / raw ONNX model",
            f"{ratio:.3f}",
            "<= 1.10",
            ratio <= 1.10,
            f"{ours / len(found) * 1e3:.1f} ms over {bare / len(found) * 1e3:.1f} ms a face, {ROUNDS} rounds in turn",
        )
    ]
