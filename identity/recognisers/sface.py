"""SFace (Zhong et al., 2021), from OpenCV's model zoo: 128-D, Apache-2.0. The default where ArcFace is absent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import RecogniserError
from ...safety.offline import quiet_onnxruntime
from . import store
from .align import CHIP_SIZE, aligned_chip
from .base import check_pairs, default_threads, unit_rows

if TYPE_CHECKING:
    from ..faces import Face


class SFace:
    """SFace through onnxruntime. Raises RecogniserError where its file is missing, altered or cannot be loaded."""

    name = "sface"
    dimension = 128
    licence = store.SFACE.licence
    commercial_use = True
    same_person_bar = 0.363  # OpenCV's published cosine threshold for SFace (99.60 % on LFW)

    def __init__(
        self, models_dir: store.Folders = None, *, provider: str = "CPUExecutionProvider", threads: int | None = None
    ) -> None:
        located = store.require(store.SFACE, models_dir)
        self.path = located.path
        self.sha256 = located.sha256
        self._session = _session(located.path, provider, default_threads() if threads is None else threads)

    @property
    def provider(self) -> str:
        return str(self._session.get_providers()[0])

    def embed(self, pixels: np.ndarray, face: Face) -> np.ndarray:
        return self.embed_batch([pixels], [face])[0]

    def embed_batch(self, pixels: Sequence[np.ndarray], faces: Sequence[Face]) -> np.ndarray:
        check_pairs(pixels, faces)
        if not pixels:
            return np.zeros((0, self.dimension), dtype=np.float32)
        # The graph is fixed at one face a run.
        return unit_rows(
            np.stack([self._run(aligned_chip(p, face)) for p, face in zip(pixels, faces, strict=True)]), self.name
        )

    def _run(self, chip: np.ndarray) -> np.ndarray:
        planes = np.ascontiguousarray(chip.transpose(2, 0, 1)[None].astype(np.float32))  # RGB, 0 to 255
        return np.asarray(self._session.run(None, {"data": planes})[0]).reshape(-1)


def _session(path: Path, provider: str, threads: int) -> Any:
    """An onnxruntime session of SFace's graph with its picture as the only input.

    The published files list every weight as an input too; onnxruntime then refuses the int8 one, and OpenCV 5 stops
    on an assertion. Without those entries the output equals OpenCV 4's (cosine 1.0).
    """
    try:
        import onnx

        onnxruntime = quiet_onnxruntime()
    except ImportError as error:
        raise RecogniserError(
            f"The recogniser sface needs the Python package {error.name}: pip install {error.name}."
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        model = onnx.load(str(path))
        picture = [entry for entry in model.graph.input if entry.name == "data"]
        del model.graph.input[:]
        model.graph.input.extend(picture)
        wanted = [provider, "CPUExecutionProvider"]
        available = set(onnxruntime.get_available_providers())
        providers = [name for name in dict.fromkeys(wanted) if name in available]
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)
    except Exception as error:  # onnx and onnxruntime raise several unrelated families
        raise RecogniserError(
            f"{path} cannot be loaded as SFace ({error}); replace it with an unaltered copy."
        ) from error
    shape = list(session.get_inputs()[0].shape)
    if shape[1:] != [3, CHIP_SIZE, CHIP_SIZE]:
        raise RecogniserError(f"{path} takes input of shape {shape}, not SFace's; replace it with the published file.")
    return session
