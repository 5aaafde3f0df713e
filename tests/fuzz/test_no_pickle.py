"""No line of the pack can open a pickle, run text as code, or have a library follow a file to another one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = (
    "comfy_client", "demo", "engines", "identity", "nodes", "rendering", "safety", "training", "cli.py", "doctor.py",
    "own_photos.py", "pipeline.py", "verify.py", "errors.py", "__init__.py",
)  # fmt: skip
MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "copyreg"}
# Each of these opens a pickle, or may; by the name behind the dot or behind `from ... import`.
CALLS = {
    "torch": {"load", "hub"},
    "numpy": {"load", "fromregex", "memmap"},
    "np": {"load", "fromregex", "memmap"},
    "pandas": {"read_pickle"},
    "yaml": {"load", "unsafe_load", "full_load"},
}
ANYWHERE = {
    "from_pretrained", "from_single_file", "load_lora_weights", "hf_hub_download", "snapshot_download", "read_pickle",
}  # fmt: skip
BUILTINS = {"eval", "exec", "compile", "__import__"}
OPTIONS = {"allow_pickle", "trust_remote_code"}


def python_files() -> list[Path]:
    files = [ROOT / room for room in ROOMS if room.endswith(".py")]
    return files + [file for room in ROOMS if not room.endswith(".py") for file in sorted((ROOT / room).rglob("*.py"))]


def faults(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in MODULES:
                    yield node.lineno, f"import {alias.name}"
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            top = node.module.split(".")[0]
            for alias in node.names:
                if top in MODULES or alias.name in CALLS.get(top, set()) | ANYWHERE:
                    yield node.lineno, f"from {node.module} import {alias.name}"
        elif isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if node.attr in ANYWHERE or node.attr in CALLS.get(owner, ()):
                yield node.lineno, f"{owner}.{node.attr}"
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in BUILTINS:
                yield node.lineno, node.func.id
            for keyword in node.keywords:
                off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                if keyword.arg in OPTIONS and not off:
                    yield node.lineno, str(keyword.arg)


def test_no_room_can_open_a_pickle():
    files = python_files()
    assert len(files) > 80
    found = [(file, line, what) for file in files for line, what in faults(file.read_text("utf-8"))]
    assert [f"{file.relative_to(ROOT)}:{line} {what}" for file, line, what in found] == []


def test_safetensors_are_opened_in_one_place_only():
    """Where the header has been checked first."""
    openers = {"safe_open", "load_file", "load", "deserialize"}
    found = set()
    for file in python_files():
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "safetensors":
                found |= {file.relative_to(ROOT).as_posix() for alias in node.names if alias.name in openers}
    assert found == {"safety/tensors.py"}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "import pickle as p", "from pickle import loads", "import torch\ntorch.load(x)",
        "from torch import load", "import numpy as np\nnp.load(x)", "f(allow_pickle=True)", "f(trust_remote_code=x)",
        "Model.from_pretrained(path)", "eval(text)", "__import__('os')", "import shelve", "import _pickle",
    ],
)  # fmt: skip
def test_the_search_finds_them(source):
    assert list(faults(source))


def test_the_search_leaves_the_rest_alone():
    assert not list(faults("import json\njson.load(f)\nf(allow_pickle=False)\nmodule.load_state_dict(x)\nimage.load()"))
