"""Files that are none are not waited for, JSON holds no surprises, and what it describes has the types it should."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity_lock.safety.untrusted import (
    MAX_DEPTH,
    FileRefused,
    from_json,
    open_regular,
    open_to_write,
    parse_json,
    read_regular,
)

# An earlier test of the process may have had the processor flush subnormal numbers to zero, as the command line does.
NUMBERS = st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | NUMBERS
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)  # fmt: skip


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_is_no_file_is_refused_at_once(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path, *(tmp_path / name for name in ("pipe", "zero", "loop", "gone", "a\0b", "\ud800"))):
        with pytest.raises(FileRefused):
            open_regular(path)
        with pytest.raises(FileRefused):
            read_regular(path, 10)


def test_a_file_is_read_up_to_its_limit_and_not_beyond(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert read_regular(tmp_path / "a", 5) == read_regular(tmp_path / "link", 5) == b"12345"
    with pytest.raises(FileRefused, match="larger than"):
        read_regular(tmp_path / "a", 4)


def test_writing_goes_through_no_link_and_into_no_pipe(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"kept\n")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "link", tmp_path / "pipe", tmp_path):
        with pytest.raises(OSError):
            open_to_write(path)
    with open_to_write(tmp_path / "a") as file:
        file.write(b"more\n")
    assert (tmp_path / "a").read_bytes() == b"kept\nmore\n"


# ---- JSON ------------------------------------------------------------------------------------------------------------


@given(PLAIN)
def test_plain_json_is_read_as_ever(value):
    text = json.dumps(value)
    assert parse_json(text) == parse_json(text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000, "nested"),
        ("[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2), "nested"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "nested"),
        ('{"a": 1, "a": 2}', "twice"),
        ('[{"b": {"a": 1, "a": 1}}]', "twice"),
        ('"\\ud800"', "half a character"),
        ('{"\\udfff": 1}', "half a character"),
        ('"\ud800"', "half a character"),
        ("NaN", "finite"),
        ("[-Infinity]", "finite"),
        ("1e999", "finite"),
        ("9" * 5000, "digits"),
        (b'"\xff"', "UTF-8"),
        ("", "Expecting value"),
    ],
)  # fmt: skip
def test_surprises_are_refused_with_a_reason(text, why):
    with pytest.raises(ValueError, match=why):
        parse_json(text)


def test_what_looks_like_one_is_taken():
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse_json(deep) and parse_json('"\\ud83d\\ude00"') == "\N{GRINNING FACE}"
    assert parse_json('"\\\\ud800 is written out, and [[[[ is no list"').startswith("\\ud800")
    assert math.isnan(parse_json("NaN", finite=False)) and parse_json("1e999", finite=False) == math.inf
    assert parse_json("[" + "[]," * 1000 + "[]]") == [[]] * 1001


# ---- types -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inner:
    name: str
    share: float | None


@dataclass(frozen=True)
class Outer:
    seed: int
    inner: tuple[Inner, ...]
    pairs: list[tuple[int, float]]
    by_name: Mapping[str, dict[str, str]]
    flag: bool = False
    more: dict[str, float] = field(default_factory=dict)


WHOLE = {"seed": 5, "inner": [{"name": "a", "share": 1}, {"name": "b", "share": None}], "pairs": [[1, 2.5]],
         "by_name": {"x": {"y": "z"}}}  # fmt: skip


def test_json_becomes_what_the_fields_say():
    assert from_json(Outer, WHOLE) == Outer(5, (Inner("a", 1.0), Inner("b", None)), [(1, 2.5)], {"x": {"y": "z"}})
    assert type(from_json(Inner, {"name": "a", "share": 1}).share) is float


@pytest.mark.parametrize(
    "change",
    [
        {"seed": "5"}, {"seed": 5.0}, {"seed": True}, {"seed": None}, {"flag": 1}, {"inner": {}}, {"inner": [{}]},
        {"inner": [{"name": "a", "share": 1, "more": 2}]}, {"inner": [{"name": 5, "share": 1}]}, {"pairs": [[1]]},
        {"pairs": [[1, 2, 3]]}, {"pairs": [["1", 2]]}, {"by_name": {"x": {"y": 1}}}, {"by_name": []}, {"unknown": 1},
        {"more": {"a": 10**400}}, {"more": {"a": False}},
    ],
)  # fmt: skip
def test_another_type_is_refused(change):
    with pytest.raises(ValueError):
        from_json(Outer, WHOLE | change)


@pytest.mark.parametrize("missing", sorted(WHOLE))
def test_a_missing_field_is_refused(missing):
    with pytest.raises(ValueError, match=f"{missing} is missing"):
        from_json(Outer, {key: value for key, value in WHOLE.items() if key != missing})


@given(PLAIN)
def test_whatever_json_it_is_there_is_no_other_error(value):
    for kind in (Outer, Inner, int, float, str, list[int], dict[str, float], tuple[int, str]):
        try:
            from_json(kind, value)
        except ValueError:
            continue
