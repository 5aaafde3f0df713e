"""safetensors headers: what is accepted here is what the library reads, and everything else is refused before it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from identity_lock.safety.tensors import MAX_HEADER, read_header, read_tensors
from identity_lock.safety.untrusted import FileRefused

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
SHAPES = st.lists(st.integers(0, 4), max_size=4)
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).filter("__metadata__".__ne__)
in_a_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


@in_a_folder
@given(st.dictionaries(NAMES, st.tuples(SHAPES, st.sampled_from(DTYPES)), max_size=6))
def test_what_the_library_writes_is_read_back(tmp_path: Path, layout):
    tensors = {name: torch.ones(shape).to(dtype) for name, (shape, dtype) in layout.items()}
    path = tmp_path / "a.safetensors"
    path.write_bytes(save(tensors, metadata={"who": "Zoë"}))
    found, header = read_tensors(path, "pt")
    assert header.metadata == {"who": "Zoë"} and header.size == path.stat().st_size
    assert found.keys() == tensors.keys() == header.shapes.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor) and header.shapes[name] == tuple(tensor.shape)


ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "U8", "BOOL", "I64", "F4", "Q8", ""]),
        "shape": st.lists(st.integers(-1, 5) | st.sampled_from([2**31, 2**32, 2**62, 2**63, True, 1.5]), max_size=3),
        "data_offsets": st.lists(st.integers(-1, 64), min_size=1, max_size=3),
    }
)


@settings(in_a_folder, max_examples=400)
@given(st.dictionaries(st.sampled_from("abcd"), ENTRY, min_size=1, max_size=3), st.integers(0, 64))
def test_whatever_a_header_says_the_library_agrees_with_what_is_accepted(tmp_path: Path, header, size):
    text = json.dumps(header).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(size))
    try:
        ours = read_header(path)
    except FileRefused:
        return
    with safe_open(str(path), framework="pt") as file:
        assert {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()} == ours.shapes  # noqa: SIM118


def written(path: Path, header: bytes, data: bytes = b"", length: int | None = None) -> Path:
    path.write_bytes((len(header) if length is None else length).to_bytes(8, "little") + header + data)
    return path


ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "data", "why"),
    [
        ({"a": ONE}, 7, "cut short or damaged"),
        ({"a": ONE}, 9, "cut short or damaged"),
        ({"a": ONE, "b": ONE}, 8, "overlaps"),
        ({"a": ONE, "b": ONE | {"data_offsets": [12, 20]}}, 20, "leaves a gap"),
        ({"a": ONE | {"shape": [3]}}, 8, "another size"),
        ({"a": ONE | {"shape": [2**62, 2]}}, 8, "another size"),
        ({"a": ONE | {"shape": [2**63, 0], "data_offsets": [0, 0]}}, 0, "no shape"),
        ({"a": ONE | {"shape": [-2]}}, 8, "no shape"),
        ({"a": ONE | {"shape": [True, 2]}}, 8, "no shape"),
        ({"a": ONE | {"dtype": "pickle"}}, 8, "unknown type"),
        ({"a": {"dtype": "F32"}}, 0, "not described"),
        ({"a": 5}, 0, "not described"),
        ({"a": ONE, "__metadata__": {"x": 1}}, 8, "metadata"),
        ({"a": ONE, "__metadata__": []}, 8, "metadata"),
        ({f"a{n}": ONE | {"shape": [0], "data_offsets": [0, 0]} for n in range(50_001)}, 0, "50001 tensors"),
    ],
)
def test_headers_that_lie_are_refused_with_the_reason(tmp_path: Path, header, data, why):
    with pytest.raises(FileRefused, match=why):
        read_header(written(tmp_path / "a", json.dumps(header).encode(), bytes(data)))


@pytest.mark.parametrize("length", [3, 2**31, 2**63, 2**64 - 1])
def test_a_header_that_is_longer_than_the_file_is_refused(tmp_path: Path, length):
    with pytest.raises(FileRefused, match="cut short"):
        read_header(written(tmp_path / "a", b"{}", length=length))


def test_a_header_above_the_limit_is_not_read(tmp_path: Path):
    path = written(tmp_path / "a", b"{", length=MAX_HEADER + 1)
    os.truncate(path, 1 << 40)  # of holes
    with pytest.raises(FileRefused, match="8 MiB, above the limit of 8"):
        read_header(path)


def test_types_that_are_not_used_are_told_and_not_guessed(tmp_path: Path):
    path = tmp_path / "a"
    path.write_bytes(save({"a": torch.ones(2, dtype=torch.bfloat16), "b": torch.ones(2)}))
    with pytest.raises(FileRefused, match="a is stored as BF16"):
        read_tensors(path, "numpy")
    assert np.array_equal(read_tensors(path, "numpy", lambda name: name == "b")[0]["b"], [1, 1])
    path.write_bytes(save({"a": torch.ones(2).to(torch.float8_e4m3fn)}))
    assert read_header(path).storage == {"a": "F8_E4M3"}
    with pytest.raises(FileRefused, match="F8_E4M3"):
        read_tensors(path, "pt")


def test_the_library_alone_would_have_gone_on(tmp_path: Path):
    """Why the check is ours: a key that is there twice, of which it takes the last."""
    text = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}'
    path = written(tmp_path / "a", text, b"xy")
    try:
        with safe_open(str(path), framework="pt") as file:
            assert list(file.keys()) == ["a"]
    except SafetensorError:
        pass
    with pytest.raises(FileRefused, match="twice"):
        read_header(path)
