"""Pictures of this machine that a graph wants on the server."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from ..safety.pictures import decoding, open_picture
from ..safety.untrusted import FileRefused, open_regular
from .refusals import UsageRefused

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
_ON_SERVER = (" [input]", " [output]", " [temp]")


@dataclass(frozen=True)
class LocalPicture:
    """Two with the same bytes are equal, whatever they are called."""

    path: Path = field(compare=False)
    sha256: str

    @property
    def upload_name(self) -> str:
        """Its name on the server: letters that every form and file system takes, and part of its hash, so that other
        content never takes its place."""
        stem = re.sub(r"[^A-Za-z0-9-]+", "_", self.path.stem)[:80].strip("_") or "picture"
        return f"{stem}_{self.sha256[:12]}{self.path.suffix.lower()}"


def read_picture(path: Path) -> LocalPicture:
    """Raises UsageRefused where the file is missing or Pillow (which ComfyUI reads with) does not know it."""
    if not os.path.exists(path):
        raise UsageRefused(f"There is no picture {path}.")
    try:
        with open_regular(path) as file, open_picture(path) as picture:
            digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
            with decoding():
                picture.verify()
    except FileRefused as error:
        raise UsageRefused(f"{path} cannot be read as a picture ({error}); save it as PNG or JPEG.") from error
    return LocalPicture(path, digest)


def picture_or_name(text: str, where: str) -> LocalPicture | str:
    """What a LoadImage input is given: a file of this machine, or the name of one that the server has already.

    A plain name that is no file here, and any name that ends in " [input]", means the server's.
    """
    if text.endswith(_ON_SERVER):
        return text
    try:
        path = Path(text).expanduser()
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, ValueError, RuntimeError) as error:  # too long, or "~" and somebody whom the system does not know
        raise UsageRefused(f'{where}: "{text[:80]}" is no path of a picture ({error}).') from error
    if is_file:
        return read_picture(path)
    if is_folder:
        raise UsageRefused(f'{where}: "{text}" is a folder; give one picture, or the folder with --each.')
    if not text.strip() or path.name != text:
        raise UsageRefused(f'{where}: there is no picture "{text}" (looked in {Path.cwd()}).')
    return text
