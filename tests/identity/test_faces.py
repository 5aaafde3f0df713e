"""Faces are found, also in close-ups and crowds, and always come in the same order."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest

from identity_lock.errors import PhotoError
from identity_lock.identity import (
    Face,
    NoFaceError,
    Photo,
    find_faces,
    largest_face,
    order_faces,
    refine_face,
    the_face,
)


def pasted(pixels: np.ndarray, canvas: tuple[int, int], scales: list[float]) -> np.ndarray:
    """The picture side by side at several scales on a grey canvas (height, width)."""
    page = np.full((*canvas, 3), 90, np.uint8)
    left = 20
    for scale in scales:
        part = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        page[20 : 20 + part.shape[0], left : left + part.shape[1]] = part
        left += part.shape[1] + 20
    return page


def face_at(x: float, y: float, size: float, score: float = 0.9) -> Face:
    landmarks = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]]) * size + [x, y]
    return Face(np.array([x, y, x + size, y + size]), landmarks, score)


def test_landmarks_are_left_to_right_as_in_the_image(hopper, detector):
    face = the_face(detector, hopper)
    left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
    assert (face.box[:2] < face.landmarks).all() and (face.landmarks < face.box[2:]).all()
    assert 150 < face.size < 190
    assert face.area > face.size**2


def test_turning_the_head_shows_in_the_yaw_hint(stranger, detector):
    face = the_face(detector, stranger)
    mirrored = the_face(detector, Photo("mirrored", np.ascontiguousarray(stranger.pixels[:, ::-1])))
    assert abs(face.yaw_hint) < 0.3 and abs(face.yaw_hint + mirrored.yaw_hint) < 0.2  # both nearly frontal
    to_the_right = np.array([[0, 0], [10, 0], [14, 8], [2, 16], [9, 16]], float)
    assert Face(face.box, to_the_right, 0.9).yaw_hint > 0.7
    assert Face(face.box, (to_the_right * [-1, 1])[[1, 0, 2, 4, 3]], 0.9).yaw_hint < -0.7


@pytest.mark.parametrize("scale", [0.25, 0.6, 3.0])
def test_boxes_are_in_pixels_of_the_picture_given(hopper, detector, scale):
    whole = the_face(detector, hopper)
    resized = cv2.resize(hopper.pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    face = find_faces(detector, resized)[0]
    assert np.abs(face.landmarks / scale - whole.landmarks).max() < 0.07 * whole.size


def test_the_largest_comes_first_whatever_the_order_given():
    faces = [face_at(0, 0, 40), face_at(200, 0, 90), face_at(100, 0, 60)]
    for permuted in itertools.permutations(faces):
        assert [face.size for face in order_faces(permuted)] == [90, 60, 40]
        assert largest_face(permuted) is faces[1]


def test_ties_go_by_score_then_left_to_right_then_top_down():
    better, left, right_top, right_low = (
        face_at(300, 300, 50, 0.95),
        face_at(0, 200, 50),
        face_at(100, 0, 50),
        face_at(100, 90, 50),
    )
    for permuted in itertools.permutations([right_low, left, better, right_top]):
        assert order_faces(permuted) == [better, left, right_top, right_low]


def test_the_order_of_a_group_survives_flips(hopper, detector):
    group = pasted(hopper.pixels, (640, 1060), [0.9, 0.35, 0.6])
    sizes = [face.size for face in find_faces(detector, group)]
    mirrored = [face.size for face in find_faces(detector, np.ascontiguousarray(group[:, ::-1]))]
    assert len(sizes) == 3
    assert sizes == sorted(sizes, reverse=True)
    assert mirrored == pytest.approx(sizes, rel=0.12)


def test_largest_of_nothing_is_a_sentence():
    with pytest.raises(PhotoError, match="No face"):
        largest_face([])


def test_a_close_up_that_the_first_attempt_misses_is_found_by_the_second(hopper, detector, sface):
    face = the_face(detector, hopper)
    width, height = face.box[2:] - face.box[:2]
    left, top, right, bottom = (face.box + np.array([width, height, -width, -height]) * 0.21).astype(int)
    close_up = np.ascontiguousarray(hopper.pixels[top:bottom, left:right])
    assert detector.detect(close_up) == []
    found = find_faces(detector, close_up)
    assert len(found) == 1
    assert np.abs(found[0].landmarks + [left, top] - face.landmarks).max() < 0.1 * face.size
    same = sface.embed(close_up, found[0]) @ sface.embed(hopper.pixels, face)
    assert float(same) > 0.5


@pytest.mark.parametrize("corner", [(300, 400), (1700, 1600)])
def test_a_small_face_in_a_large_picture_is_found_by_the_second_attempt(hopper, detector, corner):
    y, x = corner
    small = cv2.resize(hopper.pixels, None, fx=0.2, fy=0.2, interpolation=cv2.INTER_AREA)
    page = np.full((2400, 2400, 3), 90, np.uint8)
    page[y : y + small.shape[0], x : x + small.shape[1]] = small
    assert detector.detect(page) == []
    found = find_faces(detector, page)
    assert len(found) == 1
    expected = the_face(detector, hopper).landmarks * 0.2 + [x, y]
    assert np.abs(found[0].landmarks - expected).max() < 5


def test_nothing_is_found_where_there_is_no_face(faceless, detector):
    assert find_faces(detector, faceless.pixels) == []
    with pytest.raises(NoFaceError, match=r"^coffee\.png: no face was found"):
        the_face(detector, faceless)


def test_two_equally_large_faces_ask_for_a_crop(hopper, detector):
    twins = Photo("twins.jpg", pasted(hopper.pixels, (640, 1100), [1.0, 1.0]))
    with pytest.raises(PhotoError, match=r"^twins\.jpg: several faces.*crop"):
        the_face(detector, twins)


def test_a_bystander_does_not_matter(hopper, detector):
    photo = Photo("street.jpg", pasted(hopper.pixels, (640, 1000), [0.45, 1.0]))
    assert the_face(detector, photo).size > 140


def test_a_small_face_is_refused_with_its_size(hopper, detector):
    photo = Photo("far.jpg", pasted(hopper.pixels, (640, 640), [0.3]))
    with pytest.raises(PhotoError, match=r"^far\.jpg: the face is only \d\d px.*64 px"):
        the_face(detector, photo)
    assert the_face(detector, photo, min_size=32).size < 64


@pytest.mark.parametrize("who", ["hopper", "stranger"])
def test_refined_landmarks_make_views_of_one_photo_agree_better(who, request, detector, sface):
    photo = request.getfixturevalue(who)
    height, width = photo.pixels.shape[:2]
    rng = np.random.default_rng(0)
    plain, refined = [], []
    for _ in range(8):
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-8, 8), rng.uniform(0.6, 1.4))
        view = cv2.warpAffine(photo.pixels, matrix, (width, height), flags=cv2.INTER_CUBIC)
        face = find_faces(detector, view)[0]
        plain.append(sface.embed(view, face))
        refined.append(sface.embed(view, refine_face(detector, view, face)))
    pairs = np.triu_indices(8, 1)
    before, after = (float(1 - (np.array(rows) @ np.array(rows).T)[pairs].mean()) for rows in (plain, refined))
    assert after < 0.8 * before
    assert after < 0.035


def test_moving_a_face_moves_all_of_it():
    face = face_at(10, 20, 50)
    angle = np.radians(90)
    turned = face.transformed(np.array([[0, -2, 5], [2, 0, 7]], float))
    assert turned.size == pytest.approx(100)
    assert turned.center == pytest.approx([-2 * 45 + 5, 2 * 35 + 7])
    assert turned.roll == pytest.approx(np.degrees(angle))
