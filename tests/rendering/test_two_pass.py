"""Two passes: pixels go from the adapted base to another one, of another size even, and the drift is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from identity_lock.rendering.log import RenderLog
from identity_lock.rendering.passes import run_pass
from identity_lock.rendering.two_pass import TwoPassResult, TwoPassSpec, render_two_pass
from identity_lock.safety.provenance import GENERATED, read_record, read_source_type
from identity_lock.tests.fixtures.tiny_engine import tiny_engine

from .conftest import RENDER, SIZE, render_with

SPEC = TwoPassSpec(
    anchor=render_with(strength=0.0),
    style=render_with(prompt="photo of a woman, blue background", denoise=0.5, face_denoise=0.2),
)
SEED = 21


@pytest.fixture(scope="module")
def result(portrait_engine, other_engine, lora, identity, both_meters) -> TwoPassResult:
    return render_two_pass(portrait_engine, other_engine, lora, identity, both_meters, SEED, SPEC, SIZE)


def test_the_anchor_is_the_first_bases_own(result, portrait_engine, lora):
    assert np.array_equal(result.anchor, run_pass(portrait_engine, SPEC.anchor, SEED, SIZE, lora))


def test_the_second_base_makes_the_picture(result, portrait_engine, other_engine, lora, identity, both_meters):
    assert portrait_engine.card.sha256 != other_engine.card.sha256
    same = render_two_pass(portrait_engine, portrait_engine, lora, identity, both_meters, SEED, SPEC, SIZE)
    assert not np.array_equal(result.image, same.image) and np.array_equal(result.anchor, same.anchor)


def test_less_denoise_stays_nearer_to_the_anchor(result, portrait_engine, other_engine, lora, identity, both_meters):
    def distance(denoise: float) -> float:
        style = replace(SPEC.style, denoise=denoise, face_denoise=None)
        made = render_two_pass(
            portrait_engine, other_engine, lora, identity, both_meters, SEED, replace(SPEC, style=style), SIZE,
            anchor=result.anchor,
        )  # fmt: skip
        return float(np.abs(made.image.astype(float) - result.anchor).mean())

    assert distance(0.1) < distance(1.0)


def test_drift_and_record(result, both_meters, portrait_engine, other_engine, lora, tmp_path):
    assert result.drift.value == both_meters.selection.measure_one(result.image).value
    assert result.report is not None and result.report.value == both_meters.report(result.image).value
    assert result.locked == (result.drift.value <= 0.18) == result.record.locked
    models = result.record.models
    assert models["base"]["sha256"] == portrait_engine.card.sha256
    assert models["style"]["sha256"] == other_engine.card.sha256 and models["lora"]["sha256"] == lora.sha256
    assert list(result.record.passes) == ["anchor", "style"]
    path = RenderLog(tmp_path).write(result.image, "two", result.record)
    assert read_record(path)["kind"] == "two_pass" and read_source_type(path) == GENERATED


def test_the_second_base_may_have_another_size(result, portrait_engine, lora, identity, both_meters):
    larger = tiny_engine(seed=7)
    made = render_two_pass(
        portrait_engine, larger, lora, identity, both_meters, SEED, SPEC, SIZE, (192, 192), anchor=result.anchor
    )
    assert made.anchor.shape == (128, 128, 3) and made.image.shape == (192, 192, 3)


def test_a_refused_prompt_is_refused_in_the_second_pass_too(
    result, portrait_engine, other_engine, lora, identity, both_meters
):
    from identity_lock.errors import PromptRefused

    spec = replace(SPEC, style=replace(RENDER, prompt="cartoon of a woman"))
    with pytest.raises(PromptRefused, match="cartoon"):
        render_two_pass(
            portrait_engine, other_engine, lora, identity, both_meters, SEED, spec, SIZE, anchor=result.anchor
        )
