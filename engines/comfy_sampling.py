"""Rows that do not know of each other, inside ComfyUI's own samplers.

A batch here holds one row for each seed, and each row is what a plain KSampler makes of that seed alone: its starting
noise is drawn by itself, and so is the noise that ancestral and SDE samplers add on the way. Rows may be dropped: the
sampler goes on with the whole batch, and the model is asked for the rows alive only.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import comfy.k_diffusion.sampling as k_diffusion
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

_KEY = "identity_lock"
# dpm_adaptive has one step size for the whole batch; the cfg++ ones keep the unguided picture of the whole batch aside.
_COUPLED = ("dpm_adaptive", "cfg_pp")


def initial_noise(seeds: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """(N, C, h, w) float32 on the CPU; row i is what KSampler starts from with seeds[i]."""
    one = torch.zeros((1, *shape))
    return torch.cat([comfy.sample.prepare_noise(one, seed) for seed in seeds])


def sampler_for(name: str, seeds: Sequence[int], sigmas: Tensor, like: Tensor) -> comfy.samplers.KSAMPLER | None:
    """ComfyUI's sampler of this name for a batch of seeds; None where its rows cannot be told apart, so that each seed
    has to run alone. like: one row (1, C, h, w) on the model's device."""
    sampler = comfy.samplers.sampler_object(name)
    if len(seeds) == 1:
        return sampler
    if any(part in name for part in _COUPLED) or not isinstance(sampler, comfy.samplers.KSAMPLER):
        return None
    sampler.inpaint_options = {}  # ddim's second noise for masked pictures is drawn for the whole batch
    if "noise_sampler" in inspect.signature(sampler.sampler_function).parameters:
        if name not in STOCHASTIC:
            return None
        sampler.extra_options = {**sampler.extra_options, "noise_sampler": _row_noise(name, seeds, sigmas, like)}
    return sampler


# The samplers that draw noise on the way, as of ComfyUI 0.18; one that is not listed runs each seed alone.
BROWNIAN = frozenset(
    (
        "dpmpp_sde", "dpmpp_sde_gpu", "dpmpp_2m_sde", "dpmpp_2m_sde_gpu", "dpmpp_2m_sde_heun",
        "dpmpp_2m_sde_heun_gpu", "dpmpp_3m_sde", "dpmpp_3m_sde_gpu",
    )
)  # fmt: skip
STOCHASTIC = BROWNIAN | frozenset(
    (
        "euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral", "exp_heun_2_x0_sde", "ddpm", "lcm",
        "res_multistep", "res_multistep_ancestral", "er_sde", "seeds_2", "seeds_3", "sa_solver", "sa_solver_pece",
    )
)  # fmt: skip


def _row_noise(name: str, seeds: Sequence[int], sigmas: Tensor, like: Tensor) -> Callable[[Any, Any], Tensor]:
    if name in BROWNIAN:
        lowest, highest = sigmas[sigmas > 0].min(), sigmas.max()
        on_cpu = not name.endswith("_gpu")
        rows = [k_diffusion.BrownianTreeNoiseSampler(like, lowest, highest, seed=s, cpu=on_cpu) for s in seeds]
    else:
        rows = [k_diffusion.default_noise_sampler(like, seed=s) for s in seeds]
    return lambda sigma, sigma_next: torch.cat([row(sigma, sigma_next) for row in rows])


def ask_for_alive_rows(model: Any, alive: Callable[[], Sequence[int]]) -> None:
    """From now on `model` (a clone of ours) is evaluated for the rows alive only; the others get zeros."""

    def predict(executor: Any, x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        rows = list(alive())
        if len(rows) == len(x):
            return executor(x, timestep, *args, **kwargs)
        out = torch.zeros_like(x)
        out[rows] = executor(x[rows], timestep[rows], *args, **kwargs)
        return out

    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.PREDICT_NOISE, _KEY, predict)


def join_by_share(model: Any) -> None:
    """From now on a soft mask given to `model` joins in where that share of the run is left: 1 from the first step on,
    0 never (differential diffusion, Levin & Fried 2023)."""

    def joined(sigma: Tensor, mask: Tensor, extra_options: dict[str, Any]) -> Tensor:
        sigmas = extra_options["sigmas"]
        index = int((sigmas - sigma.flatten()[0]).abs().argmin())
        return (mask >= 1.0 - index / (len(sigmas) - 1)).to(mask)

    model.set_model_denoise_mask_function(joined)
