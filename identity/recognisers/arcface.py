"""ArcFace (Deng et al., 2019) through the insightface library: 512-D, the paper's choice (section 3.2).

Only a local folder in InsightFace's own layout is used (ComfyUI: models/insightface/models/<pack>/*.onnx). insightface
downloads a pack that it cannot find, so the file is looked up here, and the library is handed its path. Only the
recognition file of a pack is needed: faces come from our own detector.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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

DIMENSION = 512
MAX_BYTES = 1 << 30  # the largest published pack has a quarter of it
_CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})
PREFERRED_PACKS = ("buffalo_l", "antelopev2", "auraface")
RECOGNITION_FILES = ("w600k_r50.onnx", "glintr100.onnx", "w600k_mbf.onnx")

_INSIGHTFACE_LICENCE = "InsightFace weights: non-commercial research only"
_KNOWN_LICENCES = {
    "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43": _INSIGHTFACE_LICENCE,  # buffalo_l, buffalo_m
    "4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf": _INSIGHTFACE_LICENCE,  # antelopev2
    "9cc6e4a75f0e2bf0b1aed94578f144d15175f357bdc05e815e5c4a02b319eb4f": _INSIGHTFACE_LICENCE,  # buffalo_s, buffalo_sc
}


@dataclass(frozen=True)
class Pack:
    """A recognition model file in an InsightFace-layout folder, and under which licence its weights come."""

    path: Path
    sha256: str
    licence: str
    commercial_use: bool


class ArcFace:
    """ArcFace weights run by insightface. Raises RecogniserError where library or weights are missing or unusable."""

    name = "arcface"
    dimension = DIMENSION
    # Genuine pairs of the 512-D ResNets mostly score above 0.4, strangers below 0.2; photos years apart lie between.
    same_person_bar = 0.28

    def __init__(
        self, models_dir: store.Folders = None, *, provider: str = "CPUExecutionProvider", threads: int | None = None
    ) -> None:
        pack = require_pack(models_dir)
        self.path = pack.path
        self.sha256 = pack.sha256
        self.licence = pack.licence
        self.commercial_use = pack.commercial_use
        self._model = _load(pack.path, provider, default_threads() if threads is None else threads)

    @property
    def provider(self) -> str:
        return str(self._model.session.get_providers()[0])

    def embed(self, pixels: np.ndarray, face: Face) -> np.ndarray:
        return self.embed_batch([pixels], [face])[0]

    def embed_batch(self, pixels: Sequence[np.ndarray], faces: Sequence[Face]) -> np.ndarray:
        check_pairs(pixels, faces)
        if not pixels:
            return np.zeros((0, self.dimension), dtype=np.float32)
        # one face a run: some published packs fix the batch axis at 1
        rows = [self._run(aligned_chip(p, face)) for p, face in zip(pixels, faces, strict=True)]
        return unit_rows(np.stack(rows), self.name)

    def _run(self, chip: np.ndarray) -> np.ndarray:
        bgr = np.ascontiguousarray(chip[:, :, ::-1])  # insightface takes BGR and swaps it itself
        return np.asarray(self._model.get_feat(bgr)).reshape(-1)


def find_pack(models_dir: store.Folders = None) -> Pack | None:
    """The recognition model to use: preferred packs first, then the others by name. Loads nothing."""
    for folder in _pack_folders(models_dir):
        path = _recognition_file(folder)
        if path is not None:
            return _described(path)
    return None


def require_pack(models_dir: store.Folders = None) -> Pack:
    """The recognition model to use. Raises RecogniserError naming the path it should have."""
    pack = find_pack(models_dir)
    if pack is None:
        raise RecogniserError(missing_sentence(models_dir))
    return pack


def missing_sentence(models_dir: store.Folders = None) -> str:
    """What is missing and where it should be; a pack unzipped one folder too deep is pointed out."""
    for folder in _pack_folders(models_dir):
        nested = folder / folder.name
        if _recognition_file(nested) is not None:
            return (
                f"The ArcFace weights of {folder.name} lie one folder too deep, in {nested}: "
                f"move the .onnx files up to {folder}."
            )
    expected = store.search_folders(models_dir)[0] / "insightface" / "models" / "buffalo_l" / RECOGNITION_FILES[0]
    return f"No ArcFace weights were found: put a pack in InsightFace's layout so that {expected} exists."


def library_present() -> bool:
    """Whether the insightface package is installed; it is not imported."""
    return importlib.util.find_spec("insightface") is not None


def _pack_folders(models_dir: store.Folders) -> Iterator[Path]:
    """Folders that may hold a pack, best first."""
    for root in store.search_folders(models_dir):
        yield root  # the caller may name the pack's folder itself
        for layout in ("insightface/models", "models", "insightface", ""):
            parent = root / layout
            if not parent.is_dir():
                continue
            names = sorted(child.name for child in parent.iterdir() if child.is_dir())
            preferred = [name for name in PREFERRED_PACKS if name in names]
            yield from (parent / name for name in preferred + [name for name in names if name not in preferred])


def _recognition_file(folder: Path) -> Path | None:
    for filename in RECOGNITION_FILES:
        if (folder / filename).is_file():
            return folder / filename
    return None


def _described(path: Path) -> Pack:
    digest = store.file_sha256(path)
    if digest in _KNOWN_LICENCES:
        return Pack(path, digest, _KNOWN_LICENCES[digest], False)
    if "auraface" in path.parent.name.lower():
        return Pack(path, digest, "AuraFace weights: Apache-2.0 (by the folder's name)", True)
    return Pack(path, digest, "weights not known to this pack: check their licence", False)


def _require_plain_network(path: Path) -> None:
    """These files are pinned by nobody, so only what such a network needs is run: all of its weights in the file that
    is hashed, no loop that could go on for ever, and a face of the known size. Raises ValueError."""
    import onnx

    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES >> 20} MiB")
    model = onnx.load(str(path), load_external_data=False)
    nodes = model.graph.node
    tensors = [*model.graph.initializer, *(held.t for node in nodes for held in node.attribute)]
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors):
        raise ValueError("it keeps weights in other files, which no hash covers")
    foreign = [node.op_type for node in nodes if node.op_type in _CONTROL_FLOW or node.domain not in ("", "ai.onnx")]
    if foreign or model.functions:
        raise ValueError(f"it holds {(foreign or ['functions'])[0]}, which no such network needs")
    shapes = [held.type.tensor_type.shape.dim for held in model.graph.input]
    sides = {dim.dim_value for shape in shapes[:1] for dim in shape[2:] if dim.HasField("dim_value")}
    if not sides <= {CHIP_SIZE}:
        raise ValueError(f"it takes faces of another size than {CHIP_SIZE} px")


def _load(path: Path, provider: str, threads: int) -> Any:
    if not path.is_file():  # insightface would go looking for it elsewhere
        raise RecogniserError(f"The ArcFace weights {path} are gone; put the file back.")
    try:
        onnxruntime = quiet_onnxruntime()  # before insightface imports it
        from insightface import model_zoo
    except ImportError as error:
        raise RecogniserError(
            f"The recogniser arcface needs the Python package insightface: pip install --no-deps insightface ({error})."
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    providers = [name for name in dict.fromkeys((provider, "CPUExecutionProvider"))]
    available = set(onnxruntime.get_available_providers())
    try:
        _require_plain_network(path)
        model = model_zoo.get_model(
            str(path), providers=[name for name in providers if name in available], sess_options=options, download=False
        )
        model.prepare(0)
        sample = np.asarray(model.get_feat(np.full((CHIP_SIZE, CHIP_SIZE, 3), 127, np.uint8)))
    except Exception as error:  # onnx, onnxruntime and insightface's own assertions
        raise RecogniserError(
            f"{path} cannot be loaded as ArcFace ({error}); replace it with an unaltered copy."
        ) from error
    if sample.size != DIMENSION:
        raise RecogniserError(f"{path} gives {sample.size} numbers for a face, not {DIMENSION}; use a full-size pack.")
    return model
