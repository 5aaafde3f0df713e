"""What travels on ComfyUI's sockets, and what the rooms below take: IMAGE and MASK tensors <-> NumPy pictures,
LORA_MODEL dicts <-> LoraWeights. torch is imported by the calls that need it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CheckpointError, PhotoError

if TYPE_CHECKING:
    from torch import Tensor

    from ..engines.lora_file import LoraWeights

IDENTITY = "IDENTITY"
"""Socket type of identity.identity.Identity."""
LORA_MODEL = "LORA_MODEL"
"""ComfyUI's own socket type: a dict of tensors, as TrainLoraNode makes and LoraModelLoader takes."""
WIRED_NAME = "wired LoRA"


def pictures(images: Tensor, name: str) -> list[np.ndarray]:
    """An IMAGE batch (N, H, W, 1, 3 or 4) in [0, 1], of any dtype and device, as uint8 RGB pictures in its order.

    A fourth channel is alpha, flattened over mid-grey. name: of the input, for the message. Raises PhotoError for an
    empty batch, another shape and NaN.
    """
    from ..identity.photo import pixels_from_array

    array = _array(images, name)
    if array.ndim == 3:  # one picture without its batch axis, as some nodes hand out
        array = array[None]
    if array.ndim != 4 or array.shape[0] == 0:
        raise PhotoError(
            f"The input {name} holds no picture (its shape is {tuple(array.shape)}); give an IMAGE with at least one."
        )
    many = len(array) > 1
    return [pixels_from_array(row, f"{name} {i}" if many else name) for i, row in enumerate(array, 1)]


def image_batch(images: Sequence[np.ndarray]) -> Tensor:
    """uint8 RGB pictures of one size -> IMAGE, float32 (N, H, W, 3) in [0, 1], CPU."""
    import torch

    return torch.from_numpy(np.stack(images)).float().div(255.0)


def mask_planes(masks: Tensor | None, sizes: Sequence[tuple[int, int]], name: str) -> list[np.ndarray]:
    """A MASK batch as one float32 (height, width) plane in [0, 1] for each of `sizes`, (height, width).

    A single mask is repeated, another size is resized to, no mask at all is all ones. Raises PhotoError for another
    number of masks and for NaN.
    """
    if masks is None:
        return [np.ones(size, np.float32) for size in sizes]
    array = _array(masks, name).astype(np.float32)
    array = array[None] if array.ndim == 2 else array[:, 0] if array.ndim == 4 and array.shape[1] == 1 else array
    if array.ndim != 3 or len(array) not in (1, len(sizes)) or 0 in array.shape:
        raise PhotoError(
            f"The input {name} has the shape {tuple(array.shape)}, which is neither one mask for each picture (there: "
            f"{len(sizes)}) nor one for all; wire in the masks that were made with the pictures."
        )
    if not np.isfinite(array).all():
        raise PhotoError(f"The input {name} contains NaN or infinite values; check the node that made it.")
    planes = [array[0 if len(array) == 1 else index] for index in range(len(sizes))]
    return [_resized(plane.clip(0.0, 1.0), size) for plane, size in zip(planes, sizes, strict=True)]


def mask_batch(planes: Sequence[np.ndarray]) -> Tensor:
    """float32 (H, W) planes of one size -> MASK (N, H, W), CPU."""
    import torch

    return torch.from_numpy(np.stack(planes).astype(np.float32))


class WiredLora(dict[str, Any]):
    """A LORA_MODEL that still knows its name and metadata: to every other node a plain dict of tensors."""

    def __init__(self, lora: LoraWeights) -> None:
        super().__init__(lora.tensors)
        self.name, self.metadata = lora.name, dict(lora.metadata)


def lora_weights(wired: Mapping[str, Any] | None) -> LoraWeights | None:
    """LoraWeights from any LORA_MODEL, this pack's or another's; None for nothing wired. Raises CheckpointError."""
    if wired is None:
        return None
    import torch

    from ..engines.lora_file import LoraWeights

    if not isinstance(wired, Mapping) or not wired or not all(isinstance(t, torch.Tensor) for t in wired.values()):
        raise CheckpointError(
            "The input lora holds no LoRA tensors; wire in the lora output of a trainer, or nothing for no LoRA."
        )
    return LoraWeights(getattr(wired, "name", WIRED_NAME), dict(wired), getattr(wired, "metadata", {}))


def _array(tensor: Any, name: str) -> np.ndarray:
    import torch

    if not isinstance(tensor, torch.Tensor):
        raise PhotoError(f"The input {name} is no tensor but {type(tensor).__name__}; wire in pictures or masks.")
    array: np.ndarray = tensor.detach().to("cpu", torch.float32).numpy()
    return array


def _resized(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if plane.shape == size:
        return plane
    from PIL import Image

    resized = Image.fromarray(plane).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.float32)
