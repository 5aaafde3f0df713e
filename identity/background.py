"""Background removal through rembg, from local model files only (paper section 3.1).

rembg downloads a model that it cannot find, and some of its sessions send the picture to a service. So only sessions
on the list below are used, the file is looked up here first, and rembg's own download step is replaced by that path.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PhotoError, RecogniserError
from ..safety.offline import quiet_onnxruntime
from .recognisers.store import Folders, search_folders

NO_REMOVAL = "none"
# Sessions that run on this machine, and the licence of their weights as their publishers state it.
LOCAL_MODELS = {
    "u2net": "Apache-2.0",
    "u2netp": "Apache-2.0",
    "u2net_human_seg": "Apache-2.0",
    "silueta": "Apache-2.0",
    "isnet-general-use": "Apache-2.0",
    "birefnet-general": "MIT",
    "birefnet-general-lite": "MIT",
    "birefnet-portrait": "MIT",
}


@dataclass(frozen=True)
class BackgroundInfo:
    """One background model: whether its file was found, where, its licence, and where it should be."""

    name: str
    found: bool
    path: Path | None
    licence: str
    remedy: str


def remove_background(pixels: np.ndarray, model: str | None = NO_REMOVAL, models_dir: Folders = None) -> np.ndarray:
    """How much each pixel belongs to the person: float32 (H, W) in [0, 1]; all ones for no model or 'none'.

    pixels: uint8 RGB (H, W, 3). model: a name from LOCAL_MODELS. Raises RecogniserError where the model is not on that
    list, its file is missing (naming the path it should have), or rembg is not installed. The first call on a machine
    takes a minute or two: importing rembg compiles pymatting once.
    """
    if model is None or model == NO_REMOVAL:
        return np.ones(pixels.shape[:2], dtype=np.float32)
    session = _session(model, str(_require_file(model, models_dir)))
    from PIL import Image

    try:
        mask = session.predict(Image.fromarray(np.ascontiguousarray(pixels)))[0]
    except Exception as error:  # onnxruntime's own error families
        raise PhotoError(
            f"The background model {model} failed on a picture ({error}); choose another model, or 'none'."
        ) from error
    return np.asarray(mask.convert("L"), dtype=np.float32) / 255.0


def available_models(models_dir: Folders = None) -> list[BackgroundInfo]:
    """Every background model that may be used, and whether its file is here."""
    infos = []
    for name, licence in LOCAL_MODELS.items():
        path = _find_file(name, models_dir)
        remedy = "" if path else f"Put {name}.onnx at {_expected_path(name, models_dir)}."
        infos.append(BackgroundInfo(name, path is not None, path, licence, remedy))
    return infos


def _require_file(model: str, models_dir: Folders) -> Path:
    if model not in LOCAL_MODELS:
        raise RecogniserError(
            f"{model!r} is not a background model that runs on this machine; "
            f"choose 'none' or one of {', '.join(LOCAL_MODELS)}."
        )
    path = _find_file(model, models_dir)
    if path is None:
        raise RecogniserError(
            f"The file of the background model {model} was not found: put it at {_expected_path(model, models_dir)}, "
            "or choose 'none'."
        )
    return path


def _expected_path(model: str, models_dir: Folders) -> Path:
    return next(_candidates(model, models_dir))


def _find_file(model: str, models_dir: Folders) -> Path | None:
    return next((path for path in _candidates(model, models_dir) if path.is_file()), None)


def _candidates(model: str, models_dir: Folders) -> Iterator[Path]:
    """Where a model's file may lie: our folders, then the ones that rembg itself uses, old layout and new."""
    roots = search_folders(models_dir)
    if os.environ.get("U2NET_HOME"):
        roots.append(Path(os.environ["U2NET_HOME"]).expanduser())
    if os.environ.get("REMBG_HOME"):
        roots.append(Path(os.environ["REMBG_HOME"]).expanduser())
    roots += [Path.home() / ".u2net", Path.home() / ".rembg"]
    filename = f"{model}.onnx"
    for root in roots:
        for folder in (root, root / "rembg", root / "models" / model):
            yield folder / filename


@lru_cache(maxsize=2)
def _session(model: str, path: str) -> Any:
    """A rembg session that is bound to one local file: its download step only ever returns that path."""
    try:
        onnxruntime = quiet_onnxruntime()  # before rembg imports it
        from rembg.sessions import sessions_class
    except (ImportError, SystemExit) as error:  # rembg exits where it finds no onnxruntime
        raise RecogniserError(
            "Background removal needs the Python package rembg: pip install --no-deps rembg pooch pymatting; "
            "or choose 'none'."
        ) from error
    published = next((session for session in sessions_class if session.name() == model), None)
    if published is None:
        raise RecogniserError(f"The installed rembg has no model {model}; update rembg or choose another model.")
    local = type("LocalSession", (published,), {"download_models": classmethod(lambda cls, *args, **kwargs: path)})
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit():
        options.intra_op_num_threads = int(threads)
    try:
        return local(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own error families
        raise RecogniserError(
            f"{path} cannot be loaded as {model} ({error}); replace it with an unaltered copy."
        ) from error
