"""The embedded engine: LoRAs go on and come off without a trace, and its pictures are those of a stock pipeline."""

import dataclasses
import hashlib
import logging

import numpy as np
import pytest
import torch
from torch import nn

from identity_lock.engines.diffusers import lora_key
from identity_lock.engines.lora_file import ALPHA, DOWN, UP, LoraWeights, weight_change
from identity_lock.errors import CheckpointError
from identity_lock.tests.fixtures.tiny_engine import HOPPER, request, square, tiny_engine


def random_lora(engine, *, scale=0.05, rank=4, seed=0, name="random"):
    """A LoRA on every linear and convolution layer of the engine's UNet, in the file's layout."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for module_name, module in engine.unet.named_modules():
        if not isinstance(module, nn.Linear | nn.Conv2d):
            continue
        key, out = lora_key(module_name), module.weight.shape[0]
        up_shape = (out, rank) if module.weight.ndim == 2 else (out, rank, 1, 1)
        tensors[key + DOWN] = torch.randn((rank, *module.weight.shape[1:]), generator=generator) * scale
        tensors[key + UP] = torch.randn(up_shape, generator=generator) * scale
        tensors[key + ALPHA] = torch.tensor(float(rank))
    return LoraWeights(name, tensors)


def fingerprint(module):
    """Everything that a caller could find changed: values, the objects themselves, their flags, how it is built."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    objects = [(name, id(p), p.data_ptr(), p.requires_grad) for name, p in module.named_parameters()]
    built = [(name, type(m).__name__, m.training, sorted(vars(m))) for name, m in module.named_modules()]
    return digest.hexdigest(), objects, built


# ---- LoRAs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_lora_acts_while_it_is_on_and_leaves_the_very_tensors(dtype):
    engine = tiny_engine(dtype=dtype)
    lora, before, plain = random_lora(engine), fingerprint(engine.unet), engine.sample(request(engine)).latents
    with_lora = engine.sample(request(engine, lora=lora)).latents
    assert not torch.allclose(with_lora, plain, atol=1e-2)
    assert fingerprint(engine.unet) == before
    assert torch.equal(engine.sample(request(engine)).latents, plain)


def test_the_tensors_come_back_when_a_run_with_a_lora_is_broken_off(engine):
    lora, before = random_lora(engine), fingerprint(engine.unet)

    def interrupt(view):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.sample(request(engine, lora=lora), interrupt)
    assert fingerprint(engine.unet) == before


def test_the_strength_scales_the_weight_change_linearly(engine):
    lora = random_lora(engine)
    base = {name: p.detach().clone() for name, p in engine.unet.named_parameters()}
    changes = {}
    for strength in (-1.0, 0.5, 1.0, 2.0):
        with engine.patched(lora, strength):
            changes[strength] = {name: p.detach() - base[name] for name, p in engine.unet.named_parameters()}
    moved = [name for name, change in changes[1.0].items() if change.abs().max() > 0]
    assert len(moved) == len(list(lora.modules()))
    for name in moved:
        for strength, change in changes.items():
            torch.testing.assert_close(change[name], strength * changes[1.0][name], atol=1e-6, rtol=1e-4)


def test_the_alpha_of_a_foreign_file_counts(engine):
    """Written by others, alpha need not be the rank: the change is alpha / rank * up @ down."""
    key = lora_key("conv_out")
    full = LoraWeights("one", {k: v for k, v in random_lora(engine).tensors.items() if k.startswith(key + ".")})
    half = LoraWeights("half", dict(full.tensors) | {key + ALPHA: torch.tensor(2.0)})
    bare = LoraWeights("bare", {k: v for k, v in full.tensors.items() if not k.endswith(ALPHA)})
    before, changes = engine.unet.conv_out.weight.detach().clone(), {}
    for lora in (full, half, bare):
        with engine.patched(lora, 1.0):
            changes[lora.name] = engine.unet.conv_out.weight.detach() - before
    torch.testing.assert_close(changes["half"], changes["one"] / 2, atol=1e-6, rtol=1e-4)
    assert torch.equal(changes["bare"], changes["one"])


def test_the_dense_change_of_a_convolution_is_the_two_convolutions_in_a_row():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, 9, 9, generator=generator)
    down, up = torch.randn(3, 6, 3, 3, generator=generator), torch.randn(5, 3, 1, 1, generator=generator)
    in_a_row = nn.functional.conv2d(nn.functional.conv2d(x, down, padding=1), up) * 0.5
    dense = nn.functional.conv2d(x, weight_change(down, up, 0.5), padding=1)
    torch.testing.assert_close(dense, in_a_row, atol=1e-4, rtol=1e-4)


def test_strength_zero_and_no_lora_change_nothing(engine):
    before = {name: p.data_ptr() for name, p in engine.unet.named_parameters()}
    for lora, strength in ((random_lora(engine), 0.0), (None, 1.0)):
        with engine.patched(lora, strength):
            assert {name: p.data_ptr() for name, p in engine.unet.named_parameters()} == before


def test_a_lora_of_another_model_is_refused_by_name_and_nothing_stays_behind(engine):
    before = fingerprint(engine.unet)
    good = random_lora(engine)
    strange = LoraWeights("holiday", dict(good.tensors) | {
        "lora_unet_up_blocks_7_conv" + DOWN: torch.zeros(4, 8), "lora_unet_up_blocks_7_conv" + UP: torch.zeros(8, 4),
    })  # fmt: skip
    with pytest.raises(CheckpointError, match="'holiday' adapts 'lora_unet_up_blocks_7_conv', which this model does"):
        engine.sample(request(engine, lora=strange))
    wide = dict(good.tensors)
    key = lora_key("conv_out")
    wide[key + UP] = torch.zeros(99, 4, 1, 1)
    with pytest.raises(CheckpointError, match="'wide' does not fit this model at 'conv_out'"):
        engine.sample(request(engine, lora=LoraWeights("wide", wide)))
    assert fingerprint(engine.unet) == before


# ---- prompts and pictures ------------------------------------------------------------------------------------------


def test_words_that_the_demo_base_lacks_are_reported_once_each(engine):
    encoded = engine.encode_prompt("Photo of a woman, zeppelin background, chartreuse zeppelin")
    assert encoded.unknown_words == ("zeppelin", "chartreuse")
    assert engine.encode_prompt("photo of a woman, red background").unknown_words == ()


def test_a_picture_survives_the_codec_and_batches_keep_their_order(engine):
    photos = [square(HOPPER, 64), np.ascontiguousarray(square(HOPPER, 64)[:, ::-1])] * 6  # more than a codec's batch
    latents = engine.encode_images(photos)
    assert latents.shape == (12, 32, 8, 8) and latents.dtype == torch.float32
    decoded = engine.decode_latents(latents)
    for photo, back in zip(photos, decoded, strict=True):
        assert back.dtype == np.uint8 and back.shape == photo.shape and back.flags.c_contiguous
        assert np.abs(photo.astype(int) - back.astype(int)).mean() < 12
    assert engine.decode_latents(latents[:0]) == []


def test_cfg_1_asks_the_model_once_a_step_and_any_other_twice(engine):
    calls = []
    engine.unet.register_forward_pre_hook(lambda module, inputs: calls.append(1))
    engine.sample(request(engine, steps=3, cfg=1.0))
    assert len(calls) == 3
    engine.sample(request(engine, steps=3, cfg=4.0))
    assert len(calls) == 9


def test_the_card_changes_with_the_weights():
    assert tiny_engine(seed=1).card.sha256 != tiny_engine(seed=2).card.sha256 == tiny_engine(seed=2).card.sha256


# ---- Stable Diffusion checkpoints ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fixture", ["sd15_engine", "sdxl_engine"])
@pytest.mark.parametrize("cfg", [1.0, 5.0])
def test_a_checkpoint_samples_end_to_end(fixture, cfg, request_engine):
    engine = request_engine(fixture)
    wanted = request(engine, (1, 2), steps=2, cfg=cfg, sampler="dpmpp_2m")
    result = engine.sample(wanted)
    pictures = engine.decode_latents(result.latents)
    assert result.latents.shape == (2, 4, 8, 8) and torch.isfinite(result.latents).all()
    assert [p.shape for p in pictures] == [(64, 64, 3)] * 2 and pictures[0].std() > 1
    other = dataclasses.replace(wanted, positive=engine.encode_prompt("a lighthouse at night"))
    assert not torch.allclose(engine.sample(other).latents, result.latents, atol=1e-3)


def test_sdxl_is_told_its_prompt_twice_and_its_size(sdxl_engine):
    engine, seen = sdxl_engine, []

    def look(module, args, kwargs):
        seen.append((kwargs["encoder_hidden_states"], kwargs["added_cond_kwargs"]))

    handle = engine.unet.register_forward_pre_hook(look, with_kwargs=True)
    try:
        engine.sample(request(engine, (1, 2), steps=1, width=96, height=64))
    finally:
        handle.remove()
    for context, added in seen:
        assert context.shape == (2, 77, 2048) and added["text_embeds"].shape == (2, 1280)
        assert added["time_ids"].tolist() == [[64, 96, 0, 0, 64, 96]] * 2  # height before width, as in the paper
    assert not torch.allclose(seen[0][1]["text_embeds"], seen[1][1]["text_embeds"])


def test_sd15_is_told_no_size(sd15_engine):
    context, added = sd15_engine.text.batch([sd15_engine.encode_prompt("a face").data] * 3, (8, 8))
    assert context.shape == (3, 77, 768) and added is None


@pytest.fixture
def request_engine(request):
    return request.getfixturevalue


def pipeline_of(engine, file):
    """A stock diffusers pipeline around the engine's own components."""
    import diffusers

    from identity_lock.engines.checkpoints import load_checkpoint

    loaded = load_checkpoint(file)
    scheduler = diffusers.EulerDiscreteScheduler.from_config(engine.schedule, timestep_spacing="trailing")
    parts = dict(vae=engine.codec.vae, unet=engine.unet, scheduler=scheduler)
    if len(loaded.text_encoders) == 2:
        encoders = dict(text_encoder=engine.text.encoders[0], text_encoder_2=engine.text.encoders[1])
        tokenizers = dict(tokenizer=engine.text.tokenizers[0], tokenizer_2=engine.text.tokenizers[1])
        made = diffusers.StableDiffusionXLPipeline(
            **parts, **encoders, **tokenizers, force_zeros_for_empty_prompt=False, add_watermarker=False
        )
    else:
        made = diffusers.StableDiffusionPipeline(
            **parts, text_encoder=engine.text.encoders[0], tokenizer=engine.text.tokenizers[0],
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("architecture", ["sd15", "sdxl"])
def test_a_picture_is_that_of_a_stock_diffusers_pipeline(architecture, checkpoint_files, request_engine, caplog):
    caplog.set_level(logging.ERROR)
    engine = request_engine(f"{architecture}_engine")
    prompt = "photo of a woman, red background"
    ours = engine.sample(request(engine, (9,), steps=2, cfg=5.0)).latents
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(9))
    theirs = pipeline_of(engine, checkpoint_files[architecture])(
        prompt, negative_prompt="", width=64, height=64, num_inference_steps=2, guidance_scale=5.0, latents=noise,
        output_type="latent",
    ).images  # fmt: skip
    scale = float(theirs.abs().max())
    assert (ours - theirs).abs().max() < 1e-3 * scale
