"""Locks and temporaries: held by their process, taken over from the dead, and left to the living."""

from __future__ import annotations

import errno
import json
import os

import pytest

from identity_lock.errors import OutputError
from identity_lock.safety.atomic import NameTaken, append_lines, make_folder, replacing
from identity_lock.safety.lock import in_turn, only_one

NAME = ".test.lock"


def only(folder):
    return only_one(folder, NAME, lambda holder: OutputError(f"taken{holder}"))


def test_one_holds_it_another_is_told_who_and_it_is_given_back(tmp_path):
    with only(tmp_path):
        assert json.loads((tmp_path / NAME).read_text()) == {"pid": os.getpid()}
        with pytest.raises(OutputError, match=rf"taken \(process {os.getpid()}\)"), only(tmp_path):
            raise AssertionError("never here")
    assert not (tmp_path / NAME).exists()
    with in_turn(tmp_path, NAME):
        pass


def test_what_the_dead_left_is_taken_over_whatever_it_says(tmp_path):
    (tmp_path / NAME).write_text(f'{{"pid": {os.getpid()}}}')
    with only(tmp_path):
        pass
    assert not (tmp_path / NAME).exists()


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"lock file .*file/.test.lock cannot be written"), only(tmp_path / "file"):
        pass


def test_a_file_system_without_locks_stops_nobody_and_nothing_is_swept_there(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl", reason="this system locks in another way")

    def unknown(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    left = tmp_path / ".a.png.0123abcd.tmp"
    left.touch()
    monkeypatch.setattr(fcntl, "flock", unknown)
    with only(tmp_path), only(tmp_path):
        make_folder(tmp_path)
    assert left.exists()
    monkeypatch.undo()
    make_folder(tmp_path)
    assert not left.exists()


def test_temporaries_of_the_dead_are_swept_and_those_of_the_living_are_not(tmp_path):
    names = [".a.png.0123abcd.tmp", ".a.png.4711.tmp", "notes.tmp", ".hidden.tmp"]
    for name in names:
        (tmp_path / name).write_text("x")
    with replacing(tmp_path / "b.png") as temporary:
        temporary.write_bytes(b"whole")
        make_folder(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names[1:], temporary.name])
    assert (tmp_path / "b.png").read_bytes() == b"whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names[1:], "b.png"])  # others' files stay


def test_a_name_is_taken_once(tmp_path, monkeypatch):
    def put(name: str, content: bytes) -> None:
        with replacing(tmp_path / name, keep=True) as temporary:
            temporary.write_bytes(content)

    put("a", b"first")
    with pytest.raises(NameTaken, match=r"a is there already"):
        put("a", b"second")

    def no_links(*names):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)  # as on exFAT
    put("b", b"first")
    with pytest.raises(NameTaken):
        put("b", b"second")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"first", "b": b"first"}


def test_half_a_line_goes_before_the_next_one_comes(tmp_path):
    path = tmp_path / "log.jsonl"
    append_lines(path, ["one", "two"])
    path.write_text(path.read_text() + "thr")
    append_lines(path, ["four"])
    assert path.read_text() == "one\ntwo\nfour\n"
    path.write_text("on")
    append_lines(path, ["one"])
    assert path.read_text() == "one\n"
