"""One pass: its prompt is guarded, its mask keeps what it should, its LoRA and its seed matter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from identity_lock.errors import PromptRefused, RenderError
from identity_lock.rendering.passes import PassSpec, run_pass, soft_latent_mask
from identity_lock.tests.fixtures.tiny_engine import tiny_engine

from .conftest import RENDER, SIZE, render_with


def test_defaults_are_the_papers_first_pass():
    assert (PassSpec("a").strength, PassSpec("a").cfg, PassSpec("a").denoise) == (1.0, 5.8, 1.0)


def test_a_seed_gives_the_same_picture_and_another_seed_another(portrait_engine):
    one, again, other = (run_pass(portrait_engine, RENDER, seed, SIZE, None) for seed in (3, 3, 4))
    assert one.shape == (128, 128, 3) and one.dtype == np.uint8
    assert np.array_equal(one, again) and not np.array_equal(one, other)


def test_the_strength_of_the_lora_decides_how_much_it_changes(portrait_engine, lora):
    def change(strength: float) -> float:
        picture = run_pass(portrait_engine, render_with(strength=strength), 3, SIZE, lora)
        return float(np.abs(picture.astype(float) - plain).mean())

    plain = run_pass(portrait_engine, RENDER, 3, SIZE, None).astype(float)
    assert change(0.0) == 0.0
    assert 0.0 < change(0.2) < change(1.0)


def test_a_refused_prompt_never_reaches_the_engine():
    with pytest.raises(PromptRefused, match="naked"):
        run_pass(None, render_with(prompt="naked woman"), 1, SIZE, None)  # type: ignore[arg-type]


def test_a_negative_prompt_is_not_guarded(portrait_engine):
    assert run_pass(portrait_engine, render_with(negative="naked, cartoon"), 1, SIZE, None).shape == (128, 128, 3)


def test_a_size_that_does_not_fit_is_refused_with_the_multiple(portrait_engine):
    with pytest.raises(RenderError, match="130x128.*multiples of 8"):
        run_pass(portrait_engine, RENDER, 1, (130, 128), None)


def test_denoise_decides_how_much_of_the_start_is_left(portrait):
    engine = tiny_engine("epsilon")  # its picture is what it was given less the noise that it sees
    kept = engine.decode_latents(engine.encode_images([portrait]))[0].astype(float)

    def distance(denoise: float) -> float:
        spec = render_with(denoise=denoise)
        return float(np.abs(run_pass(engine, spec, 3, SIZE, None, start=portrait) - kept).mean())

    assert distance(0.1) < distance(1.0)


def test_the_face_changes_less_than_the_scene_where_its_denoise_is_lower(portrait_engine, portrait):
    start = np.ascontiguousarray(portrait[:, ::-1])
    kept = portrait_engine.decode_latents(portrait_engine.encode_images([start]))[0].astype(float)
    face = np.zeros((128, 128), np.float32)
    face[32:96, 32:96] = 1.0
    spec = render_with(steps=8, denoise=1.0, face_denoise=0.0)
    change = np.abs(run_pass(portrait_engine, spec, 3, SIZE, None, start=start, face_mask=face) - kept).mean(2)
    assert change[face > 0].max() <= 1.0
    assert change[face == 0].mean() > 5.0


def test_the_latent_mask_is_one_off_the_face_and_the_share_on_it():
    face = np.zeros((64, 64), np.float32)
    face[16:32, 16:32] = 1.0
    mask = soft_latent_mask(face, 0.55, 8)
    assert mask.shape == (1, 1, 8, 8)
    assert torch.allclose(mask[0, 0, 2:4, 2:4], torch.tensor(0.55))
    assert float(mask.sum()) == pytest.approx(64 - 4 * 0.45, abs=1e-4)
    assert torch.equal(soft_latent_mask(face, 1.4, 8), torch.ones(1, 1, 8, 8))
