"""Nothing goes over the network (paper section 7): the switches that libraries know, and a guard that needs none.

`enforce_offline` sets the environment variables that stop well-behaved libraries. `no_network` is the guarantee: inside
it, every connection that Python tries to open beyond this machine raises a sentence. Native code has sockets of its own
that no guard in Python sees; the one library here that uses them, onnxruntime, is silenced by `quiet_onnxruntime`.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import IdentityLockError

# What libraries report without being asked: onnxruntime (1.29 and later) the names and hashes of the models that it
# opens, albumentations (older insightface imports it) an update check. Each is read while the library is imported.
TELEMETRY_VARIABLES: dict[str, str] = {
    "ORT_DISABLE_TELEMETRY": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "ALBUMENTATIONS_OFFLINE": "1",
}
OFFLINE_VARIABLES: dict[str, str] = {
    **TELEMETRY_VARIABLES,
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "DIFFUSERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_XET": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "WANDB_MODE": "offline",
    # A proxy on this machine would carry to others what `no_network` lets through to it.
    "NO_PROXY": "*",
    "no_proxy": "*",
}


class NetworkRefused(IdentityLockError, ConnectionError):
    """Something tried to reach another machine. Also a ConnectionError, so that libraries take their offline path."""


def enforce_offline() -> None:
    """Set the offline switches for this process and its children. Call it before the libraries are imported."""
    os.environ.update(OFFLINE_VARIABLES)


def no_telemetry() -> None:
    """Set the switches that only stop reports; for a process that is somebody else's, such as ComfyUI's."""
    os.environ.update(TELEMETRY_VARIABLES)


def quiet_onnxruntime() -> Any:
    """The module onnxruntime, which then reports nothing. Raises ImportError.

    Its wheels send their reports from native code, so they have to be stopped before it is imported. Where another
    package did that first, only what it tells of our models is held back.
    """
    no_telemetry()
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    return onnxruntime


@contextmanager
def offline() -> Iterator[None]:
    """The offline switches for the length of a block; what was set before comes back afterwards.

    huggingface_hub reads its switch once, when it is imported: for a guarantee use `no_network`.
    """
    before = {name: os.environ.get(name) for name in OFFLINE_VARIABLES}
    enforce_offline()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


Block = frozenset[str]  # the hosts beyond this machine that a block allows, by name and by address


class _ThisThread(threading.local):
    def __init__(self) -> None:
        self.blocks: list[Block] = []


_blocks: list[Block] = []
_this_thread = _ThisThread()
_lock = threading.Lock()
_watching = False


@contextmanager
def no_network(*, but: str | None = None, this_thread: bool = False) -> Iterator[None]:
    """Refuse every connection to anything but this machine, with NetworkRefused.

    Covers what goes through Python's sockets (urllib, requests, httpx, aiohttp on the selector event loop) and look-ups
    of host names, in every thread of the process. Loopback and Unix sockets work. Not covered: child processes, native
    code with sockets of its own, and a proxy or tunnel on this machine. Blocks may nest.

    but: one other host that may be reached, with the addresses that it has on entering. this_thread: hold back what the
    calling thread opens and nothing else. That is for a host such as ComfyUI, whose other threads may be at work for
    packs that rightly use the network; threads that a library starts are then not covered.
    """
    allowed: Block = frozenset() if but is None else _names_of(but)
    blocks = _this_thread.blocks if this_thread else _blocks
    _watch()
    blocks.append(allowed)
    try:
        yield
    finally:
        blocks.remove(allowed)


def _watch() -> None:
    """Add the audit hook, once: Python has no way to take it off again, and outside of blocks it does nothing.

    Unlike patched functions it also sees sockets that were imported before, or whose class overrides `connect`.
    """
    global _watching
    with _lock:
        if not _watching:
            sys.addaudithook(_on_event)
            _watching = True


_FROM_A_SOCKET = {"socket.connect", "socket.sendto", "socket.sendmsg"}  # (socket, address); connect_ex says connect
_LOOK_UPS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"}  # (host, ...)


def _on_event(event: str, args: tuple[Any, ...]) -> None:
    if not event.startswith("socket.") or not (_blocks or _this_thread.blocks):
        return
    if event in _FROM_A_SOCKET and args[0].family in (socket.AF_INET, socket.AF_INET6):
        _refuse_unless_allowed(args[1])
    elif event in _LOOK_UPS:
        _refuse_unless_allowed(args[0])


def _refuse_unless_allowed(address: Any) -> None:
    """address: a host, or a socket's (host, port, ...); None and "" stand for this machine."""
    host = address[0] if isinstance(address, tuple) and address else address
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if not host or is_this_machine(str(host)):
        return
    if all(str(host).lower() in allowed for allowed in [*_blocks, *_this_thread.blocks]):
        return
    raise NetworkRefused(
        f'Something tried to reach "{host}" over the network, and everything here is offline. '
        "Put the file that it wants into its folder beforehand; the report of `identity-lock doctor` lists them."
    )


def _names_of(host: str) -> Block:
    """A host's name and addresses; the name alone where it is not known, for whoever connects to say so."""
    try:
        found = socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        found = []
    return frozenset({host.lower(), *(str(entry[4][0]) for entry in found)})


def is_this_machine(host: str) -> bool:
    """Whether a host's name or address means this machine, without asking the network."""
    if host.lower().rstrip(".") in {"localhost", "ip6-localhost", socket.gethostname().lower()}:
        return True
    try:
        address = ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return False
    # An unspecified address is this machine: it is what servers bind to.
    return address.is_loopback or address.is_unspecified
