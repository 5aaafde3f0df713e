"""Journals: what was appended is there, a kill costs one line, and a damage is named by its number."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from identity_lock.errors import OutputError
from identity_lock.safety.json_lines import JournalDamaged, append_records, keep_lines, read_lines

from .test_untrusted import PLAIN

RECORDS = st.lists(st.dictionaries(st.text(max_size=5), PLAIN, max_size=4), min_size=1, max_size=6)
REMEDY = "delete that line, or give another folder"
in_a_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


def lines_of(path: Path) -> list[dict]:
    return list(read_lines(path, REMEDY))


@in_a_folder
@given(RECORDS, st.data())
def test_a_cut_at_any_byte_costs_the_lines_behind_it_and_nothing_else(tmp_path: Path, records, data):
    path = tmp_path / "a.jsonl"
    path.unlink(missing_ok=True)
    for record in records:
        append_records(path, [record])
    assert lines_of(path) == records
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    kept = whole[:cut].count(b"\n")
    assert lines_of(path) == records[:kept]
    append_records(path, [{"and": "on"}])  # what was torn does not run into it
    assert lines_of(path) == [*records[:kept], {"and": "on"}]


@in_a_folder
@given(RECORDS, st.integers(0, 6))
def test_the_first_lines_can_be_kept(tmp_path: Path, records, count):
    path = tmp_path / "a.jsonl"
    append_records(path, records, fresh=True)
    keep_lines(path, min(count, len(records)))
    assert lines_of(path) == records[:count]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{]", "Expecting"), (b"[]", "no JSON object"), (b"null", "no JSON object"), (b"", "Expecting value"),
        (b'{"a": NaN}', "finite"), (b'{"a": 1, "a": 1}', "twice"), (b"[" * 100_000, "nested"), (b"\xff", "UTF-8"),
        (bytes(4096), "Expecting value"), (b"{" + b" " * (1 << 20) + b"}", "longer than 1 MiB"),
    ],
)  # fmt: skip
def test_a_damaged_line_is_refused_by_file_number_and_remedy(tmp_path: Path, line, why):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"b": 2}\n')
    read = read_lines(path, REMEDY)
    assert next(read) == {"a": 1}
    with pytest.raises(JournalDamaged, match=rf"Line 2 of .*a\.jsonl cannot be read \(.*{why}.*\); {REMEDY}\.$"):
        next(read)


def test_there_is_no_line_where_there_is_no_file(tmp_path: Path):
    assert lines_of(tmp_path / "none.jsonl") == []


def test_a_journal_is_a_file_of_its_own(tmp_path: Path):
    (tmp_path / "elsewhere").write_text("keep me")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    for name in ("link", "pipe", "dangling"):
        with pytest.raises(JournalDamaged, match="link to another place|no regular file"):
            lines_of(tmp_path / name)
        with pytest.raises(OutputError):
            append_records(tmp_path / name, [{"a": 1}])
    assert (tmp_path / "elsewhere").read_text() == "keep me" and not (tmp_path / "gone").exists()


def test_where_the_disk_is_full_nothing_of_a_batch_stays(tmp_path: Path, monkeypatch):
    path = tmp_path / "a.jsonl"
    append_records(path, [{"a": 1}])

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"a\.jsonl cannot be written \(No space left.*free some space"):
            append_records(path, [{"b": 2}, {"c": 3}])
    append_records(path, [{"d": 4}])
    assert lines_of(path) == [{"a": 1}, {"d": 4}]


def test_half_a_character_is_written_in_a_way_that_can_be_read(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    append_records(path, [{"a": "Zoë"}, {"a": "x\udcff"}])
    assert "Zoë" in path.read_text(encoding="utf-8") and json.loads(path.read_bytes().split(b"\n")[1])["a"] == "x\udcff"


def test_what_json_cannot_hold_is_not_half_written(tmp_path: Path):
    for value in (float("nan"), object()):
        with pytest.raises(OutputError, match="cannot be written as JSON"):
            append_records(tmp_path / "a.jsonl", [{"a": 1}, {"b": value}])
    assert not (tmp_path / "a.jsonl").exists()
