"""A forked process that runs targets on inputs, and its parent's watch over time and memory. Linux only."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from identity_lock.errors import IdentityLockError
from identity_lock.safety.index import HOME_VARIABLE

from .case import Case
from .watch import Watch

SECONDS = 5.0  # of computing, for one input
IDLE_SECONDS = 20.0  # without an answer; the machine may be busy, so that waiting is allowed for longer than computing
BYTES = 5 << 28  # 1.25 GiB: of memory that an input may take beyond what the process had before it
_HEADROOM = 6 << 30  # address space beyond which an allocation fails: the machine lives on


@dataclass(frozen=True)
class Target:
    """run: given the case's path and its folder. reads_anywhere: the file is the user's own list of other files."""

    name: str
    run: Callable[[Path, Path], object]
    seeds: Callable[[], list[Case]]
    warm: Callable[[], object] = lambda: None  # what a first call would otherwise pay for
    reads_anywhere: bool = False


@dataclass(frozen=True)
class Outcome:
    """accepted: no error at all. finding: what went wrong, "" where nothing did. said: the refusal's words."""

    accepted: bool
    finding: str = ""
    said: str = ""
    peak: int = 0
    seconds: float = 0.0
    trace: str = field(default="", repr=False)


def usable() -> bool:
    """Whether this system can fork, and tells of memory and time as Linux does."""
    return hasattr(os, "fork") and os.access("/proc/self/clear_refs", os.W_OK)


class Worker:
    """One forked process at a time, begun anew after each death. Close it, or use it in a `with` block."""

    def __init__(
        self, targets: Mapping[str, Target], *, seconds: float = SECONDS, idle: float = IDLE_SECONDS, limit: int = BYTES
    ) -> None:
        """seconds: of computing, idle: of waiting, limit: bytes of memory; for one input."""
        self.targets, self.seconds, self.idle, self.limit = targets, seconds, idle, limit
        parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.scratch = Path(tempfile.mkdtemp(prefix="fuzz-", dir=parent))
        self._pid = 0
        self._count = 0

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stop()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def run(self, name: str, case: Case) -> Outcome:
        return self.run_prepared(name, case.write)

    def run_prepared(self, name: str, prepare: Callable[[Path], Path]) -> Outcome:
        """prepare: fills the case's folder and returns the path for the target; not only plain files may be in it."""
        if not self._pid:
            self._start()
        self._count += 1
        folder = self.scratch / f"{self._count}" / "input"
        folder.mkdir(parents=True)
        try:
            path = prepare(folder)
            request = {"target": name, "folder": str(folder), "path": str(path)}
            os.write(self._asks, json.dumps(request).encode() + b"\n")
            return self._answer()
        finally:
            shutil.rmtree(folder.parent, ignore_errors=True)

    def _answer(self) -> Outcome:
        began, spent = time.monotonic(), _cpu_seconds(self._pid)
        buffer = b""
        while True:
            if select.select([self._answers], [], [], 0.25)[0]:
                piece = os.read(self._answers, 1 << 16)
                buffer += piece
                if not piece:
                    _, status = os.waitpid(self._pid, 0)
                    self._pid = 0
                    self._stop()
                    how = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {status >> 8}"
                    return Outcome(False, f"the process died ({how})")
                if buffer.endswith(b"\n"):
                    return self._judged(Outcome(**json.loads(buffer)))
                continue
            if _cpu_seconds(self._pid) - spent > self.seconds:
                self._stop()
                return Outcome(False, f"computed for more than {self.seconds:g} s")
            if time.monotonic() - began > self.idle + self.seconds:
                self._stop()
                return Outcome(False, f"gave no answer in {self.idle + self.seconds:g} s")

    def _judged(self, outcome: Outcome) -> Outcome:
        if outcome.finding:
            return outcome
        if outcome.peak > self.limit:
            found = f"took {outcome.peak >> 20} MiB of memory"
        elif outcome.seconds > self.seconds:
            found = f"computed for {outcome.seconds:.1f} s"
        else:
            return outcome
        return Outcome(outcome.accepted, found, outcome.said, outcome.peak, outcome.seconds)

    def _start(self) -> None:
        asked, self._asks = os.pipe()
        self._answers, answer = os.pipe()
        gc.freeze()
        sys.stdout.flush()
        sys.stderr.flush()
        self._pid = os.fork()
        if self._pid:
            os.close(asked)
            os.close(answer)
            return
        try:
            os.close(self._asks)
            os.close(self._answers)
            _serve(self.targets, asked, answer)
        finally:
            os._exit(0)

    def _stop(self) -> None:
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        self._pid = 0
        for end in ("_asks", "_answers"):
            if hasattr(self, end):
                os.close(getattr(self, end))
                delattr(self, end)


# ---- in the child ----------------------------------------------------------------------------------------------------


def _serve(targets: Mapping[str, Target], asked: int, answer: int) -> None:
    os.setsid()
    faulthandler.disable()
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    sys.stdin = sys.stdout = sys.stderr = open(os.devnull, "r+")  # noqa: SIM115 - for as long as the process lives
    limit = _memory("VmSize") + _HEADROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    watch = Watch()
    watch.install()
    requests = os.fdopen(asked, "rb")
    warmed: set[str] = set()
    for line in requests:
        request = json.loads(line)
        target = targets[request["target"]]
        try:
            if target.name not in warmed:
                target.warm()
                warmed.add(target.name)
            found = _one(target, Path(request["path"]), Path(request["folder"]), watch)
        except BaseException as error:  # of the harness itself
            found = asdict(Outcome(False, f"the target could not be made ready: {error!r}", trace=_traced(error)))
        os.write(answer, json.dumps(found).encode() + b"\n")


def _one(target: Target, path: Path, folder: Path, watch: Watch) -> dict[str, Any]:
    _reset_peak()
    before, spent = _memory("VmRSS"), time.process_time()
    accepted, finding, said, trace = False, "", "", ""
    os.environ[HOME_VARIABLE] = str(folder / "home")
    watch.begin(folder, reads_anywhere=target.reads_anywhere)
    try:
        target.run(path, folder)
        accepted = True
    except IdentityLockError as error:
        said = str(error)
        finding = fault_of_message(said)
    except BaseException as error:  # also PickleReached, SystemExit and the panics of native libraries
        finding = f"{type(error).__name__}: {error}"[:300]
        trace = _traced(error)
    violations = watch.end()
    if violations:
        finding = "; ".join([*dict.fromkeys(violations)][:3])[:600]
    return {
        "accepted": accepted,
        "finding": finding.encode("utf-8", "backslashreplace").decode(),
        "said": said[:600].encode("utf-8", "backslashreplace").decode(),
        "peak": max(0, _memory("VmHWM") - before),
        "seconds": time.process_time() - spent,
        "trace": trace,
    }


def _traced(error: BaseException) -> str:
    with contextlib.suppress(Exception):
        return "".join(traceback.format_exception(error))[-4000:].encode("utf-8", "backslashreplace").decode()
    return ""


def fault_of_message(text: str) -> str:
    """What keeps a refusal from being a sentence for people, "" for nothing."""
    if not text.isprintable():
        return f"a refusal with unprintable characters: {text[:120]!r}"
    if len(text) < 20 or text[-1] not in ".'!?\")":
        return f"a refusal that is no sentence: {text[:120]!r}"
    if len(text) > 2000:
        return f"a refusal of {len(text)} characters: {text[:120]!r}"
    return ""


def _reset_peak() -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _memory(key: str) -> int:
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(key + ":"):
                return int(line.split()[1]) << 10
    raise AssertionError(key)


def _cpu_seconds(pid: int) -> float:
    """Of a process and the children that it has waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
