"""The render log: one line a render, the same record in the picture, and what kind of picture it says it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from identity_lock.errors import OutputError
from identity_lock.identity.drift import Drift
from identity_lock.rendering import log as log_module
from identity_lock.rendering.log import RenderLog, RenderRecord, outcome, versions
from identity_lock.safety.json_lines import JournalDamaged
from identity_lock.safety.provenance import COMPOSITE, GENERATED, read_record, read_source_type

from .conftest import RENDER

PICTURE = np.full((64, 96, 3), 90, np.uint8)


def record(seed: int = 5, *, composite: bool = False, drift: float = 0.25, detected: bool = True) -> RenderRecord:
    measured = Drift(drift, object() if detected else None, "sface")  # type: ignore[arg-type]
    return RenderRecord(
        kind="three_pass",
        seed=seed,
        passes={"anchor": RENDER.describe()},
        models={"base": {"name": "tiny", "sha256": "ab" * 32}},
        identity="Grace",
        identity_id="0123456789abcdef",
        consent="She agreed to these pictures.",
        composite=composite,
        **outcome(measured, None),
    )


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "renders.jsonl").read_text().splitlines()]


def test_a_line_a_render_and_the_same_record_in_the_picture(tmp_path):
    log = RenderLog(tmp_path / "new" / "folder")
    paths = [log.write(PICTURE, f"picture {seed}", record(seed)) for seed in (1, 2, 3)]
    lines = lines_of(log.folder)
    assert [line.pop("file") for line in lines] == [path.name for path in paths]
    for path, line in zip(paths, lines, strict=True):
        written = asdict(record(line["seed"])) | {"made": line["made"]}
        assert read_record(path) == line == json.loads(json.dumps(written))


def test_the_record_says_what_was_asked_for_and_with_what(tmp_path):
    told = read_record(RenderLog(tmp_path).write(PICTURE, "a", record()))
    assert told["passes"]["anchor"] == RENDER.describe()
    assert told["models"]["base"]["sha256"] == "ab" * 32
    assert told["consent"] == "She agreed to these pictures." and told["space"] == "raw cosine"
    assert told["versions"]["python"] and told["versions"]["torch"] == versions()["torch"]


@pytest.mark.parametrize(("composite", "kind"), [(False, GENERATED), (True, COMPOSITE)])
def test_a_blended_picture_is_declared_a_composite(tmp_path, composite, kind):
    path = RenderLog(tmp_path).write(PICTURE, "a", record(composite=composite))
    assert read_source_type(path) == kind
    assert read_record(path)["composite"] is composite


@pytest.mark.parametrize(
    ("drift", "detected", "locked"),
    [(0.18, True, True), (0.1801, True, False), (1.0, False, False), (0.0, False, False)],
)
def test_the_lock_is_at_the_papers_threshold_and_needs_a_face(drift, detected, locked):
    told = record(drift=drift, detected=detected)
    assert (told.locked, told.threshold, told.detected) == (locked, 0.18, detected)


def test_a_second_log_in_the_folder_appends(tmp_path):
    for seed in (1, 2):
        RenderLog(tmp_path).write(PICTURE, str(seed), record(seed))
    assert [line["seed"] for line in lines_of(tmp_path)] == [1, 2]


@pytest.fixture
def restart(monkeypatch) -> Callable[[], None]:
    """As after a kill: nothing is left in memory of what was written."""
    return lambda: monkeypatch.setattr(log_module, "_claimed", set())


def test_a_render_that_comes_again_is_not_written_twice(tmp_path, restart):
    """A server died after it had written the picture, and before anybody knew; the job is queued again."""
    log = RenderLog(tmp_path)
    first = log.write_next(PICTURE, "render", record(7))
    before = first.read_bytes()
    restart()
    later = replace(record(7), seconds={"anchor": 9.9}, made="2031-01-01T00:00:00+00:00")
    assert RenderLog(tmp_path).write_next(PICTURE, "render", later) == first
    assert first.read_bytes() == before and len(lines_of(tmp_path)) == 1


def test_two_alike_in_one_batch_are_two_pictures_and_come_again_as_two(tmp_path, restart):
    def batch() -> list[str]:
        return [RenderLog(tmp_path).write_next(PICTURE, "render", record(7)).name for _ in range(2)]

    assert batch() == ["render_00001.png", "render_00002.png"]
    restart()
    assert batch() == ["render_00001.png", "render_00002.png"] and len(lines_of(tmp_path)) == 2
    assert batch() == ["render_00003.png", "render_00004.png"]


def test_another_render_of_the_same_seed_gets_a_name_of_its_own(tmp_path, restart):
    log = RenderLog(tmp_path)
    log.write_next(PICTURE, "render", record(7))
    restart()
    other = PICTURE.copy()
    other[3, 4, 1] += 1
    paths = [
        log.write_next(other, "render", record(7)),
        log.write_next(PICTURE, "render", record(8)),
        log.write_next(PICTURE, "render", replace(record(7), models={"base": {"name": "tiny", "sha256": "cd" * 32}})),
        log.write_next(PICTURE, "another", record(7)),
    ]
    assert [path.name for path in paths] == ["render_00002.png", "render_00003.png", "render_00004.png",
                                             "another_00001.png"]  # fmt: skip
    assert [line["file"] for line in lines_of(tmp_path)] == ["render_00001.png", *(path.name for path in paths)]


def test_a_picture_that_a_kill_left_without_its_line_gets_it(tmp_path, restart):
    log = RenderLog(tmp_path)
    path = log.write_next(PICTURE, "render", record(7))
    restart()
    (tmp_path / "renders.jsonl").unlink()
    assert log.write_next(PICTURE, "render", record(7)) == path
    assert [told["file"] for told in lines_of(tmp_path)] == [path.name] and lines_of(tmp_path)[0]["seed"] == 7
    assert read_record(path) | {"file": path.name} == lines_of(tmp_path)[0]


def test_a_damaged_picture_is_left_and_the_render_written_beside_it(tmp_path, restart):
    log = RenderLog(tmp_path)
    path = log.write_next(PICTURE, "render", record(7))
    restart()
    path.write_bytes(path.read_bytes()[:-40])
    assert log.write_next(PICTURE, "render", record(7)).name == "render_00002.png"


def test_a_folder_below_a_file_is_refused_by_name(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"file.*out.*give one that you may write"):
        RenderLog(tmp_path / "file" / "out")


def test_a_full_disk_is_said_in_words(tmp_path, full_disk):
    log = RenderLog(tmp_path)
    log.write(PICTURE, "a", record())
    whole = (tmp_path / "renders.jsonl").read_bytes()
    full_disk(tmp_path / "renders.jsonl")
    with pytest.raises(OutputError, match=r"No space left.*free some space"):
        log.write(PICTURE, "b", record())
    assert (tmp_path / "renders.jsonl").read_bytes() == whole and not list(tmp_path.glob(".*"))


def test_a_damaged_log_is_refused_before_anything_is_rendered(tmp_path):
    RenderLog(tmp_path).write(PICTURE, "a", record())
    with open(tmp_path / "renders.jsonl", "ab") as lines:
        lines.write(b"{]\n")
    with pytest.raises(JournalDamaged, match=r"Line 2 of .*renders\.jsonl cannot be read .*move the log away"):
        RenderLog(tmp_path)


def test_a_line_that_a_kill_cut_short_is_dropped_and_spoils_no_other(tmp_path):
    for seed in (1, 2):
        RenderLog(tmp_path).write(PICTURE, str(seed), record(seed))
        with open(tmp_path / "renders.jsonl", "ab") as lines:
            lines.write(b'{"file": "half')
    RenderLog(tmp_path).write(PICTURE, "3", record(3))
    assert [line["seed"] for line in lines_of(tmp_path)] == [1, 2, 3]


def test_a_log_that_is_a_link_is_not_written_through(tmp_path):
    (tmp_path / "elsewhere").write_text("keep me\n")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "renders.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(JournalDamaged, match="is a link to another place"):
        RenderLog(tmp_path / "logs")
    assert (tmp_path / "elsewhere").read_text() == "keep me\n"


def test_half_a_line_that_a_kill_left_is_no_line(tmp_path, restart):
    """Neither for the picture that it is of nor for the one that comes next."""
    log = RenderLog(tmp_path)
    path = log.write_next(PICTURE, "render", record(7))
    lines = tmp_path / "renders.jsonl"
    lines.write_text(lines.read_text()[:-30])
    restart()
    assert log.write_next(PICTURE, "render", record(8)).name == "render_00002.png"
    assert [told["file"] for told in lines_of(tmp_path)] == ["render_00001.png", "render_00002.png"]
    assert {"file": path.name, **read_record(path)} == lines_of(tmp_path)[0]


def test_the_same_render_written_again_keeps_its_line_and_another_one_adds_its_own(tmp_path):
    log = RenderLog(tmp_path)
    first = record(7)
    path = log.write(PICTURE, "scene", first)
    before = lines_of(tmp_path)
    log.write(PICTURE, "scene", replace(first, made="2030-01-01T00:00:00+00:00", seconds={"anchor": 9.0}))
    assert lines_of(tmp_path) == before and {"file": path.name, **read_record(path)} == before[0]
    log.write(PICTURE, "scene", record(8))
    assert [told["seed"] for told in lines_of(tmp_path)] == [7, 8] and read_record(path)["seed"] == 8
