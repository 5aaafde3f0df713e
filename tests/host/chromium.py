"""Finds node, Chromium and playwright-core on this machine, and runs browser/drive.mjs with them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DRIVER = HERE / "browser" / "drive.mjs"
SIZE = (2200, 1240)
# Text is drawn however far a graph is zoomed out, and nothing lies over it.
LEGIBLE = {"LiteGraph_Canvas_MinFontSizeForLOD": 0, "Comfy_Minimap_Visible": False}
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class BrowserMissing(Exception):
    """str() says what is not installed, and how the tests look for it."""


@dataclass(frozen=True)
class Visit:
    """What came of a visit. results: one for each step; errors: complaints that name the pack; all: all of them."""

    results: list[Any]
    errors: list[str]
    all: list[str]


@dataclass(frozen=True)
class Chromium:
    node: str
    program: str
    playwright: str

    def visit(
        self, url: str, steps: list[dict[str, Any]], shots: Path, *, timeout: float = 600, **settings: Any
    ) -> Visit:
        """Opens the front end at `url` with these settings (Comfy_VueNodes_Enabled=True) and does the steps."""
        request = {
            "url": url,
            "playwright": self.playwright,
            "chromium": self.program,
            "shots": str(shots),
            "size": SIZE,
            "settings": {name.replace("_", "."): value for name, value in (LEGIBLE | settings).items()},
            "steps": steps,
        }
        finished = subprocess.run(
            [self.node, str(DRIVER)], input=json.dumps(request), capture_output=True, text=True, timeout=timeout
        )
        lines = finished.stdout.strip().splitlines()
        answer: dict[str, Any] = json.loads(lines[-1]) if lines else {"failed": finished.stderr[-3000:]}
        if answer["failed"]:
            raise AssertionError("\n".join([answer["failed"], *answer.get("errors", [])]))
        return Visit(answer["results"], answer["errors"], answer["all"])


def find_chromium() -> Chromium:
    node = shutil.which("node")
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUMS)), None)
    playwright = _playwright_core()
    if node and program and playwright:
        return Chromium(node, program, str(playwright))
    lacking = [
        what
        for what, there in (
            ("node (on PATH)", node),
            ("chromium (on PATH or CHROMIUM)", program),
            ("playwright-core (in PLAYWRIGHT_CORE, NODE_PATH or tests/host/browser/node_modules)", playwright),
        )
        if not there
    ]  # fmt: skip
    raise BrowserMissing(f"the browser tests need {', '.join(lacking)}")


def _playwright_core() -> Path | None:
    named = os.environ.get("PLAYWRIGHT_CORE")
    folders = [Path(named)] if named else []
    for place in filter(None, os.environ.get("NODE_PATH", "").split(os.pathsep)):
        folders.append(Path(place) / "playwright-core")
    folders.append(HERE / "browser" / "node_modules" / "playwright-core")
    return next((folder for folder in folders if (folder / "package.json").is_file()), None)
