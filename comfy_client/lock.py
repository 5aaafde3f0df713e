"""One client at a time in a folder: two would queue everything twice."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from ..safety.lock import only_one
from .refusals import UsageRefused

LOCK_NAME = ".queue.lock"


def only_client(folder: Path) -> AbstractContextManager[None]:
    """Holds the folder's lock file for the length of a block; raises UsageRefused where another client has it."""
    return only_one(
        folder,
        LOCK_NAME,
        lambda holder: UsageRefused(
            f"Another identity-lock queue{holder} works in {folder}; wait for it, stop it, or give --out another "
            "folder."
        ),
    )
