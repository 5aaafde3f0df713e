"""What a checkpoint's tensor shapes say about its networks, as keyword arguments for diffusers and transformers.

Every function takes `shapes`, tensor name -> shape, with the component's prefix already removed (LDM names for the
UNet, the VAE and CLIP-L; OpenCLIP names for bigG). Nothing is read from disk but the JSON beside this file, which
holds what shapes cannot tell (activations, heads, scaling factors, noise schedule).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]

SDXL_HEAD_CHANNELS = 64  # SD1.5 has 8 heads at every width instead (attention_head_dim in sd15.json).
CLIP_HEAD_CHANNELS = 64
MAX_BLOCKS = 64  # of a half of a UNet; SD1.5 has 12
MAX_NUMBER = 1_000_000  # in a configuration; vocabularies have 50,000 words
TENSORS_PER_LAYER = 8  # at least, in every residual block, transformer block and text layer
TAESD_BLOCKS = (1, 3, 3, 3)  # encoder; the decoder has the same, reversed


def shipped_config(architecture: str) -> dict[str, Any]:
    """The JSON of one architecture: keys unet, vae, text_encoders, tokenizers, scheduler. A fresh copy each time."""
    return json.loads((Path(__file__).parent / f"{architecture}.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Level:
    """One resolution of a UNet: its width, and the transformer depth after each residual block (0: none)."""

    channels: int
    depths: tuple[int, ...]

    @property
    def has_attention(self) -> bool:
        return any(self.depths)


def _depth(shapes: Shapes, block: str) -> int:
    """Number of transformer blocks at `block`, such as "input_blocks.4.1"."""
    found = {
        int(match.group(1))
        for name in shapes
        if (match := re.match(re.escape(block) + r"\.transformer_blocks\.(\d+)\.", name))
    }
    return len(found)


def _block_count(shapes: Shapes, side: str) -> int:
    count = len({name.split(".")[1] for name in shapes if name.startswith(f"{side}.")})
    if count > MAX_BLOCKS:
        raise CheckpointError(f"The UNet has {count} {side}, more than any that is known: the file is damaged.")
    return count


def _out_channels(shapes: Shapes, block: str) -> int:
    try:
        return shapes[f"{block}.0.out_layers.3.weight"][0]
    except KeyError:
        raise CheckpointError(f"The UNet has no residual block at {block}: the file is incomplete.") from None


def input_levels(shapes: Shapes) -> list[Level]:
    """Levels of the UNet's descending half, highest resolution first."""
    levels: list[Level] = []
    depths: list[int] = []
    channels = 0
    for index in range(1, _block_count(shapes, "input_blocks")):
        block = f"input_blocks.{index}"
        if f"{block}.0.op.weight" in shapes:
            levels.append(Level(channels, tuple(depths)))
            depths = []
            continue
        channels = _out_channels(shapes, block)
        depths.append(_depth(shapes, f"{block}.1"))
    return [*levels, Level(channels, tuple(depths))]


def output_levels(shapes: Shapes) -> list[Level]:
    """Levels of the UNet's ascending half, lowest resolution first."""
    levels: list[Level] = []
    depths: list[int] = []
    last = _block_count(shapes, "output_blocks") - 1
    for index in range(last + 1):
        block = f"output_blocks.{index}"
        depths.append(_depth(shapes, f"{block}.1"))
        upsamples = any(f"{block}.{k}.conv.weight" in shapes for k in (1, 2))
        if upsamples or index == last:
            levels.append(Level(_out_channels(shapes, block), tuple(depths)))
            depths = []
    return levels


def require_evidence(config: Mapping[str, Any], shapes: Shapes) -> None:
    """Raises CheckpointError for a configuration of more layers than there are tensors for, or of numbers beyond
    reason: a network is built, layer by layer, before it can be compared with its file."""
    largest = max((abs(number) for number in _numbers(config)), default=0)
    blocks = len(config["block_out_channels"]) if isinstance(config.get("block_out_channels"), list) else 1
    per_block = sum(_numbers(config.get("layers_per_block", 2))) + 1
    depth = sum(_numbers(config.get("transformer_layers_per_block", 1))) + 1
    tiny = sum(_numbers([config.get("num_encoder_blocks", []), config.get("num_decoder_blocks", [])]))
    text = sum(_numbers(config.get("num_hidden_layers", 0)))
    layers = max(blocks, per_block, depth, tiny, text)
    if largest > MAX_NUMBER or layers > len(shapes) or blocks > MAX_BLOCKS or blocks * per_block * depth > 10_000:
        raise CheckpointError("Its configuration asks for a larger network than its weights are of: copy it again.")


def _numbers(value: Any) -> list[int]:
    """Every whole number in it, at whatever depth."""
    if isinstance(value, Mapping):
        return [number for one in value.values() for number in _numbers(one)]
    if isinstance(value, list | tuple):
        return [number for one in value for number in _numbers(one)]
    return [value] if isinstance(value, int) else []


def _require_layers(what: str, layers: int, shapes: Shapes) -> None:
    if layers * TENSORS_PER_LAYER > len(shapes):
        raise CheckpointError(f"The {what} has {layers} layers and {len(shapes)} tensors: the file is incomplete.")


def context_dim(shapes: Shapes) -> int | None:
    """Width of the text conditioning, from the first cross-attention; None where the UNet has none."""
    for name, shape in shapes.items():
        if name.endswith(".attn2.to_k.weight"):
            return shape[1]
    return None


def unet_config(shapes: Shapes, architecture: str) -> dict[str, Any]:
    """Keyword arguments for UNet2DConditionModel. Raises CheckpointError for a layout that diffusers cannot express."""
    down, up = input_levels(shapes), output_levels(shapes)
    blocks = {len(level.depths) for level in down}
    if len(blocks) != 1 or {len(level.depths) for level in up} != {next(iter(blocks)) + 1} or len(up) != len(down):
        raise CheckpointError(
            "The UNet's levels have different numbers of residual blocks "
            f"({[len(level.depths) for level in down]} down, {[len(level.depths) for level in up]} up), "
            "which is not supported."
        )
    for level in (*down, *up):
        if level.has_attention and 0 in level.depths:
            raise CheckpointError(
                f"A level of the UNet has attention after some residual blocks and not after others {level.depths}, "
                "which is not supported."
            )
    _require_layers("UNet", sum(len(level.depths) + sum(level.depths) for level in (*down, *up)), shapes)
    config = shipped_config(architecture)["unet"]
    if architecture == "sdxl":
        config["attention_head_dim"] = [level.channels // SDXL_HEAD_CHANNELS for level in down]
        config["projection_class_embeddings_input_dim"] = shapes["label_emb.0.0.weight"][1]
    proj_in = next((shape for name, shape in shapes.items() if name.endswith(".proj_in.weight")), ())
    return config | {
        "block_out_channels": [level.channels for level in down],
        "layers_per_block": blocks.pop(),
        "down_block_types": ["CrossAttnDownBlock2D" if level.has_attention else "DownBlock2D" for level in down],
        "up_block_types": ["CrossAttnUpBlock2D" if level.has_attention else "UpBlock2D" for level in up],
        "mid_block_type": _mid_block_type(shapes),
        "cross_attention_dim": context_dim(shapes),
        "use_linear_projection": len(proj_in) == 2,
        **_transformer_depths(down, up, _depth(shapes, "middle_block.1")),
    }


def _mid_block_type(shapes: Shapes) -> str | None:
    if not _block_count(shapes, "middle_block"):
        return None
    return "UNetMidBlock2DCrossAttn" if _depth(shapes, "middle_block.1") else "UNetMidBlock2D"


def _transformer_depths(down: list[Level], up: list[Level], middle: int) -> dict[str, Any]:
    """diffusers names one depth a level, and takes the middle block's from the last level. A level without attention
    ignores its depth, which leaves room for the middle's. A half that does not mirror the other is spelt out."""

    def entry(level: Level) -> int | list[int]:
        return level.depths[0] if len(set(level.depths)) == 1 else list(level.depths)

    depths = [entry(level) if level.has_attention else 1 for level in down]
    if middle and not down[-1].has_attention:
        depths[-1] = middle
    elif middle and down[-1].depths[0] != middle:
        raise CheckpointError(
            f"The UNet's middle block has {middle} transformer blocks and its last level {down[-1].depths[0]}, "
            "which is not supported."
        )
    config: dict[str, Any] = {"transformer_layers_per_block": depths}
    ascending = [entry(level) if level.has_attention else 1 for level in up]
    mirrored = all(
        depth == opposite
        for depth, opposite, level in zip(ascending, reversed(depths), up, strict=True)
        if level.has_attention
    )
    if not mirrored or any(isinstance(depth, list) for depth in depths):
        config["reverse_transformer_layers_per_block"] = ascending
    return config


def vae_config(shapes: Shapes, architecture: str) -> dict[str, Any]:
    """Keyword arguments for AutoencoderKL."""
    levels = 1 + max((int(name.split(".")[2]) for name in shapes if name.startswith("encoder.down.")), default=-1)
    if not levels:
        raise CheckpointError("The VAE has no encoder (no encoder.down keys), and training needs one.")
    channels = [shapes[f"encoder.down.{level}.block.0.conv2.weight"][0] for level in range(levels)]
    blocks = {name.split(".")[4] for name in shapes if name.startswith("encoder.down.0.block.")}
    _require_layers("VAE", levels * len(blocks), shapes)
    return shipped_config(architecture)["vae"] | {
        "block_out_channels": channels,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": len(blocks),
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "mid_block_add_attention": "encoder.mid.attn_1.q.weight" in shapes,
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
    }


def taesd_config(shapes: Shapes, *, scaling_factor: float, shift_factor: float) -> dict[str, Any]:
    """Keyword arguments for AutoencoderTiny; names are ComfyUI's (taesd_encoder.*, taesd_decoder.*)."""
    width = shapes["taesd_encoder.0.weight"][0]
    return {
        "encoder_block_out_channels": [width] * len(TAESD_BLOCKS),
        "decoder_block_out_channels": [width] * len(TAESD_BLOCKS),
        "num_encoder_blocks": list(TAESD_BLOCKS),
        "num_decoder_blocks": list(reversed(TAESD_BLOCKS)),
        "latent_channels": shapes["taesd_decoder.1.weight"][1],
        "scaling_factor": scaling_factor,
        "shift_factor": shift_factor,
    }


def clip_config(shapes: Shapes, architecture: str) -> dict[str, Any]:
    """Keyword arguments for the CLIPTextConfig of CLIP-L (transformers names, starting at "text_model.")."""
    vocabulary, width = shapes["text_model.embeddings.token_embedding.weight"]
    layers = len({n.split(".")[3] for n in shapes if n.startswith("text_model.encoder.layers.")})
    _require_layers("text encoder", layers, shapes)
    return shipped_config(architecture)["text_encoders"][0] | {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes["text_model.encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // CLIP_HEAD_CHANNELS),
        "max_position_embeddings": shapes["text_model.embeddings.position_embedding.weight"][0],
        "projection_dim": width,
    }


def open_clip_config(shapes: Shapes) -> dict[str, Any]:
    """Keyword arguments for the CLIPTextConfig of SDXL's second encoder, bigG (OpenCLIP names)."""
    vocabulary, width = shapes["token_embedding.weight"]
    layers = len({n.split(".")[2] for n in shapes if n.startswith("transformer.resblocks.")})
    _require_layers("second text encoder", layers, shapes)
    return shipped_config("sdxl")["text_encoders"][1] | {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes["transformer.resblocks.0.mlp.c_fc.weight"][0],
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // CLIP_HEAD_CHANNELS),
        "max_position_embeddings": shapes["positional_embedding"][0],
        "projection_dim": shapes["text_projection"][1],
    }
