"""Nothing goes over the network (paper section 7): the switches that libraries know, and a guard that needs none.

`enforce_offline` sets the environment variables that stop well-behaved libraries. `no_network` is the guarantee: inside
it, every connection that this Python process tries to open beyond this machine raises a sentence.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import IdentityLockError

OFFLINE_VARIABLES: dict[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "DIFFUSERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_XET": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "ALBUMENTATIONS_OFFLINE": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "WANDB_MODE": "offline",
}


class NetworkRefused(IdentityLockError, ConnectionError):
    """Something tried to reach another machine. Also a ConnectionError, so that libraries take their offline path."""


def enforce_offline() -> None:
    """Set the offline switches for this process and its children. Call it before the libraries are imported."""
    os.environ.update(OFFLINE_VARIABLES)


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


_lock = threading.Lock()
_depth = 0
_originals: dict[tuple[Any, str], Any] = {}


@contextmanager
def no_network() -> Iterator[None]:
    """Refuse every connection of this process to anything but this machine, with NetworkRefused.

    Covers what goes through Python's `socket` (urllib, requests, httpx, aiohttp on the selector event loop) in every
    thread, and look-ups of host names. Loopback and Unix sockets work. Not covered: child processes, and native code
    with sockets of its own. Blocks may nest.
    """
    global _depth
    with _lock:
        if _depth == 0:
            _install()
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                _uninstall()


def _install() -> None:
    def guard(owner: Any, name: str, address_at: int) -> None:
        original = getattr(owner, name)
        _originals[owner, name] = original

        def guarded(*args: Any, **kwargs: Any) -> Any:
            # The last argument, because sendto(data, address) and sendto(data, flags, address) are both in use.
            address = args[address_at] if len(args) > abs(address_at) - (address_at < 0) else kwargs.get("host")
            _refuse_unless_local(args[0] if owner is socket.socket else None, address)
            return original(*args, **kwargs)

        setattr(owner, name, guarded)

    guard(socket.socket, "connect", 1)
    guard(socket.socket, "connect_ex", 1)
    guard(socket.socket, "sendto", -1)
    if hasattr(socket.socket, "sendmsg"):
        guard(socket.socket, "sendmsg", 4)
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr"):
        guard(socket, name, 0)


def _uninstall() -> None:
    for (owner, name), original in _originals.items():
        setattr(owner, name, original)
    _originals.clear()


def _refuse_unless_local(connection: socket.socket | None, address: Any) -> None:
    if connection is not None and connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    host = address[0] if isinstance(address, tuple) and address else address
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if host is None or host == "" or is_this_machine(str(host)):
        return
    raise NetworkRefused(
        f'Something tried to reach "{host}" over the network, and everything here is offline. '
        "Put the file that it wants into its folder beforehand; the report of `identity-lock doctor` lists them."
    )


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
