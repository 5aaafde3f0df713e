"""Identity Lock: a ComfyUI node pack, and the Python package of the same pipeline without ComfyUI.

ComfyUI imports this file at start-up and calls `comfy_entrypoint`; nothing heavy is imported before a node runs.
"""

from __future__ import annotations

from typing import Any

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> Any:
    """The extension that ComfyUI loads."""
    from .nodes import extension

    return extension()
