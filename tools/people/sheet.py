"""Contact sheets: people down, views across."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from tools.people.caption import caption
from tools.people.dataset import view_seed
from tools.people.mesh import Array
from tools.people.person import Person
from tools.people.render import render
from tools.people.view import View

_LINE = 11
_CHARACTERS = 32


def make_sheet(
    path: Path, first_seed: int, people: int, views: int, size: int, look: str, captions: bool = False
) -> None:
    """Write a PNG with one person per row."""
    rows = []
    for seed in range(first_seed, first_seed + people):
        person = Person.sample(seed)
        shots = [View.sample(view_seed(seed, index)) for index in range(views)]
        tiles = [render(person, view, size, look) for view in shots]
        if captions:
            tiles = [_labelled(tile, caption(person, view)) for tile, view in zip(tiles, shots, strict=True)]
        rows.append(np.hstack(tiles))
    cv2.imwrite(str(path), np.vstack(rows)[:, :, ::-1])


def _labelled(tile: Array, text: str) -> Array:
    """The tile with its caption printed below, in as many short lines as any caption needs."""
    lines = [""]
    for phrase in text.split(", "):
        if len(lines[-1]) + len(phrase) > _CHARACTERS:
            lines.append("")
        lines[-1] += phrase + ", "
    label = np.full((8 * _LINE, tile.shape[1], 3), 255, np.uint8)
    for number, line in enumerate(lines):
        at = (2, (number + 1) * _LINE - 2)
        cv2.putText(label, line, at, cv2.FONT_HERSHEY_SIMPLEX, 0.25 * tile.shape[1] / 128, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([tile, label])
