"""LoRA files: UNet only, safetensors, in the kohya layout.

Of the layouts in use this one loads, with no unmatched key, both in stock ComfyUI and in diffusers'
`load_lora_weights`, and can name attention, feed-forward and convolution layers alike:
`lora_unet_<module>.lora_down.weight`, `.lora_up.weight`, `.alpha`. Some readers ignore alpha, so the scale alpha/rank
is folded into lora_up and the alpha written equals the rank: every reader multiplies by one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..safety import index
from ..safety.atomic import replacing
from ..safety.tensors import TensorHeader, read_header, read_tensors
from ..safety.untrusted import FileRefused

DOWN, UP, ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"
MAX_BYTES = 2 << 30  # rank 128 on all of SDXL in float32
_STORED_AS = frozenset({"F16", "BF16", "F32", "F64"})


@dataclass(frozen=True)
class LoraWeights:
    """tensors: the file's own, CPU. metadata: strings, as safetensors keeps them."""

    name: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def sha256(self) -> str:
        """Over names and values, so that the same adapter has the same hash in memory and on disk."""
        digest = hashlib.sha256()
        for key in sorted(self.tensors):
            tensor = self.tensors[key].detach().cpu().contiguous()
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.view(torch.uint8).numpy().tobytes() if tensor.ndim else tensor.numpy().tobytes())
        return digest.hexdigest()

    def modules(self) -> Iterator[tuple[str, Tensor, Tensor, float]]:
        """(key without suffix, down, up, scale) of each adapted layer; the weight change is scale * up @ down."""
        for key, down in self.tensors.items():
            if key.endswith(DOWN):
                stem = key[: -len(DOWN)]
                rank = down.shape[0]
                alpha = self.tensors.get(stem + ALPHA)
                yield stem, down, self.tensors[stem + UP], 1.0 if alpha is None else float(alpha) / rank


def weight_change(down: Tensor, up: Tensor, scale: float) -> Tensor:
    """The dense change of a linear (out, in) or convolution (out, in, k, k) weight, float32."""
    down, up = down.float(), up.float()
    if down.ndim == 2:
        return scale * (up @ down)
    flat = up.flatten(1) @ down.flatten(1)
    return scale * flat.view(up.shape[0], *down.shape[1:])


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file in memory, the same bytes for the same content: the library orders metadata at random."""
    from safetensors.torch import save

    written = save(dict(tensors), metadata=dict(metadata))
    end = 8 + int.from_bytes(written[:8], "little")
    header = json.loads(written[8:end])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data that follows
    return len(text).to_bytes(8, "little") + text + written[end:]


def write_lora(lora: LoraWeights, path: Path, *, keep: bool = False) -> Path:
    """Written under a temporary name and renamed: a reader never sees half a file. keep: raise NameTaken rather than
    write over a file. Raises OutputError."""
    content = safetensors_bytes(lora.tensors, lora.metadata)
    person = lora.metadata.get("identity_id", "")
    index.made(person if index.is_id(person) else "", "lora", path)
    with replacing(path, keep=keep) as temporary:
        temporary.write_bytes(content)
    return path


def read_lora(path: Path) -> LoraWeights:
    """Raises CheckpointError for a file that is missing, damaged or no LoRA in this layout."""
    if not os.path.isfile(path):
        raise CheckpointError(f"There is no LoRA at {path}; train one first or give another path.")
    try:
        header = read_header(path)
        if header.size > MAX_BYTES:
            raise FileRefused(f"it is larger than {MAX_BYTES >> 30} GiB")
        if not _is_lora(header):
            raise CheckpointError(
                f"{path} holds no LoRA in the kohya layout (lora_down / lora_up pairs); "
                "give one that this pack trained."
            )
        tensors, _ = read_tensors(path, "pt")
    except FileRefused as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}); train it again or copy it again."
        ) from error
    return LoraWeights(path.stem, tensors, header.metadata)


def _is_lora(header: TensorHeader) -> bool:
    """Whether the factors come in pairs of one rank, and every alpha is a number."""
    shapes = header.shapes
    stems = [key[: -len(DOWN)] for key in shapes if key.endswith(DOWN)]
    alphas = [shape for key, shape in shapes.items() if key.endswith(ALPHA)]
    if not stems or any(alpha not in ((), (1,)) for alpha in alphas) or not set(header.storage.values()) <= _STORED_AS:
        return False
    pairs = [(shapes[stem + DOWN], shapes.get(stem + UP, ())) for stem in stems]
    return all(len(down) == len(up) and len(down) in (2, 4) and down[0] == up[1] > 0 for down, up in pairs)
