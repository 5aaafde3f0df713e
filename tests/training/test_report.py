"""The report: what a person reads after a run, and what a program reads."""

import errno
import json

import pytest
from PIL import Image

from identity_lock.errors import OutputError
from identity_lock.tests.fixtures.tiny_engine import FOUR_PHASES, tiny_data, tiny_engine, tiny_plan
from identity_lock.training.loop import train
from identity_lock.training.probes import IdentityCheck
from identity_lock.training.report import PhaseReport, TrainingReport


@pytest.fixture(scope="module")
def run(meters, tmp_path_factory):
    engine = tiny_engine()
    folder = tmp_path_factory.mktemp("run")
    return train(engine, tiny_data(engine), meters[0], tiny_plan(), folder, reporting=meters[1])


def test_the_summary_tells_each_phase_and_what_was_kept(run):
    lora, report = run
    lines = report.summary().splitlines()
    for line, spec in zip(lines, FOUR_PHASES, strict=False):
        assert line.startswith(f"{spec.name}: ") and "4 steps, ended because the budget of steps was used" in line
        assert "weights moved by" in line and "probe drift" in line
    assert f"Kept: the weights of step {report.best_step} of 16" in lines[4]
    assert report.lora_sha256 == lora.sha256


def test_the_json_goes_back_into_the_same_report(run, tmp_path):
    _, report = run
    report.write_json(tmp_path / "training.json")
    again = TrainingReport.from_json(json.loads((tmp_path / "training.json").read_text()))
    assert again == report
    assert [check.step for check in again.identity] == [0, 4, 8, 12, 16]
    assert again.identity[0].report_drift is not None


def test_the_plot_is_a_picture(run, tmp_path):
    run[1].plot(tmp_path / "training.png")
    with Image.open(tmp_path / "training.png") as picture:
        assert picture.format == "PNG" and picture.width > 600
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 50


def test_a_run_that_has_only_begun_can_be_shown_too(tmp_path):
    report = TrainingReport.empty("tiny", 16)
    assert report.steps == 0 and "step 0 of 0" in report.summary()
    report.identity.append(IdentityCheck(0, 0.9, 1.0))
    report.plot(tmp_path / "empty.png")
    assert (tmp_path / "empty.png").stat().st_size > 1000


@pytest.mark.parametrize("moved, told", [(0.0, True), (9e-7, True), (2e-6, False)])
def test_a_phase_that_moved_next_to_nothing_says_so(moved, told):
    phase = PhaseReport("FINAL_FINE", 12)
    phase.end(16, "the budget of steps was used", drift=0.5, moved=moved, total=0.1)
    assert ("next to nothing" in phase.sentence) == told


def test_a_full_disk_leaves_no_half_report(run, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for write, name in ((run[1].write_json, "training.json"), (run[1].plot, "training.png")):
        with pytest.raises(OutputError, match=name):
            write(tmp_path / name)
    assert list(tmp_path.iterdir()) == []
