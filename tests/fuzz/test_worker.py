"""The watch over the readers, watched: whatever a reader may not do is seen when one does it."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from identity_lock.errors import PhotoError

from .case import Case
from .worker import Target, Worker, usable

pytestmark = pytest.mark.skipif(not usable(), reason="fuzzing needs Linux: forked processes and /proc")

CASE = Case.single("a.txt", b"hello")


def outcome(run, **limits):
    target = Target("reader", lambda path, folder: run(path), lambda: [CASE])
    with Worker({"reader": target}, **limits) as worker:
        return worker.run("reader", CASE)


def refuse(words: str):
    def run(path: Path) -> None:
        raise PhotoError(words)

    return run


def test_what_is_taken_or_refused_in_words_is_no_finding():
    assert outcome(lambda path: path.read_bytes()).accepted
    found = outcome(refuse("a.txt: this is no picture; give another one."))
    assert not found.finding and not found.accepted and found.said.startswith("a.txt")


def hang(path: Path) -> None:
    while True:
        pass


def fill(path: Path) -> None:
    held = bytearray(200 << 20)
    held[::4096] = b"x" * len(held[::4096])


def unpickle(path: Path) -> None:
    try:
        pickle.loads(pickle.dumps([1]))
    except Exception:
        return


def unpickle_an_array(path: Path) -> None:
    np.save(path.with_suffix(".npy"), np.array([1]))
    np.load(path.with_suffix(".npy"), allow_pickle=True)


def write_outside(path: Path) -> None:
    try:
        (path.parent.parent / "outside").write_text("x")
    except OSError:
        return


def remove_outside(path: Path) -> None:
    (path.parent.parent.parent / "nothing").unlink(missing_ok=True)


def read_through_a_link(path: Path) -> None:
    (path.parent / "link").symlink_to("/etc/passwd")
    (path.parent / "link").read_bytes()


@pytest.mark.parametrize(
    ("run", "limits", "told"),
    [
        (hang, {"seconds": 0.5}, "computed for more than 0.5 s"),
        (lambda path: time.sleep(60), {"seconds": 0.5, "idle": 0.5}, "gave no answer in 1 s"),
        (fill, {"limit": 100 << 20}, "MiB of memory"),
        (lambda path: os.abort(), {}, "the process died (SIGABRT)"),
        (lambda path: os._exit(3), {}, "the process died (exit 3)"),
        (lambda path: {}["a"], {}, "KeyError: 'a'"),
        (lambda path: (_ for _ in ()).throw(MemoryError()), {}, "MemoryError"),
        (refuse("no"), {}, "no sentence"),
        (refuse("It is refused for the reason that " + 3000 * "it is " + "bad."), {}, ""),
        (unpickle, {}, "pickle.load was reached"),
        (unpickle_an_array, {}, "numpy.load with pickles was reached"),
        (lambda path: Path("/etc/passwd").read_bytes(), {}, "open of /etc/passwd"),
        (lambda path: (path.parent / "../../../etc/passwd").resolve().read_bytes(), {}, "open of "),
        (read_through_a_link, {}, "open of /etc/passwd"),
        (write_outside, {}, "open for writing of"),
        (remove_outside, {}, "os.remove for writing of"),
        (lambda path: subprocess.run(["true"]), {}, "subprocess.Popen"),
        (lambda path: socket.create_connection(("192.0.2.1", 80), 0.1), {}, "192.0.2.1"),
    ],
)  # fmt: skip
def test_what_a_reader_may_not_do_is_found(run, limits, told):
    found = outcome(run, **limits)
    assert told in found.finding and bool(found.finding) is bool(told)


def test_nothing_is_written_where_a_finding_says_so():
    with Worker({"reader": Target("reader", lambda path, folder: write_outside(path), lambda: [CASE])}) as worker:
        assert worker.run("reader", CASE).finding
        assert not list(worker.scratch.rglob("outside"))


def test_after_a_death_the_next_input_is_run():
    def run(path: Path, folder: Path) -> None:
        if path.read_bytes() == b"die":
            os.abort()

    with Worker({"reader": Target("reader", run, lambda: [CASE])}) as worker:
        assert worker.run("reader", CASE).accepted
        assert worker.run("reader", Case.single("a.txt", b"die")).finding
        assert worker.run("reader", CASE).accepted


def test_a_refusal_is_made_fit_for_a_terminal():
    """By the family of errors itself: what a file says may hold commands for the terminal."""
    found = outcome(refuse("The title \x1b[2J of this\nfile is odd; give another \ud800 one."))
    assert not found.finding and found.said == "The title \\x1b[2J of this file is odd; give another \\ud800 one."
