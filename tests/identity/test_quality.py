"""Quality falls with each thing that makes a face harder to recognise."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from identity_lock.identity import Face, face_quality, find_faces, the_face


def quality_of(detector, pixels: np.ndarray):
    return face_quality(pixels, find_faces(detector, pixels)[0])


def test_a_good_portrait_is_near_one(hopper, detector):
    quality = face_quality(hopper.pixels, the_face(detector, hopper))
    assert quality.value > 0.85
    for part in (quality.size, quality.sharpness, quality.frontality, quality.exposure, quality.detection):
        assert 0.05 <= part <= 1


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("sharpness", lambda pixels: cv2.GaussianBlur(pixels, (0, 0), 4)),
        ("exposure", lambda pixels: (pixels * 0.12).astype(np.uint8)),
        ("exposure", lambda pixels: np.clip(pixels.astype(int) + 150, 0, 255).astype(np.uint8)),
        ("size", lambda pixels: cv2.resize(pixels, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)),
    ],
)
def test_each_fault_shows_in_its_part_and_in_the_whole(hopper, detector, part, change):
    good, bad = quality_of(detector, hopper.pixels), quality_of(detector, change(hopper.pixels))
    assert getattr(bad, part) < getattr(good, part) - 0.3
    assert bad.value < good.value - 0.1


def test_a_turned_head_is_worse_than_a_frontal_one(hopper, detector):
    face = the_face(detector, hopper)
    landmarks = face.landmarks.copy()
    landmarks[2] = landmarks[1] + [-8, 40]  # the nose under the far eye
    turned = Face(face.box, landmarks, face.score)
    assert face_quality(hopper.pixels, turned).frontality < 0.4 < face_quality(hopper.pixels, face).frontality
