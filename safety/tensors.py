"""safetensors files (https://github.com/huggingface/safetensors): 8 bytes of length, a JSON header, the tensors' bytes.

The one place where they are opened. The header is checked against the file before the library sees it: its size, every
dtype, shape and offset, and that the tensors fill the file without gap or overlap. Never a pickle.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .untrusted import FileRefused, open_regular, parse_json

MAX_HEADER = 8 << 20  # bytes; a full SDXL checkpoint's is under half a megabyte
MAX_TENSORS = 50_000  # a training checkpoint on all of SDXL has 10,000
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "C64": 64,
}  # fmt: skip
# What numpy and torch alike have a type for; the others can be described, but not read.
READABLE = frozenset({"BOOL", "U8", "I8", "I16", "F16", "I32", "F32", "I64", "F64"})


@dataclass(frozen=True)
class TensorHeader:
    """What a file holds: shapes and storage types ("F16", "BF16", "I64", ...) by name, in the order of their bytes, and
    its metadata. size: of the file, in bytes."""

    shapes: Mapping[str, tuple[int, ...]]
    storage: Mapping[str, str]
    metadata: Mapping[str, str]
    size: int


def read_header(path: str | os.PathLike[str]) -> TensorHeader:
    """The checked header; no tensor is read. Raises FileRefused."""
    with open_regular(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise FileRefused("it is cut short, or no safetensors file")
            if length > MAX_HEADER:
                raise FileRefused(f"its header has {length >> 20} MiB, above the limit of {MAX_HEADER >> 20}")
            text = file.read(length)
        except OSError as error:
            raise FileRefused(str(error.strerror or error)) from error
    if not text.startswith(b"{"):
        raise FileRefused("its header is no JSON object")
    try:
        header = parse_json(text)
    except ValueError as error:
        raise FileRefused(f"its header cannot be read: {error}") from error
    if len(header) > MAX_TENSORS:
        raise FileRefused(f"it has {len(header)} tensors, above the limit of {MAX_TENSORS}")
    return _checked(header, size, size - 8 - length)


def read_tensors(
    path: str | os.PathLike[str],
    framework: Literal["numpy", "pt"],
    wanted: Callable[[str], bool] = lambda name: True,
) -> tuple[dict[str, Any], TensorHeader]:
    """The tensors whose names are `wanted`, as the library gives them, and the header. Raises FileRefused."""
    from safetensors import SafetensorError, safe_open

    header = read_header(path)
    names = [name for name in header.shapes if wanted(name)]
    foreign = next((name for name in names if header.storage[name] not in _readable(framework)), None)
    if foreign is not None:
        raise FileRefused(f"its tensor {foreign} is stored as {header.storage[foreign]}, which is not used here")
    try:
        with safe_open(str(path), framework=framework) as file:
            return {name: file.get_tensor(name) for name in names}, header
    except (SafetensorError, OSError, MemoryError, RuntimeError, ValueError) as error:  # changed since, or too large
        raise FileRefused(str(error) or "there is not enough memory to read it") from error


def _readable(framework: str) -> frozenset[str]:
    return READABLE | {"BF16"} if framework == "pt" else READABLE


def _checked(header: dict[str, Any], size: int, data: int) -> TensorHeader:
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FileRefused("its metadata is not text")
    spans = {name: _span(name, entry) for name, entry in header.items()}
    end = 0
    for name, (begins, ends) in sorted(spans.items(), key=lambda item: item[1]):
        if begins != end:
            raise FileRefused(f"its tensor {name} overlaps another one, or leaves a gap")
        end = ends
    if end != data:
        raise FileRefused(f"its tensors take {end} bytes, and it holds {data}; it is cut short or damaged")
    order = sorted(spans, key=lambda name: spans[name])
    return TensorHeader(
        {name: tuple(header[name]["shape"]) for name in order},
        {name: header[name]["dtype"] for name in order},
        metadata,
        size,
    )


def _span(name: str, entry: Any) -> tuple[int, int]:
    """First byte and the one behind the last, which fit the dtype and the shape."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise FileRefused(f"its tensor {name} is not described as the format wants it")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise FileRefused(f"its tensor {name} is of an unknown type")
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise FileRefused(f"its tensor {name} has no shape or no place in the file")
    bits = math.prod(shape) * BITS[dtype]
    if bits % 8 or offsets[1] - offsets[0] != bits // 8:
        raise FileRefused(f"its tensor {name} has another size than its shape says")
    return offsets[0], offsets[1]


def _naturals(value: Any) -> bool:
    """A list of whole numbers that fit into 63 bits; not more of them than an array may have axes."""
    return (
        isinstance(value, list) and len(value) <= 32 and all(type(one) is int and 0 <= one < 1 << 63 for one in value)
    )
