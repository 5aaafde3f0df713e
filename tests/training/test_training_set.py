"""What the trainer sees: faces count fully, the background less, rotation corners not at all; nobody is mirrored."""

import numpy as np
import pytest
import torch

from identity_lock.errors import TrainingError
from identity_lock.identity import PreparedFace, PrepSettings, default_detector, prepare_photo, read_photo
from identity_lock.tests.fixtures.tiny_engine import CAPTION, HOPPER, tiny_data, tiny_engine
from identity_lock.training.augment import JitterSpec, training_images
from identity_lock.training.training_set import TrainingImage, build_training_set


@pytest.fixture(scope="module")
def faces():
    """The crop, and its copies turned by ten degrees; padded so far that the photo ends inside the crop."""
    return prepare_photo(read_photo(HOPPER), default_detector(), PrepSettings(size=256, padding=1.2, rotations=True))


def test_corners_weigh_nothing_the_background_little_and_the_face_fully(engine, faces):
    images = training_images(faces, [CAPTION] * 3, 128, JitterSpec(copies=2))
    data = build_training_set(engine, images, background_weight=0.2)
    assert data.latents.shape == (9, 32, 16, 16) and data.masks.shape == (9, 1, 16, 16)
    for image, mask in zip(images, data.masks[:, 0].numpy(), strict=True):
        cells = image.valid_mask.reshape(16, 8, 16, 8).max((1, 3)), image.valid_mask.reshape(16, 8, 16, 8).min((1, 3))
        face = image.face_mask.reshape(16, 8, 16, 8)
        empty, whole = cells[0] == 0, cells[1] >= 1.0 - 1e-6
        assert empty.any() and (mask[empty] == 0).all()
        background = whole & (face.max((1, 3)) == 0)
        assert background.any() and np.allclose(mask[background], 0.2, atol=1e-6)
        inside = whole & (face.min((1, 3)) > 0.999)
        assert inside.any() and np.allclose(mask[inside], 1.0, atol=1e-3)
        rim = whole & ~background & ~inside
        assert (mask[rim] >= 0.2 - 1e-6).all() and ((mask[rim] > 0.3) & (mask[rim] < 0.9)).any()  # soft


def test_a_turned_copy_has_its_own_corners_and_jitter_moves_mask_and_picture_together(faces):
    turned = [face for face in faces if face.transform.startswith("rotate")]
    assert len(turned) == 2
    for face in turned:
        shifted = training_images([face], [CAPTION], 128, JitterSpec(copies=6, shift=0.05, rotation=8.0))
        for image in shifted:
            assert (image.valid_mask < 0.5).any() and image.valid_mask.max() == 1.0
            assert image.face_mask.max() > 0.99 and image.face_mask.dtype == np.float32
    plain, *jittered = training_images([faces[0]], [CAPTION], 128, JitterSpec(copies=4, shift=0.05))
    centres = [np.argwhere(image.face_mask > 0.5).mean(0) for image in (plain, *jittered)]
    assert max(np.abs(centre - centres[0]).max() for centre in centres[1:]) > 2


def test_no_copy_is_mirrored(faces):
    """A picture that is red on the left and blue on the right stays so in every copy, and so does its mask."""
    pixels = np.zeros((256, 256, 3), np.uint8)
    pixels[:, :128, 0], pixels[:, 128:, 2] = 220, 220
    mask = np.zeros((256, 256), np.float32)
    mask[64:192, 16:112] = 1.0
    face = PreparedFace(pixels, mask, np.ones_like(mask), faces[0].face, "two colours", "crop")
    images = training_images([face], [CAPTION], 64, JitterSpec(copies=40))
    assert len(images) == 41
    for image in images:
        assert image.pixels[:, :24, 0].mean() > 100 > 40 > image.pixels[:, :24, 2].mean()
        assert image.face_mask[:, :32].mean() > image.face_mask[:, 32:].mean()
    # nor does the trainer's own preparation offer it
    assert not any("flip" in name or "mirror" in name for name in (*vars(JitterSpec()), *vars(PrepSettings())))


def test_the_jitter_is_seeded_and_the_first_picture_is_untouched(faces):
    a, b, c = (training_images([faces[0]], [CAPTION], 64, JitterSpec(copies=3, seed=seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(x.pixels, y.pixels) for x, y in zip(a, b, strict=True))
    assert np.array_equal(a[0].pixels, c[0].pixels) and not np.array_equal(a[1].pixels, c[1].pixels)


def test_captions_go_with_their_pictures_and_are_encoded_once(engine, faces, monkeypatch):
    calls, encode = [], type(engine).encode_prompt

    def listen(self, prompt):
        calls.append(prompt)
        return encode(self, prompt)

    monkeypatch.setattr(type(engine), "encode_prompt", listen)
    images = training_images(faces, ["red shirt", "green shirt", "red shirt"], 64, JitterSpec(copies=1))
    data = build_training_set(engine, images, background_weight=0.2)
    assert [c.prompt for c in data.conditioning] == ["red shirt"] * 2 + ["green shirt"] * 2 + ["red shirt"] * 2
    assert data.empty.prompt == "" and sorted(calls) == ["", "green shirt", "red shirt"]


def test_the_fingerprint_follows_pictures_masks_and_captions(engine, faces):
    def built(caption="red shirt", weight=0.2, copies=0):
        images = training_images(faces[:1], [caption], 64, JitterSpec(copies=copies))
        return build_training_set(engine, images, background_weight=weight).fingerprint()

    assert built() == built()
    assert len({built(), built(caption="green shirt"), built(weight=0.5), built(copies=1)}) == 4


def test_nothing_to_train_on_is_refused(engine):
    with pytest.raises(TrainingError, match="no picture to train on"):
        build_training_set(engine, [], background_weight=0.2)


def test_a_vae_that_overflows_is_found_before_training(engine):
    """As SDXL's own VAE does in float16."""
    engine.codec.module.encoder.weight.data[0] = float("inf")
    with pytest.raises(TrainingError, match="latents of picture 1 of 1 are not finite.*float16"):
        build_training_set(engine, [TrainingImage(
            np.full((64, 64, 3), 9, np.uint8), np.ones((64, 64), np.float32), np.ones((64, 64), np.float32), CAPTION
        )], background_weight=0.2)  # fmt: skip


def test_an_empty_picture_is_refused_by_the_loss_and_not_silently_skipped(meter, tmp_path):
    """A picture whose mask is zero everywhere cannot be learned from; training says so."""
    import dataclasses

    from identity_lock.tests.fixtures.tiny_engine import tiny_plan
    from identity_lock.training.loop import train

    engine = tiny_engine()
    data = tiny_data(engine, copies=0)
    empty = dataclasses.replace(data, masks=torch.zeros_like(data.masks))
    with pytest.raises(TrainingError, match="mask of sample 0 is empty"):
        train(engine, empty, meter, tiny_plan(), tmp_path)
