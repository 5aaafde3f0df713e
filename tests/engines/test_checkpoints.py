"""Loading local checkpoints: the weights arrive unchanged, a stock diffusers pipeline runs on them offline, and what
cannot be loaded is refused in words."""

import hashlib
import json
import math
import pickle
import shutil
import socket
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from identity_lock.engines.checkpoints import (
    LoadedCheckpoint,
    _attention_name,
    inspect_checkpoint,
    load_checkpoint,
)
from identity_lock.engines.configs import shapes as layout
from identity_lock.engines.tokenizer import clip_tokenizer, clip_vocabulary, read_clip_tokenizer
from identity_lock.errors import CheckpointError
from identity_lock.tests.fixtures import tiny_checkpoint as tiny

SD15 = {"levels": (1, 1), "attention": (0, 1), "clip_layers": 1}
SDXL = {"levels": (1, 1), "attention": (0, 2), "blocks_per_level": 1, "clip_layers": 1, "bigg_layers": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoints of some 100 MB each, removed with the module."""
    path = tmp_path_factory.mktemp("checkpoints")
    yield path
    shutil.rmtree(path)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the loader opened a network connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def sd15_file(folder):
    return tiny.write_sd15(folder / "portraits sd15.safetensors", **SD15)


@pytest.fixture(scope="module")
def sd15(sd15_file) -> LoadedCheckpoint:
    return load_checkpoint(sd15_file)


@pytest.fixture(scope="module")
def sdxl_file(folder):
    return tiny.write_sdxl(folder / "portraits xl.safetensors", vae="kl", v_prediction=True, **SDXL)


@pytest.fixture(scope="module")
def sdxl(sdxl_file) -> LoadedCheckpoint:
    return load_checkpoint(sdxl_file)


def small(path: Path, **tensors: torch.Tensor) -> Path:
    """A little .safetensors file whose tensor names are `tensors`', with "__" for "."."""
    save_file({name.replace("__", "."): tensor for name, tensor in tensors.items()}, path)
    return path


# ------------------------------------------------------------------------- the UNet, against LDM's own arithmetic


def sinusoid(t: torch.Tensor, width: int) -> torch.Tensor:
    frequencies = torch.exp(-math.log(10000) * torch.arange(width // 2) / (width // 2))
    angles = t.float()[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class LdmUNet:
    """The UNet of Rombach et al. (2022) as functions of a state dict under its original names. Knows no diffusers."""

    def __init__(self, weights: dict[str, torch.Tensor], heads: int):
        self.w, self.heads = weights, heads

    def linear(self, name, x):
        return F.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def conv(self, name, x, stride=1):
        weight = self.w[f"{name}.weight"]
        return F.conv2d(x, weight, self.w[f"{name}.bias"], stride=stride, padding=weight.shape[-1] // 2)

    def group_norm(self, name, x, eps=1e-5):
        return F.group_norm(x, 32, self.w[f"{name}.weight"], self.w[f"{name}.bias"], eps)

    def layer_norm(self, name, x):
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def residual(self, name, x, emb):
        h = self.conv(f"{name}.in_layers.2", F.silu(self.group_norm(f"{name}.in_layers.0", x)))
        h = h + self.linear(f"{name}.emb_layers.1", F.silu(emb))[:, :, None, None]
        h = self.conv(f"{name}.out_layers.3", F.silu(self.group_norm(f"{name}.out_layers.0", h)))
        return h + (self.conv(f"{name}.skip_connection", x) if f"{name}.skip_connection.weight" in self.w else x)

    def attention(self, name, x, context):
        q = self.linear(f"{name}.to_q", x)
        k, v = (self.linear(f"{name}.to_{kind}", context) for kind in "kv")
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        return self.linear(f"{name}.to_out.0", (weights @ v).transpose(1, 2).flatten(-2))

    def transformer(self, name, x, context):
        tokens = x.shape[-2:]
        h = self.group_norm(f"{name}.norm", x, eps=1e-6)
        linear = self.w[f"{name}.proj_in.weight"].ndim == 2
        h = h.flatten(2).transpose(1, 2) if linear else self.conv(f"{name}.proj_in", h).flatten(2).transpose(1, 2)
        h = self.linear(f"{name}.proj_in", h) if linear else h
        depth = 0
        while f"{name}.transformer_blocks.{depth}.norm1.weight" in self.w:
            block = f"{name}.transformer_blocks.{depth}"
            normed = self.layer_norm(f"{block}.norm1", h)
            h = h + self.attention(f"{block}.attn1", normed, normed)
            h = h + self.attention(f"{block}.attn2", self.layer_norm(f"{block}.norm2", h), context)
            value, gate = self.linear(f"{block}.ff.net.0.proj", self.layer_norm(f"{block}.norm3", h)).chunk(2, dim=-1)
            h = h + self.linear(f"{block}.ff.net.2", value * F.gelu(gate))
            depth += 1
        h = self.linear(f"{name}.proj_out", h) if linear else h
        h = h.transpose(1, 2).unflatten(2, tokens)
        return x + (h if linear else self.conv(f"{name}.proj_out", h))

    def block(self, name, x, emb, context):
        for index in range(3):
            layer = f"{name}.{index}"
            if f"{layer}.in_layers.2.weight" in self.w:
                x = self.residual(layer, x, emb)
            elif f"{layer}.proj_in.weight" in self.w:
                x = self.transformer(layer, x, context)
            elif f"{layer}.op.weight" in self.w:
                x = self.conv(f"{layer}.op", x, stride=2)
            elif f"{layer}.conv.weight" in self.w:
                x = self.conv(f"{layer}.conv", F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x

    def __call__(self, x, t, context, vector=None):
        emb = self.linear("time_embed.2", F.silu(self.linear("time_embed.0", sinusoid(t, tiny.MODEL_CHANNELS))))
        if vector is not None:
            emb = emb + self.linear("label_emb.0.2", F.silu(self.linear("label_emb.0.0", vector)))
        h = self.conv("input_blocks.0.0", x)
        skips, index = [h], 1
        while any(name.startswith(f"input_blocks.{index}.") for name in self.w):
            h = self.block(f"input_blocks.{index}", h, emb, context)
            skips.append(h)
            index += 1
        h = self.block("middle_block", h, emb, context)
        for index in range(len(skips)):
            h = self.block(f"output_blocks.{index}", torch.cat([h, skips.pop()], dim=1), emb, context)
        return self.conv("out.2", F.silu(self.group_norm("out.0", h)))


def ldm_unet(path: Path, heads: int) -> LdmUNet:
    prefix = "model.diffusion_model."
    return LdmUNet(
        {k.removeprefix(prefix): v.float() for k, v in load_file(path).items() if k.startswith(prefix)}, heads
    )


@torch.no_grad()
def test_sd15_unet_computes_what_the_ldm_weights_say(sd15_file, sd15):
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(2, 4, 8, 12, generator=generator)
    context = torch.randn(2, 77, 768, generator=generator)
    t = torch.tensor([7, 801])
    expected = ldm_unet(sd15_file, heads=8)(x, t, context)
    assert expected.std() > 0.05  # the comparison must not be of zeros
    torch.testing.assert_close(sd15.unet(x, t, context).sample, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_sdxl_unet_computes_what_the_ldm_weights_say(sdxl_file, sdxl):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(1, 4, 8, 8, generator=generator)
    context = torch.randn(1, 77, 2048, generator=generator)
    pooled = torch.randn(1, 1280, generator=generator)
    sizes = torch.tensor([[1024, 768, 0, 16, 1024, 768]])
    t = torch.tensor([333])
    vector = torch.cat([pooled, sinusoid(sizes, 256).flatten(1)], dim=1)
    expected = ldm_unet(sdxl_file, heads=5)(x, t, context, vector)
    conditions = {"text_embeds": pooled, "time_ids": sizes}
    assert expected.std() > 0.05
    actual = sdxl.unet(x, t, context, added_cond_kwargs=conditions).sample
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------- dimensions of the real models


def shapes_of(tensors) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def parameters(model_class, config) -> int:
    with torch.device("meta"):
        model = model_class(**config) if isinstance(config, dict) else model_class(config)
    return sum(p.numel() for p in model.parameters())


def test_full_size_unets_are_recognised():
    """Parameter counts are those of the published models."""
    from diffusers import UNet2DConditionModel

    sd15 = tiny.unet_tensors(
        levels=(1, 2, 4, 4), attention=(1, 1, 1, 0), blocks_per_level=2, middle_depth=1, context=768, device="meta"
    )
    config = layout.unet_config(shapes_of(sd15), "sd15")
    assert config["block_out_channels"] == [320, 640, 1280, 1280]
    assert config["down_block_types"] == ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
    assert config["up_block_types"] == ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3
    assert parameters(UNet2DConditionModel, config) == 859_520_964

    sdxl = tiny.unet_tensors(
        levels=(1, 2, 4),
        attention=(0, 2, 10),
        blocks_per_level=2,
        middle_depth=10,
        context=2048,
        linear_projection=True,
        label_channels=2816,
        device="meta",
    )
    config = layout.unet_config(shapes_of(sdxl), "sdxl")
    assert config["attention_head_dim"] == [5, 10, 20]
    assert config["transformer_layers_per_block"] == [1, 2, 10]
    assert parameters(UNet2DConditionModel, config) == 2_567_463_684


def test_full_size_vae_and_text_encoders_are_recognised():
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    vae = layout.vae_config(
        shapes_of(tiny.vae_kl_tensors(channels=(128, 256, 512, 512), blocks=2, device="meta")), "sdxl"
    )
    assert parameters(AutoencoderKL, vae) == 83_653_863
    clip_l = CLIPTextConfig(**layout.clip_config(shapes_of(tiny.clip_l_tensors(device="meta")), "sd15"))
    assert parameters(CLIPTextModel, clip_l) == 123_060_480
    bigg = CLIPTextConfig(**layout.open_clip_config(shapes_of(tiny.bigg_tensors(device="meta"))))
    assert parameters(CLIPTextModelWithProjection, bigg) == 694_659_840
    assert (clip_l.num_attention_heads, bigg.num_attention_heads) == (12, 20)


def test_a_unet_that_repeats_no_symmetry_is_spelt_out_or_refused():
    """SSD-1B's depths differ between blocks of a level and between the halves; its middle block has no attention."""
    from diffusers import UNet2DConditionModel

    tensors = tiny.unet_tensors(
        levels=(1, 2), attention=(0, 4), blocks_per_level=2, middle_depth=0, context=2048, linear_projection=True,
        label_channels=2816, device="meta",
    )  # fmt: skip
    pruned = {
        name: shape
        for name, shape in shapes_of(tensors).items()
        if not name.startswith(("input_blocks.4.1.transformer_blocks.3", "output_blocks.0.1.transformer_blocks.2",
                                "output_blocks.0.1.transformer_blocks.3"))
    }  # fmt: skip
    config = layout.unet_config(pruned, "sdxl")
    assert config["transformer_layers_per_block"] == [1, [3, 4]]
    assert config["reverse_transformer_layers_per_block"] == [[2, 4, 4], 1]
    assert config["mid_block_type"] == "UNetMidBlock2D"
    assert parameters(UNet2DConditionModel, config) == sum(math.prod(shape) for shape in pruned.values())

    patchy = {name: shape for name, shape in pruned.items() if not name.startswith("input_blocks.5.1")}
    with pytest.raises(CheckpointError, match="not after others"):
        layout.unet_config(patchy, "sdxl")


# ------------------------------------------------------------------------------------------------ what comes with it


def test_what_a_file_is_can_be_read_without_its_weights(sd15_file, sdxl_file):
    info = inspect_checkpoint(sd15_file)
    assert (info.architecture, info.prediction, info.dtype) == ("sd15", "epsilon", "float16")
    assert info.sha256 == hashlib.sha256(sd15_file.read_bytes()).hexdigest()
    info = inspect_checkpoint(str(sdxl_file))
    assert (info.architecture, info.prediction) == ("sdxl", "v_prediction")


@pytest.mark.parametrize("architecture", ["sd15", "sdxl"])
def test_the_noise_schedule_fits_any_scheduler(architecture):
    """alphas_cumprod of Stable Diffusion (0.99915 ... 0.00466), and no clipping of x0, which DDIM does by default."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_config(layout.shipped_config(architecture)["scheduler"])
    assert scheduler.alphas_cumprod[0] == pytest.approx(0.99915, abs=1e-5)
    assert scheduler.alphas_cumprod[-1] == pytest.approx(0.00466, abs=1e-5)
    assert scheduler.config.clip_sample is False


def test_prediction_can_be_overridden(sdxl, sd15_file):
    assert sdxl.info.prediction == sdxl.scheduler_config["prediction_type"] == "v_prediction"
    forced = load_checkpoint(sd15_file, prediction="v_prediction", dtype=torch.float16)
    assert forced.info.prediction == forced.scheduler_config["prediction_type"] == "v_prediction"
    assert {p.dtype for p in (*forced.unet.parameters(), *forced.text_encoders[0].parameters())} == {torch.float16}
    with pytest.raises(CheckpointError, match="'noise'.*epsilon"):
        load_checkpoint(sd15_file, prediction="noise")


def test_base_weights_are_frozen_and_cast(sd15_file, tmp_path):
    path = tmp_path / "bfloat16.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(sd15_file).items()}, path)
    loaded = load_checkpoint(path)
    path.unlink()
    assert loaded.info.dtype == "bfloat16"
    for module in (loaded.unet, loaded.vae, *loaded.text_encoders):
        assert not module.training
        assert all(p.dtype == torch.float32 and not p.requires_grad and p.isfinite().all() for p in module.parameters())


def test_a_file_overwritten_later_does_not_change_the_loaded_weights(sd15_file, tmp_path):
    """safetensors maps the file into memory; a model that shared that map would change with it."""
    path = tmp_path / "overwritten.safetensors"
    shutil.copyfile(sd15_file, path)
    loaded = load_checkpoint(path, dtype=torch.float16)  # as stored, so that no cast makes a copy by chance
    modules = (loaded.unet, loaded.vae, *loaded.text_encoders)
    before = [p.float().abs().sum() for module in modules for p in module.parameters()]
    header = int.from_bytes(path.read_bytes()[:8], "little") + 8
    with path.open("r+b") as file:
        file.seek(header)
        file.write(bytes(path.stat().st_size - header))
    after = [p.float().abs().sum() for module in modules for p in module.parameters()]
    path.unlink()
    assert before == after


def test_taesd_round_trip_is_the_mosaic_that_its_weights_describe(sd15):
    assert (sd15.vae_scale, sd15.vae_shift) == (pytest.approx(1.0), 0.0)
    tiles = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * 0.4 - 0.2
    picture = F.interpolate(tiles, scale_factor=8.0, mode="nearest")
    with torch.no_grad():
        latent = sd15.vae.encode(picture).latents
        again = sd15.vae.decode(latent).sample
    assert latent.shape == (1, 4, 4, 4)
    assert (again - picture).abs().max() < 0.02  # what is left is TAESD's soft clamp of the latent


def test_taesd_scale_and_shift_mean_what_they_mean_in_comfyui(sd15_file, tmp_path):
    """There the VAE's latent is z / scale + shift, and the model sees 0.18215 times that."""
    path = tmp_path / "shifted.safetensors"
    taesd = tiny.taesd_tensors(scale=0.5, shift=0.3)
    save_file(load_file(sd15_file) | {f"first_stage_model.{name}": tensor for name, tensor in taesd.items()}, path)
    loaded = load_checkpoint(path)
    path.unlink()
    z = torch.tensor(1.7)
    assert (z - loaded.vae_shift) * loaded.vae_scale == pytest.approx(0.18215 * (1.7 / 0.5 + 0.3), rel=1e-6)


def test_kl_vae_of_sdxl(sdxl):
    assert (sdxl.vae_scale, sdxl.vae_shift) == (0.13025, 0.0)
    with torch.no_grad():
        latent = sdxl.vae.encode(torch.zeros(1, 3, 32, 64)).latent_dist.mean
        assert latent.shape == (1, 4, 4, 8)
        assert sdxl.vae.decode(latent).sample.shape == (1, 3, 32, 64)


def test_sdxl_in_half_precision_keeps_its_vae_in_full(sdxl_file):
    half = load_checkpoint(sdxl_file, dtype=torch.float16)
    assert half.unet.dtype == half.text_encoders[1].dtype == torch.float16
    assert half.vae.dtype == torch.float32


def test_open_clip_weights_are_split_where_they_belong(sdxl_file, sdxl):
    source = load_file(sdxl_file)
    prefix = "conditioner.embedders.1.model."
    encoder = sdxl.text_encoders[1]
    attention = encoder.text_model.encoder.layers[0].self_attn
    fused = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
    assert torch.equal(fused, source[f"{prefix}transformer.resblocks.0.attn.in_proj_weight"].float())
    assert torch.equal(encoder.text_projection.weight, source[f"{prefix}text_projection"].float().T)
    assert encoder.config.hidden_act == "gelu" and sdxl.text_encoders[0].config.hidden_act == "quick_gelu"


@torch.no_grad()
def test_text_encoders_equal_ones_built_the_ordinary_way(sdxl):
    """Ours are made without memory and then filled: nothing that is not in the file may be lost on the way."""
    ids = torch.tensor([[49406, 320, 1125, 49407, 49407]])
    for encoder in sdxl.text_encoders:
        ordinary = type(encoder)(encoder.config).eval()
        ordinary.load_state_dict(encoder.state_dict())
        assert torch.equal(encoder(ids)[0], ordinary(ids)[0])


@torch.no_grad()
def test_clip_l_weights_keep_their_names(sd15_file, sd15):
    prefix = "cond_stage_model.transformer.text_model."
    source = {k.removeprefix(prefix): v.float() for k, v in load_file(sd15_file).items() if k.startswith(prefix)}
    loaded = {name.removeprefix("text_model."): t for name, t in sd15.text_encoders[0].state_dict().items()}
    assert source.keys() == loaded.keys() and all(torch.equal(source[name], loaded[name]) for name in source)


@pytest.mark.parametrize(
    "text, ids",
    [
        ("a photo of a cat", [49406, 320, 1125, 539, 320, 2368, 49407]),
        ("", [49406, 49407]),
        ("  Two   SPACES\nnewline", [49406, 1237, 9006, 1218, 1148, 49407]),
        # These two from OpenCLIP's own tokenizer: contractions, digits one by one, bytes beyond ASCII.
        ("Don't STOP, it's 1999", [49406, 847, 713, 1691, 267, 585, 568, 272, 280, 280, 280, 49407]),
        ("naïve café —", [49406, 1097, 35689, 563, 15304, 2005, 49407]),
    ],
)
def test_tokenizer_gives_clips_ids(text, ids):
    assert clip_tokenizer()(text).input_ids == ids


def test_vocabulary_and_padding(sdxl):
    vocabulary, merges = clip_vocabulary()
    assert len(vocabulary) == 49408 and len(merges) == 48894
    padded = [
        tokenizer("a cat", padding="max_length", max_length=77, truncation=True).input_ids
        for tokenizer in sdxl.tokenizers
    ]
    assert [len(ids) for ids in padded] == [77, 77]
    assert (padded[0][-1], padded[1][-1]) == (49407, 0)


# ------------------------------------------------------------------------------------------------ stock pipelines run


def one_step(pipeline) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(1187891159)
    return pipeline(
        "a portrait", negative_prompt="blurry", height=64, width=64, num_inference_steps=1, guidance_scale=5.8,
        generator=generator, output_type="pt",
    ).images  # fmt: skip


def test_a_diffusers_sd15_pipeline_runs_on_the_components(sd15):
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    assert sd15.scheduler_config["_class_name"] == "PNDMScheduler"
    pipeline = StableDiffusionPipeline(
        vae=sd15.vae,
        text_encoder=sd15.text_encoders[0],
        tokenizer=sd15.tokenizers[0],
        unet=sd15.unet,
        scheduler=PNDMScheduler.from_config(sd15.scheduler_config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    images = one_step(pipeline)
    assert images.shape == (1, 3, 64, 64) and images.isfinite().all() and images.std() > 0.01


def test_a_diffusers_sdxl_pipeline_runs_on_the_components(sdxl):
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline(
        vae=sdxl.vae,
        text_encoder=sdxl.text_encoders[0],
        text_encoder_2=sdxl.text_encoders[1],
        tokenizer=sdxl.tokenizers[0],
        tokenizer_2=sdxl.tokenizers[1],
        unet=sdxl.unet,
        scheduler=EulerDiscreteScheduler.from_config(sdxl.scheduler_config),
        add_watermarker=False,
    )
    images = one_step(pipeline)
    assert images.shape == (1, 3, 64, 64) and images.isfinite().all() and images.std() > 0.01


# ------------------------------------------------------------------------------------------------- diffusers folders


@pytest.fixture(scope="module")
def sd15_folder(folder, sd15):
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    path = folder / "sd15 folder"
    scheduler = DDIMScheduler.from_config(sd15.scheduler_config, prediction_type="v_prediction")
    StableDiffusionPipeline(
        vae=sd15.vae,
        text_encoder=sd15.text_encoders[0],
        tokenizer=sd15.tokenizers[0],
        unet=sd15.unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(path, safe_serialization=True)
    return path


def test_a_diffusers_folder_gives_the_same_components(sd15_folder, sd15):
    info = inspect_checkpoint(sd15_folder)
    assert (info.architecture, info.prediction, info.dtype) == ("sd15", "v_prediction", "float32")
    loaded = load_checkpoint(sd15_folder)
    assert loaded.vae_scale == pytest.approx(1.0)
    for ours, theirs in zip(
        (loaded.unet, loaded.vae, loaded.text_encoders[0]), (sd15.unet, sd15.vae, sd15.text_encoders[0]), strict=True
    ):
        ours, theirs = ours.state_dict(), theirs.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert loaded.tokenizers[0]("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]


@pytest.fixture
def copy(sd15_folder, tmp_path):
    """A copy of the folder to damage; its weights are links."""
    path = tmp_path / "copy"
    yield shutil.copytree(sd15_folder, path, copy_function=link)
    shutil.rmtree(path)


def test_a_folders_hash_follows_its_content(sd15_folder, copy):
    assert inspect_checkpoint(copy).sha256 == inspect_checkpoint(sd15_folder).sha256
    edit_json(copy / "scheduler" / "scheduler_config.json", prediction_type="epsilon")
    assert inspect_checkpoint(copy).sha256 != inspect_checkpoint(sd15_folder).sha256


def link(source, target):
    """copytree without copying the weights; small files are real copies, so that a test may edit them."""
    if Path(source).suffix == ".safetensors":
        Path(target).symlink_to(source)
    else:
        shutil.copyfile(source, target)


def edit_json(file: Path, **entries):
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def remove(copy: Path, name: str):
    target = copy / name
    shutil.rmtree(target) if target.is_dir() else target.unlink()


def to_bin(copy: Path):
    (copy / "unet" / "diffusion_pytorch_model.safetensors").rename(copy / "unet" / "diffusion_pytorch_model.bin")


def drop_a_tensor(copy: Path):
    file = copy / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors.pop("encoder.layers.0.weight")
    file.unlink()
    save_file(tensors, file)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda copy: remove(copy, "model_index.json"), "no model_index.json.*name a .safetensors file"),
        (lambda copy: (copy / "model_index.json").write_text("{"), "model_index.json cannot be read"),
        (lambda copy: edit_json(copy / "model_index.json", _class_name="FluxPipeline"), "holds a FluxPipeline"),
        (lambda copy: remove(copy, "vae"), "no vae"),
        (lambda copy: remove(copy, "tokenizer"), "no tokenizer"),
        (lambda copy: remove(copy, "scheduler"), "no scheduler"),
        (lambda copy: remove(copy, "text_encoder/model.safetensors"), "holds no model.safetensors"),
        (to_bin, r"\.bin \(pickle\) weights only.*save the model with safetensors"),
        (drop_a_tensor, r"vae.*1 missing \(encoder.layers.0.weight\)"),
        (lambda copy: edit_json(copy / "unet" / "config.json", cross_attention_dim=1024), "text width 1024"),
        (lambda copy: edit_json(copy / "unet" / "config.json", quantization_config={}), "quantised"),
        (lambda copy: edit_json(copy / "vae" / "config.json", _class_name="AutoencoderDC"), "of class AutoencoderDC"),
        (
            lambda copy: edit_json(copy / "scheduler" / "scheduler_config.json", prediction_type="odd"),
            "unknown prediction type, 'odd'",
        ),
        (
            lambda copy: edit_json(copy / "scheduler" / "scheduler_config.json", num_train_timesteps=10**13),
            "describes no schedule of noise .*2 to 10000 entries",
        ),
        (lambda copy: edit_json(copy / "unet" / "config.json", layers_per_block=10**9), "larger network than its"),
        (lambda copy: edit_json(copy / "unet" / "config.json", attention_head_dim=0), "describes no network"),
        (lambda copy: edit_json(copy / "text_encoder" / "config.json", num_hidden_layers=10**9), "larger network"),
        (lambda copy: edit_json(copy / "text_encoder" / "config.json", vocab_size="many"), "describes no network"),
        (lambda copy: (copy / "unet" / "config.json").write_text("[" * 100_000), "cannot be read as JSON .*nested"),
        (lambda copy: renumber_the_words(copy), "tokenizer .* cannot be read .*numbered from 0"),
    ],
)
def test_a_damaged_folder_is_refused_in_words(copy, damage, message):
    damage(copy)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(copy)


def renumber_the_words(copy: Path) -> None:
    for file in (copy / "tokenizer").iterdir():
        if file.name == "tokenizer.json":
            told = json.loads(file.read_text())
            told["model"]["vocab"]["a</w>"] = 10**6
        elif file.name == "vocab.json":
            told = json.loads(file.read_text()) | {"a</w>": 10**6}
        else:
            continue
        file.unlink()
        file.write_text(json.dumps(told))


@pytest.mark.parametrize("files", ["tokenizer.json", "vocab.json and merges.txt"])
def test_a_folders_tokenizer_reads_as_transformers_own_does(sd15_folder, tmp_path, files):
    from transformers import CLIPTokenizer

    folder = tmp_path / "tokenizer"
    shutil.copytree(sd15_folder / "tokenizer", folder)
    if files != "tokenizer.json":
        vocabulary, merges = clip_vocabulary()
        (folder / "tokenizer.json").unlink()
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n")
    ours, theirs = read_clip_tokenizer(folder), CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    options = dict(padding="max_length", max_length=77, truncation=True)
    for prompt in ("", "a photo of a cat", "Zoë's 3rd CAFÉ, at 5 o'clock", "woman " * 100, "\N{GRINNING FACE} #hash"):
        assert ours(prompt, **options).input_ids == theirs(prompt, **options).input_ids


def test_words_that_were_added_to_a_tokenizer_are_known(sd15_folder, tmp_path):
    folder = tmp_path / "tokenizer"
    shutil.copytree(sd15_folder / "tokenizer", folder)
    (folder / "added_tokens.json").write_text(json.dumps({"<her-coat>": 49409, "<her-hat>": 49408}))
    tokenizer = read_clip_tokenizer(folder)
    assert tokenizer("a <her-coat> <her-hat>").input_ids[2:4] == [49409, 49408] and len(tokenizer) == 49410


def test_an_index_that_names_another_file_is_not_followed(copy, tmp_path):
    """The weights of a folder are the files in it; transformers' and diffusers' own loaders go where the index says."""
    for part, stem in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        whole = copy / part / f"{stem}.safetensors"
        whole.rename(copy / part / f"{stem}-00001-of-00001.safetensors")
        elsewhere = {"metadata": {}, "weight_map": {"conv_in.weight": "../../../elsewhere.safetensors"}}
        (copy / part / f"{stem}.safetensors.index.json").write_text(json.dumps(elsewhere))
    loaded = load_checkpoint(copy)
    assert loaded.info.architecture == "sd15"


def test_the_old_names_of_a_vaes_attention_are_understood():
    old = "encoder.mid_block.attentions.0."
    assert _attention_name(old + "query.weight") == old + "to_q.weight"
    assert _attention_name(old + "proj_attn.bias") == old + "to_out.0.bias"
    assert _attention_name(old + "to_q.weight") == old + "to_q.weight"
    assert _attention_name("decoder.conv_in.weight") == "decoder.conv_in.weight"


def test_the_fp16_variant_of_a_folder_is_found(copy):
    for file in list(copy.glob("*/*.safetensors")):
        file.rename(file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))
    assert load_checkpoint(copy).info.architecture == "sd15"


# ------------------------------------------------------------------------------------------------------- refusals


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere.safetensors does not exist"):
        load_checkpoint(tmp_path / "nowhere.safetensors")


def test_pickles_are_never_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    for name, content in (
        ("model.ckpt", pickle.dumps(Bomb())),
        ("renamed.safetensors", pickle.dumps(Bomb())),
        ("zipped.safetensors", None),
    ):
        path = tmp_path / name
        if content is None:
            torch.save({"x": torch.zeros(2)}, path)
        else:
            path.write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{name} is a pickle file.*convert it to .safetensors"):
            load_checkpoint(path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is empty"),
        (b"GGUF\x03\x00\x00\x00", "GGUF"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n", "Git LFS pointer"),
        (b"<!doctype html><html><body>Sign in to download</body></html>", "web page"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{\"a\": ", "truncated or damaged"),
    ],
)  # fmt: skip
def test_files_that_are_no_safetensors(tmp_path, content, message):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"model.safetensors.*{message}"):
        inspect_checkpoint(path)


def test_a_truncated_download(sd15_file, tmp_path):
    path = tmp_path / "cut.safetensors"
    with sd15_file.open("rb") as whole:
        path.write_bytes(whole.read(1 << 20))
    with pytest.raises(CheckpointError, match="cut.safetensors is truncated"):
        inspect_checkpoint(path)


@pytest.mark.parametrize(
    "name, message",
    [
        ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", "a LoRA"),
        ("unet.down_blocks.0.attentions.0.to_q.lora_A.weight", "a LoRA"),
        ("control_model.input_blocks.0.0.weight", "a ControlNet"),
        ("double_blocks.0.img_attn.qkv.weight", "a Flux-like transformer"),
        ("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", "a Stable Diffusion 3 transformer"),
        ("first_stage_model.decoder.conv_in.weight", "a VAE alone"),
        ("text_model.embeddings.position_embedding.weight", "a text encoder alone"),
        ("input_blocks.0.0.weight", "a UNet alone"),
        ("down_blocks.0.resnets.0.conv1.weight", "a UNet in diffusers layout"),
        ("something.else", "its first tensor is something.else"),
    ],
)
def test_another_kind_of_model_is_named(tmp_path, name, message):
    path = tmp_path / "other.safetensors"
    save_file({name: torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=f"other.safetensors is no Stable Diffusion checkpoint: .*{message}"):
        load_checkpoint(path)


UNET = "model__diffusion_model__"


@pytest.mark.parametrize(
    "channels, context, vector, extra, message",
    [
        (9, 768, 0, {}, "an inpainting model"),
        (8, 768, 0, {}, "instruction-editing"),
        (4, 1024, 0, {}, "looks like Stable Diffusion 2"),
        (4, 1280, 2560, {}, "the SDXL refiner"),
        (4, 512, 0, {}, "text width 512"),
        (4, 2048, 2816, {"edm_mean": torch.zeros(4)}, "EDM model"),
        (4, 768, 0, {}, "no text encoder"),
        (4, 2048, 2816, {"conditioner__embedders__0__transformer__x": torch.zeros(1)}, "no second text encoder"),
        (4, 768, 0, {"cond_stage_model__transformer__x": torch.zeros(1)}, "no VAE"),
        (4, 768, 0, {f"{UNET}x": torch.zeros(2).to(torch.float8_e4m3fn)}, "F8_E4M3.*use an fp16"),
        (4, 768, 0, {"cond_stage_model__transformer__x": torch.zeros(2, dtype=torch.int8)}, "stores.*as I8"),
    ],
)
def test_variants_that_cannot_be_used_are_named(tmp_path, channels, context, vector, extra, message):
    tensors = {
        f"{UNET}input_blocks__0__0__weight": torch.zeros(320, channels, 3, 3),
        f"{UNET}input_blocks__1__1__transformer_blocks__0__attn2__to_k__weight": torch.zeros(1, context),
    }
    if vector:
        tensors[f"{UNET}label_emb__0__0__weight"] = torch.zeros(1, vector)
    path = small(tmp_path / "variant.safetensors", **tensors, **extra)
    with pytest.raises(CheckpointError, match=f"variant.safetensors .*{message}"):
        inspect_checkpoint(path)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda t: t.pop("model.diffusion_model.middle_block.1.transformer_blocks.0.norm2.bias"),
            r"UNet.*1 missing \(mid_block.attentions.0.transformer_blocks.0.norm2.bias\)",
        ),
        (
            lambda t: t.update({"model.diffusion_model.gate.weight": torch.zeros(3)}),
            r"UNet.*1 unexpected \(model.diffusion_model.gate.weight\)",
        ),
        (
            lambda t: t.update({"model.diffusion_model.out.0.weight": torch.zeros(7)}),
            r"UNet.*1 of another shape \(conv_norm_out.weight\)",
        ),
        (
            lambda t: t.pop("cond_stage_model.transformer.text_model.final_layer_norm.bias"),
            r"text encoder.*1 missing \(.*final_layer_norm.bias\)",
        ),
        (lambda t: t.pop("first_stage_model.taesd_encoder.0.bias"), r"VAE.*1 missing \(encoder.layers.0.bias\)"),
        (lambda t: t.pop("first_stage_model.taesd_encoder.0.weight"), "no tensor taesd_encoder.0.weight"),
        (lambda t: t.pop("model.diffusion_model.input_blocks.3.0.out_layers.3.weight"), "at input_blocks.3"),
    ],
)
def test_a_tensor_missing_or_left_over_is_named(sd15_file, tmp_path, change, message):
    tensors = load_file(sd15_file)
    change(tensors)
    path = tmp_path / "changed.safetensors"
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)
    path.unlink()


def test_constants_and_training_leftovers_in_a_file_do_no_harm(sd15_file, tmp_path):
    """Real single files carry these beside the weights."""
    tensors = load_file(sd15_file) | {
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
        "cond_stage_model.logit_scale": torch.tensor(4.6),
        "model_ema.decay": torch.tensor(0.9999),
        "betas": torch.linspace(0, 1, 1000, dtype=torch.float64),
    }
    path = tmp_path / "real-life.safetensors"
    save_file(tensors, path)
    assert load_checkpoint(path).info.dtype == "float16"
    path.unlink()
