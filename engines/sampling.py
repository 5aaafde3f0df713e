"""Running diffusers' own schedulers over a batch whose rows are independent.

Each row starts from `randn` of its own seed, so a seed's picture does not depend on its neighbours. Rows may be dropped
on the way: the scheduler still steps the whole batch, but the model is only asked for the rows alive.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import RenderError
from .noising import NoisingRule, x0_from_output
from .protocol import SampleRequest, SampleResult, StepCallback, StepView

SAMPLERS = ("ddim", "euler", "dpmpp_2m", "uni_pc")
SCHEDULES = ("simple", "sgm_uniform", "normal", "karras")
_SPACING = {"simple": "trailing", "sgm_uniform": "trailing", "normal": "linspace", "karras": "linspace"}


def make_scheduler(config: dict[str, Any], sampler: str, schedule: str) -> Any:
    """A diffusers scheduler for a noise schedule `config` (diffusers' own keys). Raises RenderError for other names."""
    import diffusers

    if sampler not in SAMPLERS:
        raise RenderError(f"The sampler '{sampler}' is not one of {', '.join(SAMPLERS)}.")
    if schedule not in SCHEDULES:
        raise RenderError(f"The scheduler '{schedule}' is not one of {', '.join(SCHEDULES)}.")
    if config["prediction_type"] == "flow":
        if sampler != "euler":
            raise RenderError(f"A flow model is sampled with 'euler' here, not '{sampler}'.")
        return diffusers.FlowMatchEulerDiscreteScheduler(shift=config.get("shift", 1.0))
    options = config | {"timestep_spacing": _SPACING[schedule], "use_karras_sigmas": schedule == "karras"}
    if sampler == "ddim":
        if _SPACING[schedule] != "trailing":  # DDIM steps by a whole share of the timesteps: others misname the noise
            raise RenderError(f"The sampler 'ddim' has no {schedule} schedule here; take 'simple'.")
        # to x0 itself at the end, as every other sampler here and ComfyUI's own ddim go
        return _built(diffusers.DDIMScheduler, options | {"clip_sample": False, "set_alpha_to_one": True})
    if sampler == "euler":
        return _built(diffusers.EulerDiscreteScheduler, options)
    if sampler == "dpmpp_2m":
        return _built(
            diffusers.DPMSolverMultistepScheduler, options | {"algorithm_type": "dpmsolver++", "solver_order": 2}
        )
    return _built(diffusers.UniPCMultistepScheduler, options)


def _built(kind: Any, options: dict[str, Any]) -> Any:
    """A checkpoint's schedule names the settings of whichever scheduler saved it; each kind takes those it knows."""
    known = inspect.signature(kind.__init__).parameters
    return kind(**{key: value for key, value in options.items() if key in known})


def initial_noise(seeds: tuple[int, ...], shape: tuple[int, int, int]) -> Tensor:
    """(N, C, h, w) float32 on the CPU; row i is randn of seeds[i] alone, on every device the same."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


class _Run:
    """One request on its way through the schedule."""

    def __init__(self, request: SampleRequest, rule: NoisingRule, config: dict[str, Any], device: torch.device) -> None:
        self.request, self.rule, self.config, self.device = request, rule, config, device
        self.scheduler = make_scheduler(config, request.sampler, request.scheduler)
        whole = request.init is None  # nothing to keep a share of: denoise says nothing
        total = request.steps if whole else int(request.steps / request.denoise)  # as ComfyUI's KSampler counts
        if rule.prediction == "flow":  # diffusers' own grid spends its last step on a thousandth of the noise
            self.scheduler.set_timesteps(sigmas=[1.0 - i / total for i in range(total)])
        else:
            self.scheduler.set_timesteps(total)
        first = 0 if whole else max(0, len(self.scheduler.timesteps) - request.steps)
        self.timesteps = self.scheduler.timesteps[first:]
        self.first = first
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(first)

    def levels(self, index: int, t: Tensor) -> tuple[float, float]:
        """(signal, noise) of the latent that the model sees at step `index`, variance preserving (or flow)."""
        if self.rule.prediction == "flow":
            sigma = float(self.scheduler.sigmas[self.first + index])
            return 1.0 - sigma, sigma
        if not hasattr(self.scheduler, "sigmas"):
            return float(self.rule.signal[int(t)]), float(self.rule.noise[int(t)])
        sigma = float(self.scheduler.sigmas[self.first + index])
        signal = (1.0 + sigma * sigma) ** -0.5
        return signal, sigma * signal

    def noised(self, init: Tensor, noise: Tensor, index: int, t: Tensor) -> Tensor:
        """`init` at the noise level of step `index`, in the scheduler's own scale."""
        signal, level = self.levels(index, t)
        if self.rule.prediction != "flow" and self.scheduler.__class__.__name__.startswith("Euler"):
            return init + (level / signal) * noise  # Euler carries x0 + sigma * eps
        return signal * init + level * noise


def run_sampler(
    request: SampleRequest,
    shape: tuple[int, int, int],
    rule: NoisingRule,
    config: dict[str, Any],
    device: torch.device,
    denoise_rows: Callable[[Tensor, Tensor, tuple[int, ...]], Tensor],
    on_step: StepCallback | None,
) -> SampleResult:
    """denoise_rows(model_input (n, C, h, w), t, rows) -> the guided model output of those rows, float32."""
    if request.steps < 1 or not 0.0 < request.denoise <= 1.0 or not request.seeds:
        raise RenderError(
            f"Sampling needs at least one seed, one step and a denoise in (0, 1]; got {len(request.seeds)} seeds, "
            f"{request.steps} steps, denoise {request.denoise}."
        )
    run = _Run(request, rule, config, device)
    count = len(request.seeds)
    noise = initial_noise(request.seeds, shape).to(device)
    init = None if request.init is None else request.init.to(device, torch.float32).expand(count, -1, -1, -1)
    mask = None if request.mask is None else request.mask.to(device, torch.float32)
    if mask is not None and init is None:
        raise RenderError("A mask says what is kept of a picture, so it needs one to start from; give init as well.")
    t0 = run.timesteps[0]
    x = noise * getattr(run.scheduler, "init_noise_sigma", 1.0) if init is None else run.noised(init, noise, 0, t0)
    alive = tuple(range(count))
    output = torch.zeros_like(x)
    total = len(run.timesteps)
    for index, t in enumerate(run.timesteps):
        joined = None
        if mask is not None and init is not None:
            joined = (mask >= 1.0 - index / total).float()
            x = joined * x + (1.0 - joined) * run.noised(init, noise, index, t)
        seen = run.scheduler.scale_model_input(x, t) if hasattr(run.scheduler, "scale_model_input") else x
        rows = list(alive)
        output[rows] = denoise_rows(seen[rows], t, alive)
        signal, level = run.levels(index, t)
        x0 = x0_from_output(rule.prediction, output[rows], seen[rows], max(signal, 1e-6), level)
        x = run.scheduler.step(output, t, x).prev_sample
        if joined is not None and init is not None:
            kept = joined.expand(count, -1, -1, -1)[rows]
            x0 = kept * x0 + (1.0 - kept) * init[rows]
        if on_step is not None:
            keep = on_step(StepView(index + 1, total, alive, x0))
            if keep is not None:
                alive = tuple(row for row in alive if row in set(keep))
                if not alive:
                    return SampleResult((), x[:0])
    if mask is not None and init is not None:
        joined = (mask >= 1.0 / total).float()
        x = joined * x + (1.0 - joined) * init
    return SampleResult(alive, x[list(alive)])
