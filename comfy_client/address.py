"""Where the server is, and whether photos may travel there (paper section 7: nothing leaves this machine)."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from ..safety.offline import is_this_machine
from .refusals import UsageRefused

DEFAULT_SERVER = "http://127.0.0.1:8188"


@dataclass(frozen=True)
class ServerAddress:
    """url: what to connect to, without a slash at its end. shown: the same without a password, for messages and the
    journal. remote: it is another machine."""

    url: str
    shown: str
    host: str
    port: int
    remote: bool


def read_address(text: str, *, allow_remote: bool = False) -> ServerAddress:
    """`text` may leave out http://. Raises UsageRefused for what is no address, and for another machine unless
    allow_remote: the photos would leave this one."""
    whole = text.strip() if "://" in text else f"http://{text.strip()}"
    try:
        parts = urlsplit(whole)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        parts, host, port = urlsplit(""), "", None
    if not host or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        raise UsageRefused(f'--server "{text}" is no address of a server; give one such as {DEFAULT_SERVER}.')
    remote = not is_this_machine(host)
    if remote and not allow_remote:
        raise UsageRefused(
            f'"{host}" is another machine, and the photos and prompts of the graph would leave this one. '
            "Say --allow-remote if that is what you want and what the people in the photos agreed to."
        )
    named = f"[{host}]" if ":" in host else host
    shown = f"{parts.scheme}://{named}{'' if port is None else f':{port}'}{parts.path.rstrip('/')}"
    return ServerAddress(whole.rstrip("/"), shown, host, port or (443 if parts.scheme == "https" else 80), remote)
