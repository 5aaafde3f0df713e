"""The real host: a ComfyUI on this machine, a server of the tests' own, and a client. Without a ComfyUI all is skipped.

Tests that take minutes run with IDENTITY_LOCK_LONG=1 only: mark them `@pytest.mark.long`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
if "identity_lock" not in sys.modules and HERE.parents[1].name == "identity_lock":
    # In custom_nodes/ the pack is not installed: its folder is the package, so its parent goes on the path, last.
    sys.path.append(str(HERE.parents[2]))

from identity_lock.tests.host.client import Client  # noqa: E402
from identity_lock.tests.host.comfyui import ComfyUI, find_comfyui  # noqa: E402
from identity_lock.tests.host.server import Server, host_environment, link_pack  # noqa: E402

Inside = Callable[..., dict[str, Any]]
NO_HOST = "the host tests need a ComfyUI:"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: takes minutes; runs only with IDENTITY_LOCK_LONG=1")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A reason that holds for the whole folder is told on one line, not on one for each test."""
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple) and NO_HOST in report.longrepr[2]:
        report.longrepr = (str(HERE), None, report.longrepr[2])  # type: ignore[assignment]
    return report


@pytest.fixture(scope="session", autouse=True)
def comfy() -> ComfyUI:
    """The ComfyUI under test: `path`, `python`, `version` ("0.18.2"), `release` ((0, 18, 2)), `flags`."""
    try:
        found = find_comfyui()
    except FileNotFoundError as wrong:
        pytest.fail(str(wrong), pytrace=False)
    if found is None:
        pytest.skip(f"{NO_HOST} set COMFYUI_PATH to its folder and COMFYUI_PYTHON to its Python")
    if found.missing:
        pytest.skip(f"{NO_HOST} whose Python has {', '.join(found.missing)}: it misses what requirements.txt lists")
    return found


@pytest.fixture(autouse=True)
def only_when_asked(request: pytest.FixtureRequest, comfy: ComfyUI) -> None:
    if request.node.get_closest_marker("long") and os.environ.get("IDENTITY_LOCK_LONG") != "1":
        pytest.skip("takes minutes: set IDENTITY_LOCK_LONG=1")


@pytest.fixture(scope="session")
def checkpoint_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What `comfy_server` has as models/checkpoints; gigabytes, so they go when the tests are over."""
    folder = tmp_path_factory.mktemp("host_checkpoints")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def sd15(checkpoint_folder: Path) -> Path:
    """A random checkpoint in SD1.5's layout (280 MB); its `name` is what CheckpointLoaderSimple takes."""
    from identity_lock.tests.fixtures.tiny_checkpoint import write_sd15

    return write_sd15(checkpoint_folder / "tiny_sd15.safetensors", levels=(1, 1), attention=(0, 1))


@pytest.fixture(scope="session")
def sdxl(checkpoint_folder: Path) -> Path:
    """The same in SDXL's layout (2 GB, most of it zeros: the second text encoder's size is fixed)."""
    from identity_lock.tests.fixtures.tiny_checkpoint import write_sdxl

    return write_sdxl(checkpoint_folder / "tiny_sdxl.safetensors", bigg_length=32)


@pytest.fixture(scope="session")
def comfy_server(
    comfy: ComfyUI, checkpoint_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A running server with the pack. Tests may restart or kill it; `client` finds it again on the same port."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a time limit on the tests ends the server as well
    server = Server(comfy, tmp_path_factory.mktemp("comfyui"), checkpoints=checkpoint_folder)
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def client(comfy_server: Server) -> Iterator[Client]:
    client = Client(comfy_server)
    yield client
    client.close()


@pytest.fixture(scope="session")
def inside(comfy: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Inside:
    """inside("name", *args, timeout=600) runs inside/name.py with ComfyUI's Python and in its folder, where `comfy`
    and `identity_lock` import, and returns the JSON object of its last line."""
    package = link_pack(tmp_path_factory.mktemp("package"))

    def run(script: str, *args: Any, timeout: float = 600) -> dict[str, Any]:
        paths = os.pathsep.join([str(comfy.path), str(package.parent)])
        finished = subprocess.run(
            [str(comfy.python), str(HERE / "inside" / f"{script}.py"), *map(str, args)],
            cwd=comfy.path,
            env=host_environment(comfy, PYTHONPATH=paths),
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if finished.returncode:
            tail = "\n".join(finished.stderr.splitlines()[-30:])
            raise AssertionError(f"inside/{script}.py ended with {finished.returncode}:\n{tail}")
        lines = finished.stdout.strip().splitlines()
        if not lines:
            raise AssertionError(f"inside/{script}.py printed nothing:\n{finished.stderr[-2000:]}")
        return dict(json.loads(lines[-1]))

    return run
