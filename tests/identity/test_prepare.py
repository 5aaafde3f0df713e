"""Prepared crops: square, 768 px, sharp, with masks that say what is face and what is not photo (paper section 3.1)."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from identity_lock.errors import PhotoError
from identity_lock.identity import (
    Face,
    NoFaceError,
    Photo,
    PrepSettings,
    prepare_all,
    prepare_photo,
    soft_face_mask,
    the_face,
)
from identity_lock.identity.prepare import prepare_both

ALL = PrepSettings(rotations=True, center_crops=True)


@pytest.fixture(scope="module")
def prepared(hopper, detector):
    return prepare_photo(hopper, detector, ALL)


def test_the_papers_set(prepared):
    assert [item.transform for item in prepared] == ["crop", "rotate +10", "rotate -10", "center 80%", "center 60%"]
    for item in prepared:
        assert item.pixels.shape == (768, 768, 3) and item.pixels.dtype == np.uint8
        assert item.pixels.flags.c_contiguous
        for mask in (item.face_mask, item.valid_mask):
            assert mask.shape == (768, 768) and mask.dtype == np.float32
            assert mask.min() >= 0 and mask.max() <= 1
        assert item.source == "grace_hopper.jpg"


def test_without_options_there_is_the_crop_alone(hopper, detector):
    (only,) = prepare_photo(hopper, detector)
    assert only.transform == "crop"


def test_padding_is_proportional_to_the_face(hopper, detector):
    longer = float(max(the_face(detector, hopper).box[2:] - the_face(detector, hopper).box[:2]))
    for padding in (0.2, 0.6, 1.0):
        (item,) = prepare_photo(hopper, detector, PrepSettings(padding=padding, size=512))
        assert max(item.face.box[2:] - item.face.box[:2]) == pytest.approx(512 / (1 + 2 * padding), rel=1e-6)
        assert item.face.center == pytest.approx([256, 256])
        assert longer > 0 and item.pixels.shape == (512, 512, 3)


def test_the_face_is_where_each_crop_says(prepared, detector):
    for item in prepared:
        found = the_face(detector, Photo(item.transform, item.pixels))
        assert np.abs(found.landmarks - item.face.landmarks).max() < 0.06 * item.face.size


def test_rotations_turn_the_head_by_ten_degrees(prepared):
    upright, left, right = (item.face.roll for item in prepared[:3])
    assert left - upright == pytest.approx(-10, abs=0.01)
    assert right - upright == pytest.approx(10, abs=0.01)


def test_center_crops_enlarge_the_face(prepared):
    plain, eighty, sixty = (prepared[index].face.size for index in (0, 3, 4))
    assert eighty / plain == pytest.approx(1 / 0.8)
    assert sixty / plain == pytest.approx(1 / 0.6)


def test_every_crop_is_still_the_person(prepared, hopper, detector, sface):
    reference = sface.embed(hopper.pixels, the_face(detector, hopper))
    for item in prepared:
        found = the_face(detector, Photo(item.transform, item.pixels))
        assert float(reference @ sface.embed(item.pixels, found)) > 0.85


def test_rotation_corners_are_marked_invalid(hopper, detector):
    face = the_face(detector, hopper)
    side = float(max(face.box[2:] - face.box[:2])) * 1.2 / 2
    left, top, right, bottom = np.rint([*(face.center - side), *(face.center + side)]).astype(int)
    tight = Photo("tight.jpg", np.ascontiguousarray(hopper.pixels[top:bottom, left:right]))
    plain, turned, back = prepare_photo(tight, detector, PrepSettings(padding=0.1, rotations=True))
    for item in (turned, back):
        for row in (slice(0, 8), slice(-8, None)):
            for column in (slice(0, 8), slice(-8, None)):
                assert item.valid_mask[row, column].max() == 0
        assert item.valid_mask[200:-200, 200:-200].min() == 1
    assert plain.valid_mask.mean() > turned.valid_mask.mean() + 0.02


def test_beyond_the_edge_is_marked_and_mirrored_not_black(hopper, detector):
    (item,) = prepare_photo(hopper, detector, PrepSettings(padding=2.0))
    outside = item.valid_mask == 0
    assert 0.2 < outside.mean() < 0.9
    assert item.pixels[outside].mean() > 40
    # all that is marked valid really is the photo
    scale = item.face.size / the_face(detector, hopper).size
    assert (item.valid_mask.sum() / scale**2) == pytest.approx(512 * 600, rel=0.03)


def test_a_crop_equals_the_photo_where_no_scaling_is_needed(hopper, detector):
    """One resampling and no half-pixel shift: at scale 1 the pixels are the photo's own."""
    face = the_face(detector, hopper)
    longer = float(max(face.box[2:] - face.box[:2]))
    padding = (400 / longer - 1) / 2
    (item,) = prepare_photo(hopper, detector, PrepSettings(size=400, padding=padding))
    left, top = face.center - 200
    shifted = cv2.warpAffine(
        hopper.pixels, np.array([[1, 0, -left], [0, 1, -top]]), (400, 400), flags=cv2.INTER_LANCZOS4
    )
    valid = item.valid_mask > 0
    assert np.abs(item.pixels.astype(int) - shifted)[valid].mean() < 0.5


def test_reduction_does_not_alias(hopper, detector):
    """A fine checkerboard behind the face turns to even grey when reduced, not to moire."""
    large = cv2.resize(hopper.pixels, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    board = (np.indices(large.shape[:2]).sum(0) % 2 * 255).astype(np.uint8)
    large[:, 1200:] = board[:, 1200:, None]
    (item,) = prepare_photo(Photo("board.png", large), detector, PrepSettings(size=256))
    assert item.pixels[100:200, -20:].std() < 12
    assert abs(item.pixels[100:200, -20:].mean() - 127) < 8


def test_the_face_mask_covers_forehead_to_chin_and_fades(hopper, detector):
    face = the_face(detector, hopper)
    mask = soft_face_mask(face, hopper.pixels.shape[:2])
    assert mask.shape == (600, 512) and mask.dtype == np.float32
    for x, y in face.landmarks.astype(int):
        assert mask[y, x] == 1
    left, top, right, bottom = face.box.astype(int)
    middle = int(face.center[0])
    assert mask[top + 2, middle] > 0.9 and mask[bottom - 4, middle] > 0.9
    assert mask[0].max() == 0 and mask[:, 0].max() == 0 and mask[-1].max() == 0
    assert np.abs(np.diff(mask, axis=0)).max() < 0.1  # soft: no step anywhere
    assert soft_face_mask(face, (600, 512), feather=0.5).sum() > mask.sum()


def test_the_mask_follows_a_tilted_head(hopper, detector):
    face = the_face(detector, hopper)
    angle = np.radians(90)
    matrix = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0]])
    matrix[:, 2] = [300, 300] - matrix[:, :2] @ face.center
    tilted = soft_face_mask(face.transformed(matrix), (600, 600)) > 0.5
    assert np.ptp(np.nonzero(tilted)[1]) > np.ptp(np.nonzero(tilted)[0]) * 1.15  # now wider than tall


def test_a_mask_partly_outside_the_picture_is_clipped():
    landmarks = np.array([[-10, 10], [20, 10], [5, 25], [-5, 40], [15, 40]], float)
    mask = soft_face_mask(Face(np.array([-30.0, -20, 40, 60]), landmarks, 0.9), (64, 64))
    assert mask.shape == (64, 64) and mask[20, 5] == 1 and mask[63, 63] == 0


def test_several_photos_keep_their_order_and_a_faceless_one_is_left_out(hopper, stranger, faceless, detector):
    items = prepare_all([hopper, faceless, stranger], detector, PrepSettings(size=256))
    assert [item.source for item in items] == ["grace_hopper.jpg", "astronaut.png"]
    with pytest.raises(NoFaceError, match=r"coffee\.png"):
        prepare_all([faceless], detector)
    with pytest.raises(PhotoError):
        prepare_all([], detector)


@pytest.mark.parametrize("wrong", [{"size": 8}, {"padding": -0.1}, {"padding": 9}, {"crop_fractions": (0.8, 1.5)}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(PhotoError, match="choose|must lie"):
        PrepSettings(**wrong)


def test_references_are_plain_and_training_pictures_as_set(hopper, detector):
    empty = Photo("blank", np.full((200, 200, 3), 127, np.uint8), ("blank: holds 2 pictures; the first one is used.",))
    made = prepare_both([hopper, empty], detector, PrepSettings(size=128, rotations=True))
    assert [face.transform for face in made.references] == ["crop"]
    assert [face.transform for face in made.training] == ["crop", "rotate +10", "rotate -10"]
    assert (made.references[0].pixels == made.training[0].pixels).all()
    text = made.summary()
    assert "grace_hopper.jpg: one face" in text and "rotate +10" in text
    assert "blank was left out" in text and "the first one is used" in text
