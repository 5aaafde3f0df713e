"""A server that means harm writes nothing beside the job's folder, and costs its own job only."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity_lock.comfy_client import server as client
from identity_lock.comfy_client.follow import local_names
from identity_lock.comfy_client.graph import Graph
from identity_lock.comfy_client.lock import LOCK_NAME
from identity_lock.comfy_client.outcome import read_outcome
from identity_lock.comfy_client.server import ServerFile
from identity_lock.errors import OutputError
from identity_lock.safety.files import resolve_inside
from identity_lock.safety.provenance import RECORD_KEY, write_png
from identity_lock.tests.fuzz import hostile_server

GRAPH = Graph("graph.json", hostile_server.GRAPH)
TEXT = st.text(max_size=30) | st.sampled_from(["", "..", "a.png", "A.PNG", "x/a.png", "..\\\\a.png", "output__a.png"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_subnormal=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(st.lists(st.builds(ServerFile, TEXT, TEXT, st.sampled_from(["output", "temp"])), max_size=12, unique=True))
def test_names_for_one_folder_are_all_different_and_stay_in_it(files):
    names = local_names(tuple(files))
    assert len({name.casefold() for name in names.values()}) == len(files)
    for name in names.values():
        try:
            place = resolve_inside("/somewhere/job", name)
        except OutputError:
            continue
        assert place.parent == Path("/somewhere/job")


@given(st.dictionaries(st.sampled_from(["status", "outputs"]), ANYTHING) | st.builds(
    lambda held, messages: {"outputs": {"2": held}, "status": {"completed": False, "messages": messages}},
    st.dictionaries(st.sampled_from(["images", "identity_lock"]), ANYTHING), ANYTHING,
))  # fmt: skip
def test_any_history_becomes_an_outcome(entry):
    told = read_outcome(GRAPH, entry)
    assert isinstance(told.drift, str) and (told.seconds is None or told.seconds == told.seconds)


def talk(tmp_path: Path, **answers: object) -> list[dict]:
    """What the journal says after a job on a server with these answers."""
    path = hostile_server.script(**answers).write(tmp_path)
    hostile_server.talk(path, tmp_path)
    return [json.loads(line) for line in (tmp_path / "out" / "queue.jsonl").read_text().splitlines()]


def outputs(*names: str) -> dict:
    images = [{"filename": name, "subfolder": "", "type": "output"} for name in names]
    return {"$PROMPT": {"outputs": {"2": {"images": images}}, "status": {"completed": True}}}


@pytest.mark.parametrize("name", ["..", "a\0b.png", "con.png", "C:x.png", "n" * 300, "x/.."])
def test_a_name_that_is_none_fails_its_job_in_words(tmp_path, name):
    told = talk(tmp_path, history=outputs("good.png", name))
    assert told[-1]["event"] == "failed" and "a name that is not taken" in told[-1]["reason"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["queue.jsonl"]


def test_a_name_with_folders_is_taken_without_them(tmp_path):
    told = talk(tmp_path, history=outputs("../../../x.png", "/etc/y.png"))
    assert told[-1]["files"] == [f"{told[-1]['job']}/x.png", f"{told[-1]['job']}/y.png"]
    assert not (tmp_path.parent / "x.png").exists()


@pytest.mark.parametrize("told", ["../../x", "\ud800", 5, ["a"]])
def test_a_picture_that_says_it_is_nobodys_is_fetched_all_the_same(tmp_path, told):
    """Whose it is decides where the index notes it, and no index is called that."""
    write_png(np.zeros((8, 8, 3), np.uint8), tmp_path / "a.png", None, composite=False,
              text={RECORD_KEY: json.dumps({"identity_id": told})})  # fmt: skip
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").unlink()
    said = talk(tmp_path, history=outputs("a.png"), **{"view.bin": content})
    assert said[-1]["event"] == "done" and len(list((tmp_path / "out").rglob("*.png"))) == 1


def test_an_answer_above_the_limit_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(client, "MAX_ANSWER", 1000)
    told = talk(tmp_path, prompt=b" " * 5000)
    assert told[-1]["event"] == "failed" and "answered with more than" in told[-1]["reason"]


def test_a_file_above_the_limit_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(client, "MAX_FILE", 10)
    told = talk(tmp_path, history=outputs("a.png"))
    assert told[-1]["event"] == "failed" and not list((tmp_path / "out").rglob("*.png"))


def test_what_a_server_packs_is_not_unpacked(tmp_path):
    packed = zlib.compress(json.dumps({"prompt_id": "$PROMPT"}).encode())
    told = talk(tmp_path, prompt=packed, headers={"prompt.json": {"Content-Encoding": "deflate"}})
    assert told[-1]["event"] == "failed" and "is no ComfyUI" in told[-1]["reason"]


def test_an_id_that_would_lead_to_another_address_is_refused(tmp_path):
    told = talk(tmp_path, prompt={"prompt_id": "../queue"})
    assert told[-1]["event"] == "failed" and "is no ComfyUI" in told[-1]["reason"]


def test_what_a_server_says_cannot_command_the_terminal(tmp_path):
    failed = json.loads(json.dumps(hostile_server.FAILED))
    failed["$PROMPT"]["status"]["messages"][1][1]["exception_message"] = "\x1b[2J\x1b]0;owned\x07 " + "x" * 5000
    told = talk(tmp_path, history=failed)
    assert told[-1]["reason"].isprintable() and len(told[-1]["reason"]) < 1500


@pytest.mark.parametrize("name", [LOCK_NAME, "queue.jsonl"])
def test_a_link_in_the_folder_is_not_written_through(queue, tmp_path, name):
    (tmp_path / "mine").write_text("keep me")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(tmp_path / "mine")
    code, _, said = queue()
    assert code in (1, 2) and "Traceback" not in said and (tmp_path / "mine").read_text() == "keep me"


@pytest.mark.parametrize(
    "change", [{"job": "../x"}, {"job": "/x"}, {"files": ["../../x"]}, {"seconds": "2"}, {"event": "x"}]
)
def test_a_journal_that_was_changed_is_refused_by_line(queue, tmp_path, change):
    queue()
    path = tmp_path / "out" / "queue.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines[:-1], lines[-1] | change]))
    code, _, said = queue()
    assert code == 2 and f"Line {len(lines)} of" in said and "delete that line" in said
