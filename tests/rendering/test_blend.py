"""The rescue blend on real photographs: what changes, what must not, and when it refuses."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from identity_lock.errors import RenderError
from identity_lock.rendering import blend

# Where YuNet finds the five points in the two public-domain portraits that matplotlib and scikit-image bring along.
HOPPER = np.array([(227.8, 193.7), (307.9, 195.5), (266.9, 240.1), (229.2, 267.6), (302.1, 269.9)])
COLLINS = np.array([(200.1, 101.8), (247.2, 102.6), (220.3, 124.7), (198.9, 143.2), (239.8, 143.9)])


@pytest.fixture(scope="module")
def hopper() -> np.ndarray:
    cbook = pytest.importorskip("matplotlib.cbook")
    return np.array(Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB"))


@pytest.fixture(scope="module")
def collins() -> np.ndarray:
    skimage = pytest.importorskip("skimage")
    return np.array(Image.open(Path(skimage.__file__).parent / "data" / "astronaut.png").convert("RGB"))


def moved(points: np.ndarray, scale: float, degrees: float, shift: tuple[float, float]) -> np.ndarray:
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return scale * points @ turn.T + shift


def resized(picture: np.ndarray, side: int) -> tuple[np.ndarray, float]:
    factor = side / picture.shape[1]
    kind = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return cv2.resize(picture, None, fx=factor, fy=factor, interpolation=kind), factor


def distance_inside(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b.astype(float))[mask > 0.9].mean())


@pytest.mark.parametrize(("scale", "degrees"), [(1.0, 0.0), (0.2, -35.0), (3.7, 12.0), (1.3, 170.0)])
def test_alignment_recovers_a_known_similarity(scale: float, degrees: float) -> None:
    target = moved(COLLINS, scale, degrees, (31.0, -7.5))
    found = blend.align_faces(COLLINS, target)
    laid = COLLINS @ found.matrix[:, :2].T + found.matrix[:, 2]
    assert np.abs(laid - target).max() < 0.01
    assert found.scale == pytest.approx(scale, rel=1e-6)
    assert found.rotation_degrees == pytest.approx(degrees, abs=1e-6)
    assert found.residual < 1e-9


def test_alignment_holds_to_a_tenth_of_a_pixel_under_landmark_jitter() -> None:
    rng = np.random.default_rng(3)
    errors = []
    for _ in range(50):
        target = moved(COLLINS, 1.5, 8.0, (10.0, 4.0))
        found = blend.align_faces(COLLINS, target + rng.uniform(-0.1, 0.1, target.shape))
        centre = COLLINS.mean(0) @ found.matrix[:, :2].T + found.matrix[:, 2]
        errors.append(np.hypot(*(centre - target.mean(0))))
    assert max(errors) < 0.1


def test_the_warped_anchor_lands_on_the_styled_face(collins: np.ndarray) -> None:
    turned = cv2.getRotationMatrix2D((230.0, 120.0), 20.0, 1.4)
    anchor = cv2.warpAffine(collins, turned, (512, 512), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    landmarks = COLLINS @ turned[:, :2].T + turned[:, 2]
    result = blend.blend_faces(collins, anchor, COLLINS, landmarks, 1.0, maximum=1.0)
    # The same face, laid on itself: only the two resamplings separate them. Two pixels off is several times worse.
    shifted = blend.blend_faces(collins, anchor, COLLINS, landmarks + 2.0, 1.0, maximum=1.0)
    error = distance_inside(result.image, collins, result.mask)
    assert error < 3.0
    assert distance_inside(shifted.image, collins, shifted.mask) > 2 * error


@pytest.mark.parametrize("side", [128, 512, 1024])
def test_no_pixel_outside_the_mask_changes(hopper: np.ndarray, collins: np.ndarray, side: int) -> None:
    styled, factor = resized(hopper, side)
    result = blend.blend_faces(styled, collins, HOPPER * factor, COLLINS, 0.30)
    outside = result.mask == 0.0
    assert np.array_equal(result.image[outside], styled[outside])
    assert (result.image[~outside] != styled[~outside]).any()
    assert 0.03 < (~outside).mean() < 0.4
    assert result.image.dtype == np.uint8 and result.image.shape == styled.shape and result.image.flags.c_contiguous


def test_blend_zero_gives_the_styled_picture_back(hopper: np.ndarray, collins: np.ndarray) -> None:
    result = blend.blend_faces(hopper, collins, HOPPER, COLLINS, 0.0)
    assert np.array_equal(result.image, hopper)
    assert result.image is not hopper


def test_each_larger_blend_is_nearer_to_the_anchor(hopper: np.ndarray, collins: np.ndarray) -> None:
    anchor = blend.blend_faces(hopper, collins, HOPPER, COLLINS, 1.0, maximum=1.0)
    distances = [
        distance_inside(blend.blend_faces(hopper, collins, HOPPER, COLLINS, b).image, anchor.image, anchor.mask)
        for b in (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
    ]
    assert all(later < earlier for earlier, later in zip(distances, distances[1:], strict=False))
    # "Blend 30 %" takes 30 % of the way on the face.
    assert distances[-1] == pytest.approx(0.7 * distances[0], rel=0.03)


@pytest.mark.parametrize("side", [128, 512])
def test_blending_leaves_no_seam_and_no_colour_shift(hopper: np.ndarray, collins: np.ndarray, side: int) -> None:
    styled, factor = resized(hopper, side)
    orange = np.clip(collins * np.array([1.1, 0.8, 0.5]), 0, 255).astype(np.uint8)
    result = blend.blend_faces(styled, orange, HOPPER * factor, COLLINS, 0.30)
    change = result.image.astype(float) - styled
    assert np.abs(change[result.mask > 0.9].mean(0)).max() < 3.0
    rim = (result.mask > 0.0) & (result.mask < 0.02)
    assert rim.any()
    assert np.abs(change[rim]).max() <= 3.0


def test_matching_brings_the_colours_nearer(hopper: np.ndarray, collins: np.ndarray) -> None:
    target = collins[:, :512]
    source = np.clip(target * np.array([1.2, 0.9, 0.5]) * 0.7 + 20, 0, 255).astype(np.uint8)
    mask = blend.feathered_mask(COLLINS, target.shape)

    def gap(picture: np.ndarray) -> float:
        return float(np.abs((picture.astype(float) - target)[mask > 0.5].mean(0)).max())

    half, whole = blend.match_color(source, target, mask, 0.5), blend.match_color(source, target, mask)
    assert gap(whole) < 3.0 < gap(half) < gap(source)
    assert np.array_equal(blend.match_color(source, target, mask, 0.0), source)


def test_a_black_and_white_picture_stays_black_and_white(hopper: np.ndarray, collins: np.ndarray) -> None:
    grey = np.repeat(cv2.cvtColor(hopper, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    result = blend.blend_faces(grey, collins, HOPPER, COLLINS, 0.30)
    assert int(np.ptp(result.image.astype(int), axis=2).max()) <= 2


@pytest.mark.parametrize("level", [0, 127, 255])
def test_flat_pictures_give_finite_pictures(collins: np.ndarray, level: int) -> None:
    flat = np.full_like(collins, level)
    with np.errstate(all="raise", under="ignore"):
        onto = blend.blend_faces(flat, collins, COLLINS, COLLINS, 0.30)
        of = blend.blend_faces(collins, flat, COLLINS, COLLINS, 0.30)
        both = blend.blend_faces(flat, flat, COLLINS, COLLINS, 0.30)
    assert np.array_equal(both.image, flat)
    # A flat anchor has no colour to add: it takes the styled face's own mean.
    inside = of.mask > 0.9
    assert np.abs((of.image.astype(float) - collins)[inside].mean(0)).max() < 6.0
    assert onto.image.dtype == np.uint8


@pytest.mark.parametrize("shape", [(128, 128, 3), (1024, 768, 3)])
def test_the_mask_covers_the_features_and_ends_in_exact_zeros(shape: tuple[int, ...]) -> None:
    points = moved(HOPPER - HOPPER.mean(0), shape[1] / 512, 5.0, (shape[1] / 2, shape[0] / 2))
    mask = blend.feathered_mask(points, shape)
    assert mask.shape == shape[:2] and mask.dtype == np.float32
    for x, y in points[:3]:
        assert mask[round(y), round(x)] > 0.95
    assert mask.max() == 1.0 and mask[0].max() == 0.0 and mask[-1].max() == 0.0
    # Soft: from pixel to pixel it never climbs faster than the feather allows.
    edge = blend.FEATHER * np.hypot(*(points[1] - points[0]))
    assert max(np.abs(np.diff(mask, axis=0)).max(), np.abs(np.diff(mask, axis=1)).max()) <= 1.6 / edge


def three_quarter(points: np.ndarray, yaw_degrees: float) -> np.ndarray:
    """The five points of a head turned by so much, in a plain orthographic view; depths in eye distances."""
    unit = np.hypot(*(points[1] - points[0]))
    depth = np.array([0.0, 0.0, 0.6, 0.15, 0.15]) * unit
    centre = points.mean(0)
    angle = np.deg2rad(yaw_degrees)
    turned = points.copy()
    turned[:, 0] = centre[0] + (points[:, 0] - centre[0]) * np.cos(angle) + depth * np.sin(angle)
    return turned


@pytest.mark.parametrize("yaw", [-60.0, -30.0, 30.0, 60.0])
def test_a_head_turned_away_is_refused_with_the_angle(collins: np.ndarray, yaw: float) -> None:
    with pytest.raises(blend.PoseMismatch, match=r"turned about \d+ degrees apart"):
        blend.blend_faces(collins, collins, COLLINS, three_quarter(COLLINS, yaw), 0.30)


def test_a_small_turn_is_blended(collins: np.ndarray) -> None:
    result = blend.blend_faces(collins, collins, COLLINS, three_quarter(COLLINS, 8.0), 0.30)
    assert abs(result.alignment.yaw_difference) < blend.MAX_YAW_DIFFERENCE


def test_a_mirrored_three_quarter_view_is_refused(collins: np.ndarray) -> None:
    points = three_quarter(COLLINS, 25.0)
    mirrored = points[[1, 0, 2, 4, 3]] * (-1.0, 1.0) + (511.0, 0.0)
    with pytest.raises(blend.PoseMismatch):
        blend.blend_faces(collins, np.ascontiguousarray(collins[:, ::-1]), points, mirrored, 0.30)


def test_reflected_landmarks_are_refused(collins: np.ndarray) -> None:
    reflected = COLLINS[[1, 0, 2, 4, 3]]
    with pytest.raises(blend.PoseMismatch, match="does not fit"):
        blend.blend_faces(collins, collins, COLLINS, reflected, 0.30)


def test_a_full_profile_has_no_eye_distance_to_align_by(collins: np.ndarray) -> None:
    profile = COLLINS.copy()
    profile[1] = profile[0] + (2.0, 0.0)
    with pytest.raises(RenderError, match="in profile"):
        blend.blend_faces(collins, collins, COLLINS, profile, 0.30)


def test_an_anchor_cut_off_by_the_picture_edge_is_refused(collins: np.ndarray) -> None:
    cut = np.ascontiguousarray(collins[:, 222:])
    with pytest.raises(RenderError, match="cuts it off"):
        blend.blend_faces(collins, cut, COLLINS, COLLINS - (222.0, 0.0), 0.30)


def test_a_slightly_cut_anchor_brings_in_no_edge(collins: np.ndarray) -> None:
    cut = np.ascontiguousarray(collins[:, 190:])
    result = blend.blend_faces(collins, cut, COLLINS, COLLINS - (190.0, 0.0), 0.30)
    assert result.mask[:, :190].max() == 0.0
    assert np.abs(result.image.astype(int) - collins).max() <= 4


@pytest.mark.parametrize("amount", [-0.01, 0.31, 1.0, float("nan")])
def test_an_amount_out_of_range_is_refused(collins: np.ndarray, amount: float) -> None:
    with pytest.raises(RenderError, match="0 to 0.30"):
        blend.blend_faces(collins, collins, COLLINS, COLLINS, amount)


def test_pictures_and_landmarks_of_the_wrong_kind_are_named(collins: np.ndarray) -> None:
    with pytest.raises(RenderError, match="anchor picture must be uint8"):
        blend.blend_faces(collins, collins.astype(np.float32), COLLINS, COLLINS, 0.3)
    with pytest.raises(RenderError, match="styled face needs five"):
        blend.blend_faces(collins, collins, COLLINS[:4], COLLINS, 0.3)
    with pytest.raises(RenderError, match="outside its picture"):
        blend.blend_faces(collins, collins, COLLINS + 5000.0, COLLINS, 0.3)
    with pytest.raises(RenderError, match="one size"):
        blend.laplacian_blend(collins, collins[:100], np.zeros((512, 512), np.float32))


def test_a_face_at_the_picture_edge_is_blended_up_to_the_edge(collins: np.ndarray) -> None:
    close = np.ascontiguousarray(collins[60:160, 185:265])
    points = COLLINS - (185.0, 60.0)
    result = blend.blend_faces(close, np.clip(collins * 0.6, 0, 255).astype(np.uint8), points, COLLINS, 0.30)
    outside = result.mask == 0.0
    assert np.array_equal(result.image[outside], close[outside])
    assert np.abs(result.image.astype(int) - close)[~outside].mean() < 4.0
