"""Captions, plan changes and the checks that come before a training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from identity_lock.errors import PromptRefused, TrainingError
from identity_lock.safety import index
from identity_lock.safety.forget import described
from identity_lock.tests.fixtures.tiny_engine import FOUR_PHASES, HOPPER, PERSON, square, tiny_plan
from identity_lock.training.augment import JitterSpec
from identity_lock.training.phases import PAPER_PLAN, adjusted
from identity_lock.training.session import captions_for, train_on
from identity_lock.training.training_set import TrainingImage


def test_one_caption_line_is_for_all_and_several_divide_the_pictures_in_order():
    assert captions_for(" photo of sks person \n\n", 3) == ["photo of sks person"] * 3
    assert captions_for("a\nb", 6) == ["a", "a", "a", "b", "b", "b"]


@pytest.mark.parametrize(("text", "told"), [("\n  \n", "empty"), ("a\nb\nc", "3 caption lines .* 4 training pictures")])
def test_captions_that_do_not_fit_are_refused(text, told):
    with pytest.raises(TrainingError, match=told):
        captions_for(text, 4)


def test_a_plan_that_nothing_is_changed_in_is_the_plan():
    assert adjusted(PAPER_PLAN, steps=(0, 0, 0, 0), probe_prompts=()) is PAPER_PLAN


def test_changes_reach_the_phases_and_are_told_in_the_name():
    plan = adjusted(PAPER_PLAN, steps=(2, 0, 700, 0), rank=16, rate=2.0, batch=3, gradient_checkpointing=False, seed=5)
    assert [p.max_steps for p in plan.phases] == [2, 400, 700, 100]
    assert [p.min_steps for p in plan.phases] == [2, 100, 50, 50]  # never more than the budget
    assert [p.alpha / plan.rank for p in plan.phases] == [p.alpha / PAPER_PLAN.rank for p in PAPER_PLAN.phases]
    assert plan.phases[0].lr == pytest.approx(2e-4)
    assert (plan.batch, plan.gradient_checkpointing, plan.seed) == (3, False, 5)
    assert plan.name == "paper, adjusted" and plan.fingerprint() != PAPER_PLAN.fingerprint()


@pytest.mark.parametrize("change", [{"steps": (-1,)}, {"rank": -1}, {"rate": 0.0}, {"background_weight": 1.5}])
def test_numbers_that_no_training_can_have_are_refused(change):
    with pytest.raises(TrainingError):
        adjusted(PAPER_PLAN, **change)


def pictures(side: int = 96) -> list[TrainingImage]:
    ones = np.ones((side, side), np.float32)
    return [TrainingImage(square(HOPPER, side), ones, ones, "")]


def test_a_training_leaves_its_report_and_plot_and_the_same_one_is_finished_at_once(engine, meters, tmp_path):
    told, folders = [], []

    def folder_for(fingerprint):
        folders.append(fingerprint)
        return tmp_path / fingerprint

    plan = tiny_plan(FOUR_PHASES)
    arguments = (engine, pictures(), ["photo of a zebra person"], meters[0], plan, JitterSpec(copies=1), folder_for)
    outcome = train_on(*arguments, person=PERSON, reporting=meters[1], size=64, on_progress=told.append)
    assert outcome.plot.is_file() and (outcome.folder / "training.json").is_file()
    assert outcome.unknown_words and outcome.unknown_words[0] in outcome.summary()
    assert told[-1].report.losses[-1][0] == plan.max_steps  # whoever draws curves sees the run so far
    again = train_on(*arguments, person=PERSON, reporting=meters[1], size=64, on_progress=told.append)
    assert again.lora.sha256 == outcome.lora.sha256
    assert outcome.lora.metadata["consent"] == PERSON.consent and outcome.lora.metadata["identity_id"] == PERSON.id
    noted = {(made.kind, made.path.name) for made in index.read(PERSON.id).made if outcome.folder in made.path.parents}
    assert noted == {("checkpoint", "training.safetensors"), ("report", "training.json"), ("report", "training.png")}
    assert described(outcome.folder / "training.safetensors") == {"kind": "checkpoint", "id": PERSON.id}
    assert folders[0] == folders[1] and told[-1].step == plan.max_steps


def never(fingerprint):
    raise AssertionError("the training began")


@pytest.mark.parametrize(
    ("caption", "probe", "told"),
    [("photo of a naked person", "a person", "caption"), ("photo of a person", "a nude person", "probe prompt")],
)
def test_refused_words_are_refused_before_any_work(engine, meter, caption, probe, told):
    plan = tiny_plan(FOUR_PHASES)
    plan = replace(plan, identity_probe=replace(plan.identity_probe, prompts=(probe,)))
    with pytest.raises(PromptRefused, match=told):
        train_on(engine, pictures(), [caption], meter, plan, JitterSpec(), never, person=PERSON, size=64)


def test_pictures_that_are_no_squares_and_odd_sizes_are_refused(engine, meter):
    ones = np.ones((64, 96), np.float32)
    wide = [TrainingImage(np.zeros((64, 96, 3), np.uint8), ones, ones, "")]
    rest = (["a person"], meter, tiny_plan(FOUR_PHASES), JitterSpec(), never)
    with pytest.raises(TrainingError, match="96 x 64"):
        train_on(engine, wide, *rest, person=PERSON, size=64)
    with pytest.raises(TrainingError, match="resolution of 65"):
        train_on(engine, pictures(), *rest, person=PERSON, size=65)
