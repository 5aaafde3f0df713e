"""What a recogniser is, and what the registry says about one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ...errors import RecogniserError

if TYPE_CHECKING:
    from ..faces import Face


class Recogniser(Protocol):
    """A pretrained face network: a face goes in, a unit vector comes out (paper section 3.2)."""

    @property
    def name(self) -> str:
        """Registry name."""
        ...

    @property
    def dimension(self) -> int: ...

    @property
    def licence(self) -> str:
        """Licence of the weights, in words."""
        ...

    @property
    def commercial_use(self) -> bool: ...

    @property
    def sha256(self) -> str:
        """SHA-256 of the weights file."""
        ...

    @property
    def provider(self) -> str:
        """The onnxruntime execution provider that runs it, or 'dlib'."""
        ...

    @property
    def same_person_bar(self) -> float:
        """Raw cosine similarity under which two photos are taken to show different people."""
        ...

    def embed(self, pixels: np.ndarray, face: Face) -> np.ndarray:
        """Embedding of one face of a uint8 RGB picture: float32 (dimension,), unit norm."""
        ...

    def embed_batch(self, pixels: Sequence[np.ndarray], faces: Sequence[Face]) -> np.ndarray:
        """Embeddings of one face per picture: float32 (N, dimension), rows of unit norm, in the order given."""
        ...


@dataclass(frozen=True)
class RecogniserInfo:
    """One line of the registry: what can be used here, under which licence, and what to do where it cannot."""

    name: str
    found: bool
    path: Path | None
    licence: str
    commercial_use: bool
    dimension: int
    remedy: str


def unit_rows(raw: np.ndarray, name: str) -> np.ndarray:
    """Rows scaled to unit norm, float32. Raises RecogniserError for a vector with no direction."""
    vectors = np.asarray(raw, dtype=np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or (norms < 1e-12).any():
        raise RecogniserError(f"The recogniser {name} gave an empty embedding; its model file may be damaged.")
    return (vectors / norms).astype(np.float32)


def check_pairs(pixels: Sequence[np.ndarray], faces: Sequence[Face]) -> None:
    if len(pixels) != len(faces):
        raise RecogniserError(f"{len(pixels)} pictures came with {len(faces)} faces; give one face for each picture.")


def default_threads() -> int:
    """Threads for one inference: OMP_NUM_THREADS where the user set it, else 0, onnxruntime's own choice."""
    value = os.environ.get("OMP_NUM_THREADS", "")
    return int(value) if value.isdigit() else 0
