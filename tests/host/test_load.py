"""Load at a size that a test can have: the server's memory stands still, and kills cost nothing and double nothing.

`make load` does the same with 200 renders.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from identity_lock.safety.c2pa_signing import manifest_state
from identity_lock.safety.provenance import COMPOSITE, read_record
from identity_lock.tests.host.comfyui import ROOT, ComfyUI
from identity_lock.tests.host.load import (
    MADE,
    OURS,
    SEED,
    check_complete,
    growth,
    interrupt,
    measure,
    renders_folder,
    running,
)
from identity_lock.tests.host.server import Server

RENDERS, WARM_UP = 24, 8
# A heap that still settles gave up to 0.05 MiB a render over so few, stock nodes' too. The tensors of one of these
# pictures are 0.19 MiB, and a render has several.
BOUND = 0.25  # MiB a render; `make load` holds 150 renders to 0.1
KILLED_RENDERS, KILLS = 9, (3, 6)


@pytest.fixture(scope="module")
def server(comfy: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of this file's own, which is killed."""
    with running(Server(comfy, tmp_path_factory.mktemp("load"))) as server:
        yield server


def test_memory_stands_still_and_every_render_is_there_once(server, tmp_path):
    seeds = range(SEED, SEED + RENDERS)
    samples = measure(server, OURS, seeds, tmp_path, MADE)
    check_complete(server, tmp_path, seeds)
    assert growth(samples, WARM_UP) <= BOUND, [round(one.rss, 1) for one in samples]


def test_a_server_killed_twice_loses_nothing_and_does_nothing_twice(server, tmp_path):
    shutil.rmtree(renders_folder(server))
    seeds = range(SEED + 1000, SEED + 1000 + KILLED_RENDERS)
    interrupt(server, seeds, tmp_path, KILLS)
    check_complete(server, tmp_path, seeds)


@pytest.fixture
def keys(comfy: ComfyUI, tmp_path: Path) -> Path:
    """A chain and its key, by the commands of docs/signing.md."""
    code = "import importlib.util as u; print(u.find_spec('c2pa') is not None)"
    if "True" not in subprocess.run([comfy.python, "-c", code], capture_output=True, text=True, check=True).stdout:
        pytest.skip("ComfyUI's Python has no c2pa-python: pip install c2pa-python")
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command, which makes the test certificate, is not installed")
    text = (ROOT / "docs" / "signing.md").read_text()
    (commands,) = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    subprocess.run(["sh", "-e", "-c", commands], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


def test_a_server_whose_environment_names_a_certificate_signs_what_it_renders(server, keys, tmp_path, monkeypatch):
    shutil.rmtree(renders_folder(server), ignore_errors=True)
    monkeypatch.setenv("IDENTITY_LOCK_SIGN_CERTIFICATE", str(keys / "chain.pem"))
    monkeypatch.setenv("IDENTITY_LOCK_SIGN_KEY", str(keys / "signer.key"))
    server.restart()
    seeds = range(SEED + 2000, SEED + 2000 + 4)
    measure(server, OURS, seeds, tmp_path / "queue", MADE)
    check_complete(server, tmp_path / "queue", seeds)
    for path in renders_folder(server).glob("[!.]*.png"):
        state = manifest_state(path)
        assert state.state == "valid" and state.signed_by == "My archive pictures"
        assert (state.source_type == COMPOSITE) is read_record(path)["composite"]
