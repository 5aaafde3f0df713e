"""A real ComfyUI server of the tests' own: a free port, a folder of its own, a log that tests can read."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from identity_lock.tests.fixtures.watched import read_attempts, watched
from identity_lock.tests.host.comfyui import ROOT, ComfyUI

START_SECONDS = 180.0
FOLDERS = ("custom_nodes", "models/loras", "input", "output", "temp", "user/default")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """ComfyUI on the CPU, with `base` for all its folders and this repository linked into its custom_nodes.

    Whatever its process tries to reach beyond this machine is refused and written down.
    """

    def __init__(self, comfy: ComfyUI, base: Path, *, checkpoints: Path | None = None, pack: bool = True) -> None:
        self.comfy = comfy
        self.base = base
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = base / "server.log"
        self.attempts_file = base / "attempts.jsonl"
        self._process: subprocess.Popen[bytes] | None = None
        for folder in FOLDERS:
            (base / folder).mkdir(parents=True, exist_ok=True)
        if checkpoints is not None:
            (base / "models" / "checkpoints").symlink_to(checkpoints, target_is_directory=True)
        if pack:
            link_pack(base / "custom_nodes")

    @property
    def pid(self) -> int:
        """Of the running server."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    @property
    def command(self) -> list[str]:
        wanted = [
            ("--cpu",),
            ("--listen", "127.0.0.1"),
            ("--port", str(self.port)),
            ("--disable-auto-launch",),
            ("--base-directory", str(self.base)),
            ("--database-url", f"sqlite:///{self.base / 'comfyui.db'}"),
            ("--disable-api-nodes",),
        ]
        options = [word for option in wanted if option[0] in self.comfy.flags for word in option]
        return [str(self.comfy.python), "main.py", *options]

    def start(self) -> Server:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                cwd=self.comfy.path,
                env=host_environment(self.comfy, **watched(self.attempts_file)),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # so that stopping takes its children along, and nothing else
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended with {self._process.returncode} while starting:\n{self.tail()}")
            with contextlib.suppress(OSError, ValueError):
                self.get("/system_stats", timeout=5)
                return self
            time.sleep(0.3)
        self.kill9()
        raise TimeoutError(f"ComfyUI gave no answer in {START_SECONDS:.0f} s:\n{self.tail()}")

    def stop(self) -> None:
        """End it as Ctrl-C does; by force when it does not hear."""
        self._end(signal.SIGINT, patience=15)

    def kill9(self) -> None:
        """End it as a power cut does."""
        self._end(signal.SIGKILL, patience=15)

    def restart(self) -> Server:
        self.stop()
        return self.start()

    def _end(self, how: signal.Signals, patience: float) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for one in (how, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, one)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience)
                return

    def get(self, route: str, timeout: float = 30) -> Any:
        with urllib.request.urlopen(self.url + route, timeout=timeout) as answer:
            return json.load(answer)

    def log_text(self, since: int = 0) -> str:
        """What it has logged; `since` is a mark that `log_mark` gave."""
        return self.log.read_bytes()[since:].decode("utf-8", errors="replace")

    def log_mark(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def attempts(self, since: int = 0) -> list[dict[str, Any]]:
        """What its process tried to reach beyond this machine, each refused; `since` a mark of `attempts_mark`."""
        return read_attempts(self.attempts_file, since)

    def attempts_mark(self) -> int:
        return self.attempts_file.stat().st_size if self.attempts_file.exists() else 0

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.log_text().splitlines()[-lines:]) if self.log.exists() else "(no log)"


def link_pack(folder: Path) -> Path:
    """`folder`/identity_lock, a link to this repository."""
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "identity_lock"
    if not link.exists():
        link.symlink_to(ROOT, target_is_directory=True)
    return link


def host_environment(comfy: ComfyUI, **more: str) -> dict[str, str]:
    """One thread, nothing of the Python that runs the tests, and no CI, in which onnxruntime reports nothing."""
    dropped = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTEST_CURRENT_TEST", "CI"}
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "0"} | more
