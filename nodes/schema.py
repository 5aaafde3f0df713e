"""Inputs and outputs of the nodes, for every ComfyUI that has the V3 schema: newer options are left out on older hosts.

Outputs carry their name as display name and no id: older hosts refuse an id that an input has too.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import comfy.samplers
from comfy_api.latest import io

from . import sockets

CATEGORY = "Identity Lock"
SEED = 1187891159  # the paper's
SEED_MAX = 0xFFFFFFFFFFFFFFFF
NEWER = {"advanced", "search_aliases"}  # options that ComfyUI 0.8.0 and older do not know
DRIFT = "Drift is 1 - cosine similarity: lower is more alike; locked at the threshold or below (0.18 by default)."

Identity = io.Custom(sockets.IDENTITY)
Lora = io.Custom(sockets.LORA_MODEL)


def schema(node_id: str, **fields: Any) -> Any:
    return io.Schema(node_id=node_id, category=CATEGORY, **_known(io.Schema, fields))


def given(kind: Any, name: str, tooltip: str, **options: Any) -> Any:
    """An input of this kind."""
    return kind.Input(name, tooltip=tooltip, **_known(kind.Input, options))


def told(kind: Any, name: str, tooltip: str) -> Any:
    """An output of this kind."""
    return kind.Output(display_name=name, tooltip=tooltip)


def _known(made: Any, options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key not in NEWER or key in _parameters(made)}


@cache
def _parameters(made: Any) -> frozenset[str]:
    return frozenset(inspect.signature(made).parameters)


# ---- inputs that several nodes have --------------------------------------------------------------------------------


def model_inputs(*, optional: bool = False) -> list[Any]:
    why = " Wire in model, clip and vae to heal the seam with a low-denoise pass." if optional else ""
    return [
        given(io.Model, "model", f"The diffusion model; it is left unchanged.{why}", optional=optional),
        given(io.Clip, "clip", "The text encoder of that model.", optional=optional),
        given(io.Vae, "vae", "The VAE of that model.", optional=optional),
    ]


def identity_input() -> Any:
    return given(Identity, "identity", "Who it should be: from Identity Embed or Load Identity.")


def lora_input(why: str) -> Any:
    return given(Lora, "lora", f"{why} From Phased LoRA Trainer or any node that makes a LORA_MODEL.", optional=True)


def seed_input(name: str, tooltip: str, **options: Any) -> Any:
    return given(
        io.Int, name, tooltip, default=SEED, min=0, max=SEED_MAX, control_after_generate=False, **options
    )


def prompt_input(name: str, tooltip: str, default: str = "") -> Any:
    return given(io.String, name, tooltip, multiline=True, default=default)


def negative_input() -> Any:
    return prompt_input(
        "negative",
        "What should not be in the picture, in words. The prompt guard reads it only where cfg is below 1: there the "
        "model draws it.",
    )


def size_inputs() -> list[Any]:
    told_of = "px, a multiple of 8 (of the model's latent cell)."
    return [
        given(io.Int, "width", f"Width, {told_of}", default=512, min=64, max=4096, step=8),
        given(io.Int, "height", f"Height, {told_of}", default=512, min=64, max=4096, step=8),
    ]


def sampling_inputs() -> list[Any]:
    return [
        given(io.Int, "steps", "Sampling steps of each full pass.", default=24, min=1, max=1000),
        given(
            io.Combo, "sampler", "The sampler, as in KSampler.",
            options=list(comfy.samplers.SAMPLER_NAMES), default="dpmpp_2m",
        ),
        given(
            io.Combo, "scheduler", "The noise schedule, as in KSampler.",
            options=list(comfy.samplers.SCHEDULER_NAMES), default="karras",
        ),
    ]  # fmt: skip


def strength_input(name: str, tooltip: str, default: float) -> Any:
    return given(io.Float, name, f"{tooltip} 0 is without it.", default=default, min=0.0, max=2.0, step=0.05)


def cfg_input(name: str, tooltip: str, default: float) -> Any:
    return given(io.Float, name, f"{tooltip} Higher follows the prompt harder.", default=default, min=0.0, max=30.0,
                 step=0.1)  # fmt: skip


def denoise_input(name: str, tooltip: str, default: float) -> Any:
    return given(io.Float, name, tooltip, default=default, min=0.01, max=1.0, step=0.01)


def threshold_input(**options: Any) -> Any:
    return given(
        io.Float, "threshold",
        "The lock: a face at this drift or below counts as the same person. Lower is stricter; 0.18 is the paper's, "
        "and stricter than most pairs of real photos.",
        default=0.18, min=0.0, max=2.0, step=0.01, **options,
    )  # fmt: skip


def blend_input() -> Any:
    return given(
        io.Float, "blend",
        "The most that is taken of the anchor's face, as a share: 0.30 is 30 %. The smallest blend that reaches the "
        "lock is used.",
        default=0.30, min=0.01, max=0.30, step=0.01,
    )  # fmt: skip


def prefix_input(default: str) -> Any:
    return given(
        io.String, "file_prefix",
        "Start of the file name in output/identity_lock/renders; a counter follows it. Subfolders are allowed.",
        default=default, advanced=True,
    )  # fmt: skip


def report_output() -> Any:
    return told(io.String, "report", "What happened, in sentences and numbers, by both recognisers.")
