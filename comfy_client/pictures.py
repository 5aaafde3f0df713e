"""Pictures of this machine that a graph wants on the server."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

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
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        with Image.open(path) as picture:
            picture.verify()
    except FileNotFoundError as error:
        raise UsageRefused(f"There is no picture {path}.") from error
    except Exception as error:  # Pillow raises SyntaxError, struct.error and others on broken files
        raise UsageRefused(f"{path} cannot be read as a picture ({error}); save it as PNG or JPEG.") from error
    return LocalPicture(path, digest)


def picture_or_name(text: str, where: str) -> LocalPicture | str:
    """What a LoadImage input is given: a file of this machine, or the name of one that the server has already.

    A plain name that is no file here, and any name that ends in " [input]", means the server's.
    """
    if text.endswith(_ON_SERVER):
        return text
    path = Path(text).expanduser()
    if path.is_file():
        return read_picture(path)
    if path.is_dir():
        raise UsageRefused(f'{where}: "{text}" is a folder; give one picture, or the folder with --each.')
    if not text.strip() or path.name != text:
        raise UsageRefused(f'{where}: there is no picture "{text}" (looked in {Path.cwd()}).')
    return text
