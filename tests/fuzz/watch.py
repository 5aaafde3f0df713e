"""Inside the worker: what a reader may not do, seen as it happens.

Files and commands are seen by Python's audit events, pickles by functions that fail the run. A file that native code
opens by itself is not seen.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from identity_lock.safety.offline import is_this_machine

# Event -> which of its arguments are paths.
_OPENS = {"open": (0,), "os.listdir": (0,), "os.scandir": (0,)}
# These change a link itself, not what it leads to.
_CHANGES = {
    "os.remove": (0,), "os.rename": (0, 1), "os.mkdir": (0,), "os.rmdir": (0,), "os.link": (0, 1), "os.symlink": (1,),
    "os.truncate": (0,), "os.chmod": (0,), "os.utime": (0,), "shutil.rmtree": (0,), "shutil.move": (0, 1),
    "shutil.copyfile": (0, 1), "tempfile.mkstemp": (0,), "tempfile.mkdtemp": (0,),
}  # fmt: skip
_NEVER = {
    "os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.fork", "os.forkpty", "subprocess.Popen", "pty.spawn",
    "pickle.find_class", "urllib.Request", "webbrowser.open", "ctypes.dlopen",
}  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC


class PickleReached(BaseException):
    """Not an Exception: no `except Exception` may hide it."""


class Watch:
    """`violations` since `begin`. folder: the only one that may be written, and read beside code and system tables."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self._folder: str | None = None
        self._anywhere = False
        own = Path(__file__).resolve().parents[2]
        places = {own, Path(sys.prefix), Path(sys.base_prefix), *map(Path, sysconfig.get_paths().values())}
        for package in ("PIL", "torch", "numpy"):  # where packages lie that a .pth file brings in
            spec = importlib.util.find_spec(package)
            if spec is not None and spec.origin:
                places.add(Path(spec.origin).parent.parent)
        places |= {Path(entry) for entry in sys.path if entry}
        system = ("/dev/null", "/dev/urandom", "/proc", "/sys", "/usr/lib", "/usr/share", "/etc/mime.types",
                  "/etc/localtime", "/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/ssl")  # fmt: skip
        self._known = tuple(sorted({str(place.resolve()) for place in places} | {str(p) for p in places} | set(system)))

    def install(self) -> None:
        """For the rest of this process: audit hooks cannot be taken away."""
        pickle.load = pickle.loads = self._pickled("pickle.load")
        reached = self._pickled("pickle.Unpickler")
        # A class, because libraries make classes of it; unpickling itself also tells of each name that it looks up.
        pickle.Unpickler = type("Unpickler", (), {"__init__": lambda self, *args, **more: reached()})  # type: ignore
        if "torch" in sys.modules:
            torch: Any = sys.modules["torch"]
            torch.load = torch.serialization.load = self._pickled("torch.load")
        plain = np.load

        def load(*args: Any, allow_pickle: bool = False, **more: Any) -> Any:
            return self._pickled("numpy.load with pickles")() if allow_pickle else plain(*args, **more)

        np.load = load
        sys.addaudithook(self._hook)

    def begin(self, folder: Path, *, reads_anywhere: bool) -> None:
        self.violations, self._anywhere = [], reads_anywhere
        self._folder = os.path.realpath(folder)

    def end(self) -> list[str]:
        self._folder = None
        return self.violations

    def _pickled(self, what: str) -> Callable[..., Any]:
        def reached(*args: Any, **more: Any) -> Any:
            self.violations.append(f"{what} was reached")
            raise PickleReached(what)

        return reached

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._folder is None:
            return
        if event in _OPENS:
            flags = arguments[2] if event == "open" and isinstance(arguments[2], int) else 0
            self._check(event, arguments[0], bool(flags & _WRITING), follow=not flags & os.O_NOFOLLOW)
        elif event in _CHANGES:
            within = arguments[-1] if event in ("os.remove", "os.rmdir", "os.mkdir") else -1
            for at in _CHANGES[event]:
                path = arguments[at] if at < len(arguments) else None
                if isinstance(within, int) and within >= 0 and path is not None:
                    path = os.path.join(os.readlink(f"/proc/self/fd/{within}"), os.fsdecode(path))
                self._check(event, path, True, follow=False)
        elif event in _NEVER:
            self._report(f"{event} {arguments[:2]!r:.200}")
        elif event in ("socket.connect", "socket.getaddrinfo"):
            address = arguments[1] if event == "socket.connect" else arguments[0]
            host = address[0] if isinstance(address, tuple) else address
            if isinstance(host, str) and not is_this_machine(host):
                self._report(f"{event} {address!r:.200}")

    def _check(self, event: str, path: Any, writing: bool, *, follow: bool = True) -> None:
        if path is None or isinstance(path, int):
            return
        assert self._folder is not None
        parent, name = os.path.split(os.path.abspath(os.fsdecode(path)))
        place = os.path.realpath(os.path.join(parent, name)) if follow else os.path.join(os.path.realpath(parent), name)
        inside = (self._folder,) if writing else (self._folder, *(() if self._anywhere else self._known))
        if self._anywhere and not writing:
            return
        if not any(place == one or place.startswith(one + os.sep) for one in inside):
            self._report(f"{event} {'for writing ' if writing else ''}of {place}")
            if writing:  # a finding must not cost the machine that it was found on
                raise PermissionError(f"outside of the input's folder: {place}")

    def _report(self, what: str) -> None:
        self.violations.append(what)
