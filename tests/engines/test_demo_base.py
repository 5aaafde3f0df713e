"""The shipped demo base: one file, three parts, a closed vocabulary, and a codec that keeps a face."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from identity_lock.engines import demo_base
from identity_lock.engines.diffusers import open_demo_base
from identity_lock.engines.lora_file import write_lora
from identity_lock.errors import CheckpointError
from identity_lock.tests.engines.test_diffusers_engine import fingerprint, random_lora
from identity_lock.tests.fixtures.tiny_engine import HOPPER, request, square

PATH = Path(demo_base.__file__).resolve().parents[1] / "assets" / "demo_base.safetensors"


@pytest.fixture(scope="module")
def shipped():
    if not PATH.is_file():
        pytest.skip("the demo base is not in assets/: make it with tools/, or restore it from the repository")
    return open_demo_base(PATH)


def test_it_opens_samples_and_decodes(shipped):
    prompt = shipped.encode_prompt("photo of a person, gray background")
    result = shipped.sample(request(shipped, (1, 2), positive=prompt, width=128, height=128, steps=2, sampler="ddim"))
    pictures = shipped.decode_latents(result.latents)
    assert [p.shape for p in pictures] == [(128, 128, 3)] * 2 and prompt.unknown_words == ()
    assert np.abs(pictures[0].astype(int) - pictures[1].astype(int)).max() > 8


def test_every_word_of_the_demo_is_in_its_vocabulary(shipped):
    captions = json.loads((PATH.parent / "photos" / "captions.json").read_text())
    for caption in captions.values():
        # the base's captions say "middle-aged", its encoder splits at the hyphen: those two it never learned
        assert set(shipped.encode_prompt(caption).unknown_words) <= {"middle", "aged"}
    assert shipped.encode_prompt("photo of a unicorn").unknown_words == ("unicorn",)


def test_its_codec_keeps_a_face_recognisable(shipped, meter):
    """The codec's own loss, without any sampling: the same person, by the real recogniser."""
    back = shipped.decode_latents(shipped.encode_images([square(HOPPER, 128)]))[0]
    drift = meter.measure_one(back)
    assert drift.detected and drift.value < 0.5


def test_the_base_is_frozen_and_in_evaluation_mode(shipped):
    for module in (shipped.unet, shipped.codec.module, shipped.text.module):
        assert not module.training and not any(p.requires_grad for p in module.parameters())


def test_a_look_file_makes_a_second_base_with_a_hash_of_its_own(shipped, tmp_path):
    look = write_lora(random_lora(shipped, scale=0.02), tmp_path / "film.safetensors")
    styled, again = open_demo_base(PATH, look=look), open_demo_base(PATH)
    assert styled.card.name == "film" and styled.card.sha256 != shipped.card.sha256 == again.card.sha256
    a = styled.sample(request(styled, (1,), width=128, height=128, steps=1)).latents
    b = shipped.sample(request(shipped, (1,), width=128, height=128, steps=1)).latents
    assert not torch.allclose(a, b, atol=1e-3)
    # the look is baked in: it is the very function of that LoRA at strength 1
    with shipped.patched(random_lora(shipped, scale=0.02), 1.0):
        c = shipped.sample(request(shipped, (1,), width=128, height=128, steps=1)).latents
    torch.testing.assert_close(a, c, atol=1e-4, rtol=1e-4)


def test_saving_and_loading_gives_the_same_base(shipped, tmp_path):
    base = demo_base.load_demo_base(PATH)
    demo_base.save_demo_base(base, tmp_path / "copy.safetensors")
    assert fingerprint(open_demo_base(tmp_path / "copy.safetensors").unet)[0] == fingerprint(shipped.unet)[0]


def test_a_base_that_is_missing_damaged_or_something_else_is_refused_in_words(shipped, tmp_path):
    with pytest.raises(CheckpointError, match="not at .*nowhere.safetensors; restore it"):
        open_demo_base(tmp_path / "nowhere.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(PATH.read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match="cut.safetensors is damaged"):
        open_demo_base(cut)
    other = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, other)
    with pytest.raises(CheckpointError, match="other.safetensors is not a demo base"):
        open_demo_base(other)
    holed = load_file(PATH)
    holed.pop(next(key for key in holed if key.startswith("unet.")))
    save_file(holed, tmp_path / "holed.safetensors", metadata=demo_base.load_demo_base(PATH).metadata)
    with pytest.raises(CheckpointError, match="holed.safetensors is incomplete.*Missing key"):
        open_demo_base(tmp_path / "holed.safetensors")


def test_prompts_are_read_as_they_were_in_training(shipped):
    """Small words are left out although the vocabulary lists some: every prompt of the training was read so."""
    text = load_text(PATH)
    with torch.no_grad():
        whole, unknown = text.encode("photo of a sks person, facing forward, golden hour field")
        small_left_out, _ = text.encode("photo sks person, facing forward, golden hour field")
    assert "of" in text.vocabulary.words and torch.equal(whole, small_left_out) and unknown == ()
    context = shipped.encode_prompt("photo of sks person, green background").data.double()
    assert float(context.square().sum()) == pytest.approx(1429.5217, abs=1e-3)  # measured when the base was finished


def load_text(path):
    return demo_base.load_demo_base(path).text


# ---- the parts -----------------------------------------------------------------------------------------------------


def test_phrases_are_kept_apart_so_that_green_knows_its_background():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text = demo_base.PhraseEncoder(("green", "red", "shirt", "background")).eval()
    with torch.no_grad():
        one, _ = text.encode("green background, red shirt")
        two, _ = text.encode("red background, green shirt")
        spaced, _ = text.encode("  Green   BACKGROUND ,red shirt")
        with_small_words, _ = text.encode("a green background, with the red shirt")
    assert one.shape == (1, demo_base.TOKENS, demo_base.WIDTH)
    assert not torch.allclose(one[0, 0], two[0, 2], atol=1e-3)  # "green" of another phrase is another vector
    assert torch.equal(one, spaced) and torch.equal(one, with_small_words)


def test_a_prompt_longer_than_the_encoder_is_cut_and_an_empty_one_is_allowed():
    text = demo_base.PhraseEncoder(("red",))
    tokens = text.tokenise(", ".join(["red"] * 50))
    assert tokens.ids.shape == tokens.phrases.shape == (demo_base.TOKENS,)
    assert int(tokens.phrases.max()) < demo_base.TOKENS
    with torch.no_grad():
        assert torch.isfinite(text.encode("")[0]).all()


def test_the_codec_gives_unit_variance_times_its_scale_and_its_decoder_undoes_it():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand((8, 3, 16, 16), generator=generator)
    pixels = torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bicubic").clamp(0, 1) * 2 - 1
    codec = demo_base.PatchPCA.fit(pixels)
    latents = codec.encode(pixels)
    assert latents.shape == (8, 32, 8, 8)
    deviation = latents.transpose(0, 1).flatten(1).std(1)
    torch.testing.assert_close(deviation[:16], torch.full((16,), 1.8), atol=0.02, rtol=0)
    assert (deviation[16:] < 1.81).all() and abs(float(latents[:, :16].mean())) < 1e-3
    assert (codec.decode(latents) - pixels).abs().mean() < 0.05
