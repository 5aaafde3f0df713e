"""Around every node's execute: it reaches no other machine, and a missing Python package breaks the node that needs it,
with a sentence, and nothing else."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ..errors import IdentityLockError
from ..safety.offline import no_network

PIP_NAMES = {
    "cv2": "opencv-python-headless",
    "dlib": "dlib-bin",
    "PIL": "pillow",
    "pytorch_optimizer": "pytorch-optimizer",
}


class MissingPackage(IdentityLockError):
    """A Python package that this node needs is not installed."""


def guarded(execute: Callable[..., Any]) -> Callable[..., Any]:
    """Around a node's execute: in place of a bare import error, which package is missing and how to get it.

    The thread that executes is held back from the network, and no other: the host's are at work for other packs too.
    """

    @functools.wraps(execute)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            with no_network(this_thread=True):
                return execute(*args, **kwargs)
        except ModuleNotFoundError as error:
            module = (error.name or str(error)).partition(".")[0]
            package = PIP_NAMES.get(module, module)
            raise MissingPackage(
                f"This node needs the Python package {package}, which is not installed in ComfyUI's Python: "
                f"pip install {package}, then start ComfyUI again."
            ) from error

    return run
