"""One input: a few small files in a folder, and the one that a target is given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOLD = "case.json"


@dataclass(frozen=True)
class Case:
    """files: contents by path below the case's folder. main: the path that the target opens, "" for the folder."""

    files: Mapping[str, bytes]
    main: str

    @classmethod
    def single(cls, name: str, content: bytes) -> Case:
        return cls({name: content}, name)

    def write(self, folder: Path) -> Path:
        """Puts the files into an empty folder; the path for the target."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return folder / self.main


def keep(case: Case, folder: Path, **told: Any) -> None:
    """A finding as files that `load` gives back, with what is known about it."""
    folder.mkdir(parents=True, exist_ok=True)
    case.write(folder)
    (folder / TOLD).write_text(json.dumps({"main": case.main, **told}, indent=1) + "\n", encoding="utf-8")


def load(folder: Path) -> tuple[Case, dict[str, Any]]:
    told = json.loads((folder / TOLD).read_text(encoding="utf-8"))
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != TOLD
    }
    return Case(files, told["main"]), told
