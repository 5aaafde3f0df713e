"""What can go wrong between a graph on disk and files from a server, as errors of the family."""

from __future__ import annotations

from ..errors import IdentityLockError


class UsageRefused(IdentityLockError):
    """The command as given cannot be carried out; nothing was queued. The command ends with exit code 2."""


class ServerError(IdentityLockError):
    """The server answered something that the client cannot work with."""


class ServerGone(ServerError):
    """No answer: the server is not running, died, or the connection broke."""


class QueueStopped(IdentityLockError):
    """The user asked to stop; the journal keeps what is queued and done."""
