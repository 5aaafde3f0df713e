"""A clock that runs backwards, in a run and from one run to the next, changes nothing but the times written down."""

from __future__ import annotations

import json

from identity_lock.tests.faults.kills import JOB, check_same, results


def test_a_clock_that_runs_backwards_changes_no_result(nursery, whole, tmp_path):
    out = tmp_path / "out"
    point = next(p for p in whole.points if p.stage == "three_pass" and p.kind == "half a line")
    for die_at, ends in ((point.number, "killed 9"), (0, "ended 0")):
        ending, said = nursery.run(
            JOB, tmp_path / "said.txt", out=str(out), die_at=die_at, clock_runs_backwards=True
        )
        assert ending == ends, "\n".join(said[-30:])
    made = [json.loads(line)["made"] for line in (out / "seeds" / "renders.jsonl").read_text().splitlines()]
    assert made == sorted(made, reverse=True) and len(set(made)) > 1  # the clock did run backwards
    check_same(results(out), whole.results)
