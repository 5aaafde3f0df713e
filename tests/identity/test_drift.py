"""Drift is 1 - cosine, a face that is not found counts as 1, and a batch keeps its length and order."""

from __future__ import annotations

import numpy as np
import pytest

from identity_lock.errors import PhotoError, RecogniserError
from identity_lock.identity import LOCK_THRESHOLD, Drift, DriftMeter, FaceReader, cosine, the_face
from identity_lock.identity.drift import drift


@pytest.fixture(scope="module")
def meter(hopper, detector, sface):
    return DriftMeter(sface.embed(hopper.pixels, the_face(detector, hopper)), FaceReader(detector, sface))


def test_drift_of_a_vector_to_itself_is_zero_and_symmetrical_otherwise():
    rng = np.random.default_rng(1)
    for _ in range(50):
        a, b = rng.normal(size=(2, 512))
        assert drift(a, a) == pytest.approx(0, abs=1e-12)
        assert drift(a, 7 * a) == pytest.approx(0, abs=1e-12)
        assert drift(a, -a) == pytest.approx(2)
        assert drift(a, b) == drift(b, a)
        assert 0 <= drift(a, b) <= 2


def test_the_papers_numbers():
    a, b = np.array([1.0, 0.0]), np.array([1 - 0.1621, np.sqrt(1 - (1 - 0.1621) ** 2)])
    assert drift(a, b) == pytest.approx(0.1621)
    assert LOCK_THRESHOLD == 0.18


@pytest.mark.parametrize(
    ("a", "b"), [(np.ones(128), np.ones(512)), (np.zeros(8), np.ones(8)), (np.full(8, np.nan), np.ones(8))]
)
def test_vectors_that_do_not_compare_are_refused(a, b):
    with pytest.raises(RecogniserError):
        cosine(a, b)


def test_the_lock_includes_its_threshold(hopper, detector):
    face = the_face(detector, hopper)
    assert Drift(0.18, face, "sface").locked()
    assert not Drift(0.1801, face, "sface").locked()
    assert Drift(0.3, face, "sface").locked(threshold=0.35)
    assert not Drift(0.0, None, "sface").locked()  # no face, no lock, whatever the number


def test_the_person_is_near_and_a_stranger_far(meter, hopper, stranger):
    near, far = meter.measure([hopper.pixels, stranger.pixels])
    assert near.value < 1e-5 and near.locked() and near.detected
    assert 0.7 < far.value < 1.0 and not far.locked()
    assert (near.recogniser, near.space) == ("sface", "raw cosine")
    assert near.value == meter.measure_one(hopper.pixels).value


def test_a_batch_keeps_its_length_and_order(meter, hopper, stranger, faceless):
    seen = []
    batch = [faceless.pixels, hopper.pixels, faceless.pixels, stranger.pixels, hopper.pixels]
    drifts = meter.measure(batch, progress=lambda done, total: seen.append((done, total)))
    assert [found.detected for found in drifts] == [False, True, False, True, True]
    assert [found.value for found in drifts if not found.detected] == [1.0, 1.0]
    assert not any(found.locked(threshold=2.0) for found in drifts if not found.detected)
    assert drifts[1].value == drifts[4].value < drifts[3].value
    assert seen == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


def test_a_stacked_batch_and_an_empty_one(meter, hopper):
    assert [found.locked() for found in meter.measure(np.stack([hopper.pixels] * 2))] == [True, True]
    assert meter.measure([]) == []


def test_of_several_faces_the_largest_is_measured(meter, hopper, stranger):
    crowd = np.full((640, 1100, 3), 90, np.uint8)
    crowd[:512, 20:532] = stranger.pixels
    crowd[:600, 560:1072] = hopper.pixels
    measured = meter.measure_one(crowd)
    assert measured.value < 0.1
    assert measured.face.box[0] > 540


def test_pictures_of_another_kind_are_refused_by_position(meter, hopper):
    with pytest.raises(PhotoError, match="Picture 2 of 2"):
        meter.measure([hopper.pixels, hopper.pixels / 255.0])


def test_a_reference_of_another_recogniser_is_refused(detector, sface):
    with pytest.raises(RecogniserError, match="512.*128"):
        DriftMeter(np.ones(512), FaceReader(detector, sface))
