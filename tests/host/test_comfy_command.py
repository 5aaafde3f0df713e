"""`make comfy`: the pack linked into a ComfyUI, the server started, the full pipeline queued on the sample photos."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from identity_lock.tests.host.server import free_port

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="make comfy is a bash script")


def make_comfy(timeout: float = 60, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COMFY")}
    return subprocess.run(
        ["bash", str(ROOT / "tools" / "comfy.sh")],
        env=kept | environment, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip


def test_without_a_path_it_says_where_comfyui_comes_from():
    ended = make_comfy()
    assert ended.returncode == 2
    assert "COMFYUI_PATH" in ended.stderr and "https://docs.comfy.org/" in ended.stderr


def test_a_path_that_holds_no_comfyui(tmp_path):
    ended = make_comfy(COMFYUI_PATH=str(tmp_path))
    assert ended.returncode == 2 and str(tmp_path) in ended.stderr


def test_a_python_without_torch(comfy, tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nexec "$REAL_PYTHON" -S "$@"\n')
    python.chmod(0o755)
    ended = make_comfy(COMFYUI_PATH=str(comfy.path), COMFYUI_PYTHON=str(python), REAL_PYTHON=str(comfy.python))
    assert ended.returncode == 2 and "no torch" in ended.stderr


def test_a_port_that_is_taken(comfy, comfy_server, comfy_copy):
    ended = make_comfy(
        COMFYUI_PATH=str(comfy_copy), COMFYUI_PYTHON=str(comfy.python), COMFY_PORT=str(comfy_server.port)
    )
    assert ended.returncode == 2 and str(comfy_server.port) in ended.stderr
    assert (comfy_copy / "custom_nodes" / "identity_lock").resolve() == ROOT


@pytest.fixture
def comfy_copy(comfy, tmp_path):
    """A ComfyUI of links with custom_nodes of its own, so that nothing is put into the real one."""
    for entry in comfy.path.iterdir():
        if entry.name not in ("custom_nodes", "models", "input", "output", "temp", "user", ".git"):
            (tmp_path / entry.name).symlink_to(entry)
    return tmp_path


@pytest.mark.long
def test_it_runs_the_full_pipeline(comfy, comfy_copy, tmp_path_factory):
    base = tmp_path_factory.mktemp("make_comfy")
    (base / "custom_nodes").mkdir()
    (base / "custom_nodes" / "identity_lock").symlink_to(ROOT)
    (base / "user").mkdir()
    ended = make_comfy(
        timeout=3000, COMFYUI_PATH=str(comfy_copy), COMFYUI_PYTHON=str(comfy.python), COMFY_PORT=str(free_port()),
        COMFY_ONCE="1", COMFY_ARGS=f"--base-directory {base} --database-url sqlite:///{base}/comfyui.db",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "done: the results are in" in ended.stdout
    assert list((ROOT / "out" / "comfy").rglob("*.png"))
