from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from identity_lock.errors import OutputError
from identity_lock.safety.files import resolve_inside


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("portrait", "portrait.png"),
        ("portrait.png", "portrait.png"),
        ("portrait.PNG", "portrait.PNG"),
        ("my portrait of Ada", "my portrait of Ada.png"),
        ("archive/2025/Ada", "archive/2025/Ada.png"),
        ("archive\\Ada", "archive/Ada.png"),
        ("Zoë 写真 v1.2", "Zoë 写真 v1.2.png"),
        ("console", "console.png"),
        ("a..b", "a..b.png"),
        (".hidden", ".hidden.png"),
    ],
)
def test_a_plain_name_lies_in_the_folder(tmp_path: Path, name: str, expected: str) -> None:
    folder = tmp_path / "out put"
    assert resolve_inside(folder, name, ".png") == folder.resolve() / expected


@pytest.mark.parametrize(
    "name",
    [
        *("", "   ", ".", "..", "../x", "a/../../x", "a/..", "..\\x", "a\\..\\..\\x"),
        *("/etc/passwd", "\\\\server\\share", "~/x"),
        *("C:\\x", "c:x", "C:/x", "a\x00.png", "a\nb", "a:stream", "a|b", "a?b", "a*b", "a//b", "a/ /b", "a/./b", "x/"),
        *("con", "CON", "nul.png", "a/aux", "COM1", "lpt9.txt", "COM¹", "name.", "name ", " name", "x" * 300, "€" * 90),
    ],
)
def test_a_name_that_leaves_or_surprises_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="file name"):
        resolve_inside(tmp_path, name, ".png")


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="this system has no symbolic links")
def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_followed(tmp_path: Path) -> None:
    folder, outside = tmp_path / "out", tmp_path / "secret"
    (folder / "real").mkdir(parents=True)
    outside.mkdir()
    (folder / "away").symlink_to(outside)
    (folder / "near").symlink_to(folder / "real")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "file.png").symlink_to(outside / "file.png")
    for name in ("away/x", "file.png", "away"):
        with pytest.raises(OutputError, match="through a link"):
            resolve_inside(folder, name)
    assert resolve_inside(folder, "near/x", ".png") == (folder / "real" / "x.png").resolve()


def test_a_linked_output_folder_is_fine(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "output").symlink_to(tmp_path / "disk")
    assert resolve_inside(tmp_path / "output", "x", ".png") == (tmp_path / "disk" / "x.png").resolve()


FIXTURE = HealthCheck.function_scoped_fixture


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[FIXTURE])
@given(name=st.one_of(st.text(max_size=40), st.text(alphabet="./\\~:a \x00", max_size=12)))
def test_whatever_the_name_the_path_is_inside_or_refused(tmp_path: Path, name: str) -> None:
    try:
        path = resolve_inside(tmp_path, name, ".safetensors")
    except OutputError:
        return
    assert path.is_relative_to(tmp_path.resolve()) and path != tmp_path.resolve()
    assert path.name.lower().endswith(".safetensors")
