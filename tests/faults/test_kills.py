"""Five of the kills of `make faults`, always the same ones, and that its checks see what they look for."""

from __future__ import annotations

import json
import random

import pytest

from identity_lock.tests.faults.kills import (
    STAGES,
    check_same,
    check_steps,
    check_untouched,
    check_whole,
    drawn,
    finished_pictures,
    kill_and_go_on,
    results,
)

KILLS, SEED = 5, 2


@pytest.mark.parametrize("number", range(KILLS))
def test_killed_anywhere_it_goes_on_to_the_same_results(nursery, whole, tmp_path, number):
    point = drawn(whole.points, KILLS, random.Random(SEED))[number]
    again_at = 40 if number == KILLS - 1 else 0
    kill_and_go_on(nursery, tmp_path, point, whole, again_at=again_at)


def test_the_points_lie_in_every_stage_and_in_every_kind_of_write(whole):
    assert {point.stage for point in whole.points} >= set(STAGES)
    assert {point.kind for point in whole.points} >= {
        "open", "os.rename", "os.remove", "flush", "half a file", "half a line", "forward", "step",
    }  # fmt: skip
    fifty = drawn(whole.points, 50, random.Random(0))
    by_stage = [point.stage for point in fifty]
    assert min(by_stage.count("train"), by_stage.count("search"), by_stage.count("three_pass")) >= 10
    assert len({point.number for point in fifty}) > 40


def test_the_checks_see_torn_files_work_done_twice_and_other_results(nursery, whole, tmp_path):
    """The same run, spoilt by hand in each of the ways that a kill could."""
    from identity_lock.tests.faults.kills import JOB

    out = tmp_path / "out"
    assert nursery.run(JOB, tmp_path / "said.txt", out=str(out))[0] == "ended 0"
    check_whole(out)
    check_same(results(out), whole.results)
    finished = finished_pictures(out)
    assert len(finished) >= 2 + 9 + 4 + 3  # untrained, seeds, renders, passes

    log = out / "renders" / "renders.jsonl"
    lines = log.read_text()
    log.write_text(lines + lines.splitlines()[0] + "\n")
    with pytest.raises(AssertionError, match=r"renders.jsonl came out differently:  has 5 entries and not 4"):
        check_same(results(out), whole.results)
    log.write_text(lines)

    lora = out / "lora.safetensors"
    content = lora.read_bytes()
    lora.write_bytes(content[:-1])
    with pytest.raises(AssertionError, match="lora.safetensors is torn"):
        check_whole(out)
    lora.write_bytes(content[:-4] + b"\0\0\0\1")
    with pytest.raises(AssertionError, match="lora.safetensors came out differently"):
        check_same(results(out), whole.results)
    lora.write_bytes(content)

    picture = out / "renders" / "passes" / "anchor.png"
    picture.write_bytes(picture.read_bytes())
    with pytest.raises(AssertionError, match="anchor.png was finished, and was made again"):
        check_untouched(out, finished)
    (out / "seeds" / ".seed_1.png.0123abcd.tmp").touch()
    with pytest.raises((AssertionError, ValueError)):
        check_same(results(out), whole.results)
    with pytest.raises(AssertionError, match="6 training steps were lost"):
        check_steps(10, [5, 6])
    assert json.loads((out / "run.json").read_text())["seeds"]["looked_at"] == 12
