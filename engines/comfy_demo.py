"""The demo base as ComfyUI's own MODEL, CLIP and VAE, so that every stock node works with it.

No stock loader knows its shape (32 latent channels, a closed vocabulary, a closed-form codec), so the three objects are
built here from ComfyUI's public classes. Everything that has a meaning (the UNet's layout, the noise schedule, the
vocabulary, the codec) comes from `demo_base`; this file only says it in ComfyUI's words.
"""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.ops
import comfy.sd
import comfy.supported_models_base
import comfy.utils
import torch
from comfy.sd1_clip import ClipTokenWeightEncoder, escape_important, token_weights, unescape_important
from torch import Tensor, nn

from ..errors import CheckpointError
from . import demo_base
from .diffusers import lora_key
from .lora_file import read_lora, weight_change

ASSETS = Path(__file__).resolve().parent.parent / "assets"
BASE = "demo_base.safetensors"
LOOKS: dict[str, str | None] = {"studio": None, "film": "demo_look.safetensors"}  # delta files that turn the base
LAYERS = comfy.ops.disable_weight_init  # ComfyUI's layers: with little memory it leaves their weights on the CPU


def load_demo(
    look: str = "studio", folder: Path = ASSETS
) -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """MODEL, CLIP and VAE of the demo base, in float32, fresh at every call and shared with nobody.

    look: "studio" (the base as it is) or "film" (with the look's delta merged). folder: where the two files lie.
    Raises CheckpointError for a file that is missing, damaged or of another kind, and for other looks.
    """
    if look not in LOOKS:
        raise CheckpointError(f"The demo base has no look '{look}'; take one of {', '.join(LOOKS)}.")
    file = demo_base.read_demo_file(folder / BASE)
    delta = LOOKS[look]
    if delta is not None:
        _merge(file.unet, folder / delta)
    codec = demo_base.PatchPCA(LAYERS)
    file.fill(codec, file.codec)
    return _model(file, codec), _clip(file), _vae(codec)


def unknown_words(clip: Any, prompt: str) -> tuple[str, ...]:
    """The words of `prompt` that this text encoder leaves out, each once; () for every CLIP but the demo base's."""
    tokenizer = getattr(clip, "tokenizer", None)
    return tokenizer.unknown_words(prompt) if isinstance(tokenizer, DemoTokenizer) else ()


# ---- MODEL ---------------------------------------------------------------------------------------------------------


class DemoLatents(comfy.latent_formats.LatentFormat):
    latent_channels = demo_base.LATENT_CHANNELS
    spacial_downscale_ratio = demo_base.PATCH  # ComfyUI's spelling
    scale_factor = 1.0

    def preview_with(self, codec: demo_base.PatchPCA) -> None:
        """The codec is linear, so each cell's mean colour is an exact linear function of its latent: no fit needed."""
        self.latent_rgb_factors = codec.decoder.weight.mean((2, 3)).tolist()
        self.latent_rgb_factors_bias = codec.get_buffer("mean").mean((0, 2, 3)).tolist()


class DemoSampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.X0):
    pass


class DemoModel(comfy.model_base.BaseModel):
    def __init__(self, model_config: DemoConfig, device: Any = None) -> None:
        super().__init__(model_config, device=device)
        # ComfyUI has the class for a model that predicts x0, but no ModelType that would choose it.
        self.model_sampling = DemoSampling(model_config)


def _unet_config() -> dict[str, Any]:
    """demo_base.UNET_CONFIG in the words of ComfyUI's UNetModel. Lists, as unet_to_diffusers consumes them."""
    config = demo_base.UNET_CONFIG
    channels, layers = config["block_out_channels"], config["layers_per_block"]
    down = [int(kind.startswith("CrossAttn")) for kind in config["down_block_types"]]
    up = [int(kind.startswith("CrossAttn")) for kind in reversed(config["up_block_types"])]  # shallow to deep
    return dict(
        image_size=config["sample_size"],
        in_channels=config["in_channels"],
        out_channels=config["out_channels"],
        model_channels=channels[0],
        channel_mult=[wide // channels[0] for wide in channels],
        num_res_blocks=[layers] * len(channels),
        transformer_depth=[depth for depth in down for _ in range(layers)],
        transformer_depth_output=[depth for depth in up for _ in range(layers + 1)],
        transformer_depth_middle=1,
        context_dim=config["cross_attention_dim"],
        use_spatial_transformer=True,
        use_linear_in_transformer=False,
        legacy=False,
    )


class DemoConfig(comfy.supported_models_base.BASE):
    # By number, not by width: 64 channels a head, BASE's default, loads as silently and computes something else.
    unet_extra_config = {"num_heads": demo_base.UNET_CONFIG["attention_head_dim"], "num_head_channels": -1}
    sampling_settings = {
        "beta_schedule": "linear",  # linear in the square root: diffusers' "scaled_linear"
        "linear_start": demo_base.SCHEDULE["beta_start"],
        "linear_end": demo_base.SCHEDULE["beta_end"],
        "timesteps": demo_base.SCHEDULE["num_train_timesteps"],
        "zsnr": demo_base.SCHEDULE["rescale_betas_zero_snr"],
    }
    latent_format: Any = DemoLatents  # the class here, its instance in an instance, as BASE has it
    title, architecture, native_size = "demo base", "demo", demo_base.PIXELS  # as ComfyEngine's card tells them
    supported_inference_dtypes = [torch.float32]

    def inpaint_model(self) -> bool:
        return False  # BASE takes more than four input channels for a mask and a masked picture

    def get_model(self, state_dict: dict[str, Tensor], prefix: str = "", device: Any = None) -> DemoModel:
        return DemoModel(self, device=device)


def _model(file: demo_base.DemoFile, codec: demo_base.PatchPCA) -> comfy.model_patcher.ModelPatcher:
    config = DemoConfig(_unet_config())
    config.set_inference_dtype(torch.float32, None)
    config.latent_format.preview_with(codec)
    offload = comfy.model_management.unet_offload_device()
    model = config.get_model({}, device=offload)
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    file.fill(model.diffusion_model, {names.get(key, key): value for key, value in file.unet.items()})
    return _patcher(model, comfy.model_management.get_torch_device(), offload)


def _merge(unet: dict[str, Tensor], delta: Path) -> None:
    """Adds a look's delta to the weights in place. Raises CheckpointError."""
    if not delta.is_file():
        raise CheckpointError(f"The demo look is not at {delta}; restore it from the repository (git checkout).")
    names = {lora_key(key.removesuffix(".weight")): key for key in unet if key.endswith(".weight")}
    try:
        for key, down, up, scale in read_lora(delta).modules():
            unet[names[key]] += weight_change(down, up, scale)
    except (CheckpointError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split()).split(";")[0][:200]  # without the advice for LoRA files in general
        raise CheckpointError(
            f"The demo look {delta} is damaged or of another base ({reason}); restore it from the repository."
        ) from error


def _patcher(module: nn.Module, load_device: Any, offload_device: Any) -> comfy.model_patcher.ModelPatcher:
    """The plain kind: weights of a few megabytes gain nothing by the paging that newer versions do for large files."""
    return comfy.model_patcher.ModelPatcher(module, load_device=load_device, offload_device=offload_device)


# ---- CLIP ----------------------------------------------------------------------------------------------------------


class DemoTokenizer:
    """Prompts with ComfyUI's emphasis, as tokens that hold a word and its phrase: phrase * len(vocabulary) + word."""

    def __init__(self, embedding_directory: Any = None, tokenizer_data: dict[str, Any] | None = None) -> None:
        self.vocabulary = demo_base.Vocabulary((tokenizer_data or {})["vocabulary"])

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_: Any) -> dict[str, list[Any]]:
        words: list[tuple[int, int]] = []
        weights: list[float] = []
        for known, _unknown, weight in self._pieces(text):
            words += known
            weights += [weight] * len(known)
        weights += [1.0] * demo_base.TOKENS
        size = len(self.vocabulary)
        tokens: list[tuple[Any, ...]] = []
        for place, ((word, phrase), weight) in enumerate(zip(self.vocabulary.pad(words), weights, strict=False)):
            token = (phrase * size + word, weight)
            tokens.append((*token, place + 1 if word else 0) if return_word_ids else token)
        return {"phrases": [tokens]}

    def unknown_words(self, text: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(word for _, unknown, _ in self._pieces(text) for word in unknown))

    def _pieces(self, text: str) -> list[tuple[list[tuple[int, int]], list[str], float]]:
        """(known words, unknown words, weight) of each stretch of one weight; a phrase may go on into the next."""
        found = []
        phrase = 0
        for piece, weight in token_weights(escape_important(text), 1.0):
            known, unknown, phrase = self.vocabulary.read(unescape_important(piece), phrase)
            found.append((known, unknown, weight))
        return found

    def untokenize(self, tokens: list[tuple[Any, ...]]) -> list[tuple[Any, str]]:
        words = ("", *self.vocabulary.words)
        return [(token, words[int(token[0]) % len(words)]) for token in tokens]

    def state_dict(self) -> dict[str, Tensor]:
        return {}


class DemoTextModel(nn.Module, ClipTokenWeightEncoder):
    """PhraseEncoder as ComfyUI calls it. Its base class applies the emphasis: away from the empty prompt's context."""

    special_tokens = {"pad": demo_base.Vocabulary.PAD}

    def __init__(self, file: demo_base.DemoFile, device: Any = "cpu", dtype: Any = None, model_options: Any = None):
        super().__init__()
        self.phrases = demo_base.PhraseEncoder(file.vocabulary, LAYERS)
        file.fill(self.phrases, file.text)
        self.phrases.to(device=device, dtype=dtype)
        self.dtypes = {dtype}
        self.execution_device: Any = None

    def encode_token_weights(self, token_weight_pairs: dict[str, Any]) -> Any:
        return super().encode_token_weights(token_weight_pairs["phrases"])

    def encode(self, tokens: list[list[int]]) -> tuple[Tensor, None]:
        """(N, 32) tokens -> (N, 32, 128) and no pooled output."""
        device = self.execution_device or self.phrases.words.weight.device
        numbers = torch.tensor(tokens, device=device)
        size = len(self.phrases.vocabulary)
        return self.phrases(numbers % size, numbers // size), None

    def set_clip_options(self, options: dict[str, Any]) -> None:
        """Only the device is heard: there is one layer to stop at and one way to run it."""
        self.execution_device = options.get("execution_device", self.execution_device)

    def reset_clip_options(self) -> None:
        self.execution_device = None


def _clip(file: demo_base.DemoFile) -> comfy.sd.CLIP:
    target = comfy.supported_models_base.ClipTarget(DemoTokenizer, DemoTextModel)
    target.params = {"file": file}
    # newer versions page weights unless told not to (see _patcher); older ones have no such parameter
    plain = {"disable_dynamic": True} if "disable_dynamic" in inspect.signature(comfy.sd.CLIP).parameters else {}
    return comfy.sd.CLIP(
        target,
        tokenizer_data={"vocabulary": file.vocabulary},
        parameters=sum(weights.numel() for weights in file.text.values()),
        model_options={"dtype": torch.float32},
        **plain,
    )


# ---- VAE -----------------------------------------------------------------------------------------------------------


def _vae(codec: demo_base.PatchPCA) -> comfy.sd.VAE:
    """comfy.sd.VAE takes no module from outside, only the weights of those that it knows. So its simplest kind, a
    codec of one number that passes pixels through, is built (which chooses devices and sets every field that this
    version has), and then given our module and what differs."""
    vae = comfy.sd.VAE(sd={"pixel_space_vae": torch.ones(())}, dtype=torch.float32)
    vae.first_stage_model = codec
    vae.patcher = _patcher(codec, vae.device, comfy.model_management.vae_offload_device())
    vae.latent_channels = demo_base.LATENT_CHANNELS
    vae.downscale_ratio = vae.upscale_ratio = demo_base.PATCH
    vae.size = None  # counted again when asked for
    pixel = 4 * 3 * 4  # bytes: float32 RGB, and as much again for the latent, the mean and the clamped copy
    vae.memory_used_encode = lambda shape, dtype: pixel * math.prod(shape[-2:])
    vae.memory_used_decode = lambda shape, dtype: pixel * math.prod(shape[-2:]) * demo_base.PATCH**2
    return vae
