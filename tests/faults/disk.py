"""Jobs for a nursery that lives in a mount namespace of its own: a small disk, filled up at a chosen moment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZE = "16m"
PAGE = 4096


def mount(disk: str) -> None:
    Path(disk).mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", disk], check=True)


def remount_read_only(disk: str) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)


def run_until_full(disk: str, pattern: str, nth: int, pages: int) -> int:
    """The run, on a disk that fills up but for some pages when a file is opened for writing for the nth time whose path
    inside the output folder matches the pattern."""
    from identity_lock.tests.faults.small_run import run

    out = Path(disk) / "out"
    fill_up_at(out, re.compile(pattern), nth, lambda: fill_up(Path(disk) / "ballast", pages))
    return run(str(out))


def fill_up_at(out: Path, wanted: re.Pattern[str], nth: int, fill: Callable[[], None]) -> None:
    seen = 0

    def hear(event: str, given: tuple[Any, ...]) -> None:
        nonlocal seen
        if event != "open" or not isinstance(given[2], int) or not given[2] & (os.O_WRONLY | os.O_RDWR):
            return
        path = given[0] if isinstance(given[0], str) else ""
        if path.startswith(f"{out}/") and wanted.fullmatch(path[len(str(out)) + 1 :]):
            seen += 1
            if seen == nth:
                print("\nfull", flush=True)  # below the progress bars
                fill()

    sys.addaudithook(hear)


def fill_up(ballast: Path, pages: int) -> None:
    """Takes all the space there is, but for so many pages."""
    with open(ballast, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(PAGE))
        except OSError:
            file.truncate(max(0, file.tell() - pages * PAGE))


def check_left(disk: str) -> None:
    """What a run left that the full disk ended: nothing torn, not even a line, and no temporary."""
    from identity_lock.tests.faults.kills import check_whole, files

    out = Path(disk) / "out"
    check_whole(out)
    assert not [path for path in files(out) if path.suffix in (".tmp", ".lock")]
    assert not [path for path in out.rglob("*.jsonl") if not (b"\n" + path.read_bytes()).endswith(b"\n")]


def make_room(disk: str) -> None:
    (Path(disk) / "ballast").unlink()


def copy_out(disk: str, to: str) -> None:
    shutil.copytree(Path(disk) / "out", to)
