"""The rescue of any picture, with and without a model; renders without a LoRA; names and rungs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from identity_lock.errors import PromptRefused, RenderError
from identity_lock.rendering.log import RenderLog
from identity_lock.rendering.rescue import rescue_picture
from identity_lock.rendering.search import Rung, parse_rungs
from identity_lock.rendering.summary import drift_summary, passes_scored, rescue_notes, rescues_scored, score
from identity_lock.rendering.three_pass import paper_passes, render_three_pass
from identity_lock.rendering.two_pass import TwoPassSpec, render_two_pass

from .conftest import PROMPT, RENDER, SIZE


@pytest.fixture(scope="module")
def worn(portrait):
    """The portrait with something that moves its drift, and sides that no model takes."""
    shifted = np.roll(portrait.astype(int), 40, axis=2) // 2 + portrait.astype(int) // 2
    return np.ascontiguousarray(shifted.clip(0, 255).astype(np.uint8)[:125, :121])


def test_a_picture_of_any_size_is_healed_and_keeps_its_size(worn, portrait, identity, both_meters, portrait_engine):
    healing = replace(RENDER, denoise=0.25)
    done = rescue_picture(
        worn, portrait, identity, both_meters, 5, threshold=0.0, engine=portrait_engine, healing=healing
    )
    assert done.rescue.image.shape == worn.shape
    assert done.record.models["base"]["sha256"] == portrait_engine.card.sha256
    assert done.record.passes["rescue"]["prompt"] == PROMPT
    assert done.report_before is not None and done.record.consent == identity.consent


def test_without_a_model_nothing_is_rendered(worn, portrait, identity, both_meters):
    done = rescue_picture(worn, portrait, identity, both_meters, 5, threshold=0.0)
    assert not done.rescue.healed and done.record.models == {}
    outside = done.rescue.mask == 0.0
    assert (done.rescue.image[outside] == worn[outside]).all()


def test_a_refused_healing_prompt_stops_before_any_blend(worn, portrait, identity, both_meters, portrait_engine):
    healing = replace(RENDER, prompt="a nude person")
    with pytest.raises(PromptRefused):
        rescue_picture(worn, portrait, identity, both_meters, 5, engine=portrait_engine, healing=healing)


def test_renders_need_no_lora_and_name_none(portrait_engine, other_engine, identity, both_meters):
    spec = paper_passes(PROMPT, PROMPT, steps=2, sampler="ddim", scheduler="simple")
    three = render_three_pass(portrait_engine, None, identity, both_meters, 1, spec, SIZE)
    assert set(three.record.models) == {"base"}
    two = render_two_pass(
        portrait_engine, other_engine, None, identity, both_meters, 1,
        TwoPassSpec(spec.anchor, replace(RENDER, steps=2)), (64, 64), anchor=three.anchor,
    )  # fmt: skip
    assert set(two.record.models) == {"base", "style"}
    assert two.image.shape == three.anchor.shape  # an anchor that is given decides the size


def test_what_cannot_be_rendered_is_refused_before_the_first_pass(portrait_engine, identity, both_meters, monkeypatch):
    spec = paper_passes(PROMPT, "a nude person", steps=2, sampler="ddim", scheduler="simple")
    monkeypatch.setattr(type(portrait_engine), "sample", lambda *_: pytest.fail("a pass was rendered"))
    with pytest.raises(PromptRefused, match="scene prompt"):
        render_three_pass(portrait_engine, None, identity, both_meters, 1, spec, SIZE)
    fine = paper_passes(PROMPT, PROMPT, steps=2, sampler="ddim", scheduler="simple")
    small = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(RenderError, match="64 x 64"):
        render_three_pass(portrait_engine, None, identity, both_meters, 1, fine, SIZE, anchor=small)


def test_a_report_tells_each_drift_by_both_recognisers(worn, portrait, identity, both_meters):
    scored = score([portrait, np.zeros((64, 64, 3), np.uint8)], both_meters)
    text = drift_summary(scored, identity, 0.18, ["A note."])
    assert "image 1" in text and "no face" in text and "A note." in text and "one photo" in text
    assert all(name in text for name in (identity.selection, identity.reporting))
    many = drift_summary(scored * 20, identity)
    assert len(many.splitlines()) <= 25 and "24 more" in many
    done = rescue_picture(worn, portrait, identity, both_meters, 5, threshold=0.0)
    assert [row.label for row in rescues_scored([done] * 2)] == ["styled 1", "rescued 1", "styled 2", "rescued 2"]
    assert rescue_notes([done]) == [done.rescue.note] and len(rescue_notes([done] * 9)) == 5


def test_the_passes_are_scored_in_their_order(portrait_engine, identity, both_meters):
    spec = paper_passes(PROMPT, PROMPT, steps=2, sampler="ddim", scheduler="simple")
    result = render_three_pass(portrait_engine, None, identity, both_meters, 1, spec, SIZE)
    assert [row.label for row in passes_scored(result, both_meters)] == ["anchor", "styled", "final"]


def test_names_of_renders_are_never_used_again(tmp_path, worn, portrait, identity, both_meters):
    done = rescue_picture(worn, portrait, identity, both_meters, 5, threshold=0.0)
    log = RenderLog(tmp_path, {"workflow": "{}"})
    first = log.write_next(done.rescue.image, "né (1)", done.record)
    second = log.write_next(done.rescue.image, "né (1)", done.record)
    assert (first.name, second.name) == ("né (1)_00001.png", "né (1)_00002.png")
    second.unlink()
    assert RenderLog(tmp_path).write_next(done.rescue.image, "né (1)", done.record).name == "né (1)_00003.png"
    from PIL import Image

    with Image.open(first) as picture:
        picture.load()
        assert picture.text["workflow"] == "{}" and "identity_lock" in picture.text


def test_rungs_are_read_from_text():
    assert parse_rungs("0.50:0.40, 0.25:0.30,") == (Rung(0.25, 0.30), Rung(0.50, 0.40))
    assert parse_rungs("  ") == ()


@pytest.mark.parametrize("text", ["0.25", "a:b", "0.5:0", "1.0:0.5", "0.5:1.5"])
def test_rungs_that_are_none_are_refused(text):
    with pytest.raises(RenderError, match="rung"):
        parse_rungs(text)
