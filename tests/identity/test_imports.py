"""Importing the package costs a host next to nothing."""

from __future__ import annotations

import os
import subprocess
import sys

HEAVY = (
    "torch",
    "cv2",
    "onnxruntime",
    "onnx",
    "insightface",
    "dlib",
    "_dlib_pybind11",
    "scipy",
    "rembg",
    "safetensors",
)


def test_importing_identity_imports_nothing_heavy():
    code = (
        "import sys, identity_lock.identity, identity_lock.identity.recognisers, identity_lock.identity.background\n"
        "identity_lock.identity.available\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert finished.stdout.strip() == "[]"
