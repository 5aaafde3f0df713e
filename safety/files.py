"""File names that come from a graph stay inside their folder."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import OutputError

MAX_NAME_BYTES, MAX_LENGTH = 240, 1000

_RESERVED = re.compile(r"^(?:con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(?:\..*)?$", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"|?*\ud800-\udfff]')


def resolve_inside(folder: str | Path, name: str, suffix: str = "") -> Path:
    """The absolute path of `name` inside `folder`, with `suffix` (".png") added where it is not there yet.

    `name` may hold subfolders and spaces; both slashes part folders on every system, so that a graph means the same
    file everywhere. Nothing is created, and the file need not exist. Raises OutputError for an empty name, an absolute
    path, a drive letter, "..", a control character, a name that Windows reserves, or a symbolic link that leads out of
    the folder.
    """
    parts = plain_parts(name)
    shown = _shown(name)
    if suffix and not parts[-1].lower().endswith(suffix.lower()):
        parts[-1] += suffix
    _require_short(parts[-1])
    root = Path(folder).resolve()
    target = root.joinpath(*parts)
    try:
        real = target.resolve()
    except (OSError, RuntimeError) as error:
        raise OutputError(f'The file name "{shown}" cannot be resolved: {error}. Choose another name.') from error
    if not real.is_relative_to(root) or real == root:
        raise OutputError(f'The file name "{shown}" leads out of {root} through a link. Choose another name.')
    return real


def plain_parts(name: str) -> list[str]:
    """The folders and the file that `name` is made of, seen as text alone: `resolve_inside` follows links as well.

    Raises OutputError for what could lead out of a folder, or cannot be a file's name everywhere.
    """
    if not isinstance(name, str) or not name.strip():
        raise OutputError("The file name is empty. Give a name, without a folder in front of it.")
    shown = _shown(name)
    if len(name) > MAX_LENGTH:
        raise OutputError(f'The file name "{shown}…" is too long. Keep it to {MAX_LENGTH} characters.')
    parts = name.replace("\\", "/").split("/")
    if name[:1] in "/\\~" or re.match(r"^[A-Za-z]:", name):
        raise OutputError(f'The file name "{shown}" is an absolute path. Give a name inside the folder.')
    if any(part.strip() in {"", ".", ".."} for part in parts):
        raise OutputError(f'The file name "{shown}" leaves its folder or has an empty part. Give a plain name.')
    for part in parts:
        if _FORBIDDEN.search(part):
            raise OutputError(
                f'The file name "{shown}" has a character that file systems refuse. Use letters and digits.'
            )
        if _RESERVED.match(part.strip()) or part != part.strip() or part.endswith("."):
            raise OutputError(
                f'The file name "{shown}" has a part that Windows reserves or alters ("{part}"). Choose another name.'
            )
        _require_short(part)
    return parts


def _require_short(part: str) -> None:
    if len(part.encode("utf-8")) > MAX_NAME_BYTES:
        raise OutputError(f'The file name "{_shown(part)}…" is too long. Keep each part to {MAX_NAME_BYTES} bytes.')


def _shown(name: str) -> str:
    return name.encode("unicode_escape").decode("ascii")[:80]
