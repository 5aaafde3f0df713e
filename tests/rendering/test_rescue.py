"""The rescue blend, on a real photo and versions of it that a style pass might have made, by the real recogniser."""

from __future__ import annotations

import numpy as np
import pytest

from identity_lock.errors import RenderError
from identity_lock.identity.drift import LOCK_THRESHOLD, DriftMeter, FaceReader
from identity_lock.rendering.rescue import STEPS, rescue_blend, within


@pytest.fixture(scope="module")
def meter(both_meters, portrait) -> DriftMeter:
    """Drift from the portrait crop itself, so that the anchor is a perfect one."""
    reader: FaceReader = both_meters.selection.reader
    embedding = reader.read(portrait).embedding
    assert embedding is not None
    return DriftMeter(embedding, reader)


def relit(pixels: np.ndarray, amount: float = 0.75) -> np.ndarray:
    """Light from one side, warm: what a style pass does to a scene."""
    side = np.linspace(1.0 + amount, 1.0 - amount, pixels.shape[1])[None, :, None]
    return np.clip(pixels * side * np.array([1.1, 1.0, 0.8]), 0, 255).astype(np.uint8)


def blurred(pixels: np.ndarray, sigma: float) -> np.ndarray:
    import cv2

    return cv2.GaussianBlur(pixels, (0, 0), sigma)


@pytest.fixture(scope="module")
def missed(portrait, meter) -> np.ndarray:
    """A version of the portrait whose drift is above the lock, but not far."""
    for sigma in np.arange(1.0, 6.0, 0.2):
        picture = blurred(relit(portrait), float(sigma))
        drift = meter.measure_one(picture)
        if drift.detected and LOCK_THRESHOLD + 0.02 < drift.value < 0.5:
            return picture
    raise AssertionError("no blur brings the drift just above the lock")


def test_outside_the_mask_not_one_bit_changes(missed, portrait, meter):
    result = rescue_blend(missed, portrait, meter, threshold=0.0)
    assert result.blend > 0.0 and (result.mask > 0).any()
    assert np.array_equal(result.image[result.mask == 0], missed[result.mask == 0])
    assert not np.array_equal(result.image, missed)


def test_it_lowers_the_drift_and_measures_it_truly(missed, portrait, meter):
    result = rescue_blend(missed, portrait, meter)
    assert result.after.value < result.before.value == meter.measure_one(missed).value
    assert result.after.value == meter.measure_one(result.image).value


def test_what_is_locked_already_comes_back_as_it_is(portrait, meter):
    styled = relit(portrait, 0.1)
    assert meter.measure_one(styled).locked()
    result = rescue_blend(styled, blurred(portrait, 2.0), meter)
    assert result.image is styled and result.blend == 0.0 and not result.healed and not result.mask.any()
    assert "locked already" in result.note


def test_the_smallest_blend_that_reaches_the_lock_is_taken(missed, portrait, meter):
    full = [rescue_blend(missed, portrait, meter, cap=0.3 * (i + 1) / STEPS, threshold=0.0) for i in range(STEPS)]
    reached = [result.after.value for result in full]
    threshold = (min(reached) + reached[0]) / 2  # out of reach of the first blends, within that of a later one
    assert reached[0] > threshold
    result = rescue_blend(missed, portrait, meter, threshold=threshold)
    assert result.after.locked(threshold) and f"Locked at a blend of {result.blend:.0%}" in result.note
    assert 0.05 < result.blend <= 0.30
    step = 0.30 / STEPS
    less = rescue_blend(missed, portrait, meter, cap=result.blend - step + 1e-9, threshold=threshold)
    assert not less.after.locked(threshold) and "Not locked" in less.note


@pytest.mark.parametrize("cap", [0.0, -0.1, 0.31, 1.0, float("nan")])
def test_the_cap_is_the_papers_thirty_percent(missed, portrait, meter, cap):
    with pytest.raises(RenderError, match=r"blend cap .* out of range; give a value above 0 and up to 0.30"):
        rescue_blend(missed, portrait, meter, cap=cap)


def test_no_blend_is_larger_than_the_cap(missed, portrait, meter):
    for cap in (0.05, 0.12, 0.30):
        assert 0.0 < rescue_blend(missed, portrait, meter, cap=cap, threshold=0.0).blend <= cap + 1e-9


@pytest.mark.parametrize("sigma", [1.0, 5.0])
def test_drift_never_rises(portrait, meter, both_meters, sigma):
    anchor = blurred(relit(portrait, 0.5)[:, ::-1], sigma)  # a bad anchor: mirrored, relit, blurred
    for styled in (portrait, relit(portrait), blurred(portrait, 4.0)):
        for judge in (meter, both_meters.selection):
            result = rescue_blend(styled, np.ascontiguousarray(anchor), judge, threshold=0.01)
            assert result.after.value <= result.before.value


def test_a_heal_that_makes_it_worse_is_not_taken(missed, portrait, meter):
    def ruin(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return blurred(image, 8.0)

    result = rescue_blend(missed, portrait, meter, heal=ruin, threshold=0.0)
    assert not result.healed and result.after.value < result.before.value


def test_a_heal_touches_nothing_outside_the_mask(missed, portrait, meter):
    def invert(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        healed = 255 - image
        healed[mask > 0.0] = image[mask > 0.0]
        return healed

    result = rescue_blend(missed, portrait, meter, heal=invert)
    assert result.healed
    assert np.array_equal(result.image[result.mask == 0], missed[result.mask == 0])


def test_an_anchor_without_a_face_is_said_in_words(missed, meter):
    result = rescue_blend(missed, np.full_like(missed, 120), meter)
    assert result.image is missed and "anchor shows no face" in result.note and result.after is result.before


def test_a_styled_picture_without_a_face_is_said_in_words(portrait, meter):
    styled = np.full_like(portrait, 120)
    result = rescue_blend(styled, portrait, meter)
    assert result.image is styled and "no face to blend into" in result.note
    assert result.before.value == 1.0 and not result.after.locked()


def test_an_anchor_of_another_size_will_do(missed, portrait, meter):
    from PIL import Image

    large = np.asarray(Image.fromarray(portrait).resize((256, 256), Image.Resampling.LANCZOS))
    result = rescue_blend(missed, large, meter, threshold=0.0)
    assert result.image.shape == missed.shape and result.after.value < result.before.value


def test_within_is_exact_at_both_ends():
    rng = np.random.default_rng(0)
    outside, inside = (rng.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(2))
    mask = np.zeros((16, 16), np.float32)
    mask[4:8, 4:8] = 1.0
    mask[8:12, 8:12] = 0.5
    mixed = within(outside, inside, mask)
    assert np.array_equal(mixed[mask == 0], outside[mask == 0])
    assert np.array_equal(mixed[mask == 1], inside[mask == 1])
    half = (outside.astype(int) + inside)[mask == 0.5] / 2
    assert np.abs(mixed[mask == 0.5] - half).max() <= 0.5
