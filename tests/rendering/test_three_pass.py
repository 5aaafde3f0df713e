"""Three passes: the paper's numbers, one seed throughout, the drift measured truly, and a miss that is not hidden."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from identity_lock.errors import PromptRefused
from identity_lock.rendering.log import RenderLog
from identity_lock.rendering.passes import run_pass
from identity_lock.rendering.three_pass import ThreePassResult, ThreePassSpec, paper_passes, render_three_pass
from identity_lock.safety.provenance import COMPOSITE, read_record, read_source_type

from .conftest import PROMPT, SIZE

SAMPLING = dict(steps=4, sampler="ddim", scheduler="simple")
SEED = 11


def passes(**changes: object) -> ThreePassSpec:
    spec = paper_passes(PROMPT, "photo of a woman, green background", **SAMPLING)
    quiet = dict(cfg=1.5)  # the tiny base is over-guided at the paper's cfg
    spec = replace(
        spec,
        anchor=replace(spec.anchor, **quiet),
        style=replace(spec.style, cfg=1.5, strength=0.0),
        rescue=replace(spec.rescue, **quiet),
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def missed(portrait_engine, lora, identity, both_meters) -> ThreePassResult:
    """A render that must blend, since its lock is out of reach."""
    spec = passes(threshold=0.01)
    weak = replace(spec, anchor=replace(spec.anchor, strength=0.0))
    return render_three_pass(portrait_engine, lora, identity, both_meters, SEED, weak, SIZE)


def test_the_papers_numbers():
    spec = paper_passes("a", "b", "c", steps=9)
    assert [(p.strength, p.cfg) for p in (spec.anchor, spec.style, spec.rescue)] == [
        (1.0, 5.8),
        (0.85, 6.3),
        (0.90, 6.8),
    ]
    assert (spec.blend, spec.threshold) == (0.30, 0.18)
    assert [(p.prompt, p.negative, p.steps) for p in (spec.anchor, spec.style, spec.rescue)] == [
        ("a", "c", 9),
        ("b", "c", 9),
        ("b", "c", 9),
    ]


def test_the_anchor_is_a_plain_render_of_the_seed(missed, portrait_engine, lora):
    spec = replace(passes().anchor, strength=0.0)
    assert np.array_equal(missed.anchor, run_pass(portrait_engine, spec, SEED, SIZE, lora))


def test_drifts_are_those_of_the_pictures(missed, both_meters):
    measure = both_meters.selection.measure_one
    assert missed.anchor_drift.value == measure(missed.anchor).value
    assert missed.rescue.before.value == measure(missed.styled).value
    assert missed.drift.value == measure(missed.final).value <= missed.rescue.before.value
    assert missed.report_before is not None and missed.report_after is not None
    assert missed.report_after.value == both_meters.report(missed.final).value


def test_a_miss_is_returned_and_says_so(missed):
    assert not missed.locked and not missed.record.locked
    assert missed.record.drift == missed.drift.value and missed.record.threshold == 0.01
    assert "ot locked" in missed.record.notes[0]


def test_the_record_names_every_pass_and_model(missed, portrait_engine, lora):
    told = missed.record
    assert list(told.passes) == ["anchor", "style", "rescue"] and told.seed == missed.seed == SEED
    assert told.passes["style"]["prompt"] == "photo of a woman, green background"
    assert told.passes["rescue"]["blend"] == missed.rescue.blend and told.passes["rescue"]["cap"] == 0.30
    assert told.models["base"]["sha256"] == portrait_engine.card.sha256
    assert told.models["lora"]["sha256"] == lora.sha256
    assert (told.recogniser, told.report_recogniser) == ("sface", "dlib")
    assert set(told.seconds) == {"anchor", "style", "rescue"}


def test_a_blend_makes_it_a_composite(missed, tmp_path):
    assert missed.rescue.blend > 0.0 and missed.record.composite
    path = RenderLog(tmp_path).write(missed.final, "a", missed.record)
    assert read_source_type(path) == COMPOSITE and read_record(path)["composite"] is True


def test_a_styled_picture_that_is_locked_is_not_touched(portrait_engine, lora, identity, both_meters):
    spec = passes(threshold=1.0)
    result = render_three_pass(portrait_engine, lora, identity, both_meters, SEED, spec, SIZE)
    assert result.locked and result.final is result.styled
    assert result.record.composite is False and result.rescue.blend == 0.0


def test_an_anchor_may_be_handed_over(missed, portrait_engine, lora, identity, both_meters):
    again = render_three_pass(
        portrait_engine, lora, identity, both_meters, SEED, passes(threshold=0.01), SIZE, anchor=missed.anchor
    )
    assert np.array_equal(again.final, missed.final) and again.drift.value == missed.drift.value


def test_a_scene_without_a_face_is_returned_unblended(lora, identity, both_meters, portrait):
    from identity_lock.tests.fixtures.tiny_engine import tiny_engine

    engine = tiny_engine("epsilon", origin=portrait)  # noise that shows nobody
    spec = passes()
    spec = replace(spec, style=replace(spec.style, face_denoise=None))
    result = render_three_pass(engine, lora, identity, both_meters, SEED, spec, SIZE)
    assert not result.drift.detected and result.drift.value == 1.0 and not result.locked
    assert result.final is result.styled and "no face" in result.record.notes[0]


def test_a_refused_scene_is_refused(portrait_engine, lora, identity, both_meters, missed):
    spec = passes()
    spec = replace(spec, style=replace(spec.style, prompt="caricature of a woman"))
    with pytest.raises(PromptRefused, match="caricature"):
        render_three_pass(portrait_engine, lora, identity, both_meters, SEED, spec, SIZE, anchor=missed.anchor)
