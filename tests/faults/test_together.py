"""Two at once on one folder or one name, in processes of their own: neither clobbers what is the other's."""

from __future__ import annotations

import re

import pytest

from identity_lock.engines.lora_file import read_lora
from identity_lock.errors import RenderError, TrainingError
from identity_lock.rendering import search
from identity_lock.rendering.log import Meters
from identity_lock.rendering.search import SearchSpec, search_seeds
from identity_lock.safety.provenance import read_record
from identity_lock.tests.faults.kills import JOB, check_same, files, results, whole_lines
from identity_lock.tests.fixtures.nursery import Child
from identity_lock.tests.fixtures.tiny_engine import tiny_data, tiny_engine, tiny_plan
from identity_lock.tests.rendering.conftest import RENDER, SIZE
from identity_lock.training import loop
from identity_lock.training.loop import train

TOGETHER = "identity_lock.tests.faults.together"


def test_a_second_run_into_the_same_folder_is_refused_and_the_first_is_not_disturbed(nursery, whole, tmp_path):
    out = str(tmp_path / "out")
    first = nursery.start(JOB, tmp_path / "first.txt", out=out)
    first.wait_for("step 2")
    ending, said = nursery.run(JOB, tmp_path / "second.txt", out=out)
    assert ending == "ended 1"
    (sentence,) = [line for line in said if line.startswith("identity-lock: ")]
    assert f"Another identity-lock (process {first.pid}) works in {out}" in sentence and "--out another" in sentence
    assert first.wait() == "ended 0", first.tail()
    check_same(results(tmp_path / "out"), whole.results)


@pytest.fixture
def held(nursery, tmp_path):
    """Makes another process hold a lock of the folder."""
    children = []

    def hold(name: str) -> Child:
        child = nursery.start(f"{TOGETHER}:hold", tmp_path / "holder.txt", folder=str(tmp_path / "run"), name=name)
        children.append(child)
        child.wait_for("held")
        return child

    (tmp_path / "run").mkdir()
    yield hold
    for child in children:
        if child.ending() is None:
            child.kill()
        assert child.wait() == "killed 9"


def test_a_training_folder_has_one_trainer(held, meter, tmp_path):
    holder, engine = held(loop.LOCK_NAME), tiny_engine()
    with pytest.raises(TrainingError, match=rf"Another trainer \(process {holder.pid}\) is at work in"):
        train(engine, tiny_data(engine), meter, tiny_plan(), tmp_path / "run")
    assert [path.name for path in files(tmp_path / "run")] == [loop.LOCK_NAME]


def test_a_search_folder_has_one_searcher_and_a_lock_of_the_dead_is_taken_over(held, meters, identity, tmp_path):
    holder, engine = held(search.LOCK_NAME), tiny_engine()
    spec = SearchSpec(RENDER, count=1, control=1, batch=1)

    def look():
        return search_seeds(engine, None, identity, Meters(*meters), spec, SIZE, tmp_path / "run")

    with pytest.raises(RenderError, match=rf"Another search \(process {holder.pid}\) is at work in"):
        look()
    holder.kill()
    assert holder.wait() == "killed 9" and (tmp_path / "run" / search.LOCK_NAME).is_file()
    assert len(look().results) == 1 and not (tmp_path / "run" / search.LOCK_NAME).exists()


def at_once(nursery, tmp_path, job: str, processes: int, count: int) -> list[list[str]]:
    """What each of them said."""
    gun = tmp_path / "gun"
    children = [
        nursery.start(
            f"{TOGETHER}:{job}", tmp_path / f"{seed}.txt", folder=str(tmp_path / "folder"), count=count, seed=seed,
            gun=str(gun),
        )
        for seed in range(1, processes + 1)
    ]  # fmt: skip
    for child in children:
        child.wait_for("set")
    gun.touch()
    assert [child.wait() for child in children] == ["ended 0"] * processes, children[0].tail()
    return [child.lines() for child in children]


def test_renders_of_several_processes_get_numbers_and_lines_of_their_own(nursery, tmp_path):
    at_once(nursery, tmp_path, "write_renders", processes=4, count=25)
    pictures = sorted((tmp_path / "folder").glob("*.png"))
    assert [path.name for path in pictures] == [f"render_{number:05d}.png" for number in range(1, 101)]
    lines = whole_lines(tmp_path / "folder" / "renders.jsonl")
    assert sorted(line["file"] for line in lines) == [path.name for path in pictures]
    assert {line["file"]: line["seed"] for line in lines} == {path.name: read_record(path)["seed"] for path in pictures}
    assert [line["seed"] for line in lines].count(3) == 25
    assert len(files(tmp_path / "folder")) == 101  # no temporary, no lock


def test_loras_of_several_processes_under_one_name_are_all_kept(nursery, tmp_path):
    said = at_once(nursery, tmp_path, "save_loras", processes=4, count=6)
    names = [line.split(" ", 1)[1] for lines in said for line in lines if line.startswith("saved")]
    assert len(set(names)) == 24 and all(re.fullmatch(r"anna(_\d+)?\.safetensors", name) for name in names)
    assert len({read_lora(tmp_path / "folder" / name).sha256 for name in names}) == 24
    shared = {line for lines in said for line in lines if line.startswith("shared")}
    assert shared == {"shared shared.safetensors"}  # the same LoRA keeps its file, whoever comes first
    assert len(files(tmp_path / "folder")) == 25
