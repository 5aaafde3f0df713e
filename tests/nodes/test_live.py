"""What live events say: each point once, in the shape that the page draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from identity_lock.nodes import live
from identity_lock.rendering.search import SearchProgress, SeedResult
from identity_lock.training.probes import IdentityCheck
from identity_lock.training.report import PhaseReport, Progress, TrainingReport


def told(report: TrainingReport) -> Progress:
    return Progress(report.steps, report.max_steps, "COARSE", report.steps, 1.0, None, None, report)


def test_a_training_tells_each_point_once_and_not_too_often():
    events, now = [], [0.0]
    feed = live.TrainingFeed(events.append, lambda value, total: None, 10, clock=lambda: now[0])
    report = TrainingReport("paper", 10, phases=[PhaseReport("COARSE", 0)], identity=[IdentityCheck(0, 0.9, 0.5)])
    for step in range(1, 9):
        report.losses.append((step, 1.0 / step))
        now[0] += 0.1
        feed(told(report))
    feed.note("Stopped.")
    assert events[0]["reset"] and events[0]["total"] == 10
    assert not any("reset" in event for event in events[1:])
    assert 3 <= len(events) <= 5
    assert [point for event in events for point in event["loss"]] == [[s, 1.0 / s] for s in range(1, 9)]
    assert [point for event in events for point in event["drift"]] == [[0, 0.9, 0.5]]
    assert events[-1]["phases"] == [["COARSE", 0, None]]
    assert events[-1]["note"] == "Stopped." and feed.where == "at step 8 of 10"


def test_the_history_keeps_whole_curves_thinned():
    report = TrainingReport("paper", 5000, losses=[(step, 0.5) for step in range(1, 5001)])
    data = live.training_output(report, "Done.")
    assert len(data["loss"]) == live.POINTS
    assert data["loss"][0][0] == 1 and data["loss"][-1][0] == 5000
    assert data["final"] and data["report"] == "Done." and data["kind"] == "training"


def test_thinning_leaves_short_curves_alone():
    assert live.thin([1, 2, 3], 3) == [1, 2, 3]
    assert live.thin(list(range(101)), 5) == [0, 25, 50, 75, 100]


def seed(number: int, drift: float | None, detected: bool = True) -> SeedResult:
    file = None if drift is None else f"seed_{number}.png"
    return SeedResult(number, drift, detected, None, (), None if drift is not None else 0, False, file)


def test_a_search_tells_finished_seeds_with_their_files(tmp_path: Path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "seed_2.png")
    events, shown = [], []
    feed = live.SearchFeed(
        events.append, lambda done, total, preview: shown.append((done, preview)), tmp_path, 4, 0.18,
        entry=lambda path: {"filename": path.name},
    )  # fmt: skip
    feed(SearchProgress(2, 4, None, (seed(1, None), seed(2, 0.1))))
    feed(SearchProgress(3, 4, None, (seed(2**63, None),)))
    assert events[0]["reset"] and events[0]["results"] == []
    (only,) = events[1]["results"]
    assert (only["seed"], only["drift"], only["locked"], only["file"]) == (2, 0.1, True, {"filename": "seed_2.png"})
    assert [event["pruned"] for event in events] == [0, 1, 2]
    assert shown[0][1].shape == (8, 8, 3) and shown[1] == (3, None)
    assert feed.where == "after 3 of 4 seeds"


def test_seeds_beyond_a_browsers_numbers_travel_as_text(tmp_path: Path):
    rows = live._seeds([seed(2**63, 1.0, detected=False)], tmp_path, 1.5, lambda path: {})
    assert rows[0]["seed"] == str(2**63)
    assert rows[0]["locked"] is False  # no face is never locked
