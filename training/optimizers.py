"""AdamW and AdamP for LoRA weights, and the short warm-up that follows an optimizer reset at a phase switch."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ..errors import TrainingError

OPTIMIZER_NAMES = ("adamw", "adamp")
_FUSED = ("cpu", "cuda", "mps", "xpu")  # where torch has one kernel for the whole step: a fifth of the time on a CPU


def make_optimizer(
    name: str,
    params: Iterable[Tensor],
    lr: float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """A fresh optimizer over `params`, its moments empty.

    `adamw` is torch's (Loshchilov and Hutter, ICLR 2019). `adamp` is pytorch-optimizer's AdamP (Heo et al., ICLR 2021,
    arXiv:2006.08217), with the paper's delta 0.1 and wd_ratio 0.1: where a weight of two or more dimensions looks
    scale-invariant (its gradient nearly orthogonal to it, by output channel or as a whole), the radial part of the
    update is removed and its weight decay cut to a tenth. That library adds epsilon to sqrt(v) before the bias
    correction (the epsilon-hat form of Kingma and Ba, section 2), where the authors' code adds it after. 1e-8 would so
    count as 3.2e-7 at the first step, and damp the faint gradients of a LoRA (about 1e-5) by some percent; epsilon is
    therefore scaled to have at most the authors' effect at every step.

    `params` must be fp32, on any device: at the learning rates of the last two phases (1e-6, 5e-7) bf16 weights round
    nearly all of the updates away. `weight_decay` is decoupled in both, and 0 by default: decay pulls a LoRA towards
    the unadapted model.
    Raises TrainingError on an unknown name, no parameters, parameters that are not fp32, or a missing library.
    """
    params = list(params)
    if not params:
        raise TrainingError(f"Optimizer '{name}': there are no parameters to train; did the adapter find its layers?")
    for index, param in enumerate(params):
        if param.dtype != torch.float32:
            raise TrainingError(
                f"Optimizer '{name}': parameter {index} of shape {tuple(param.shape)} is {param.dtype}; "
                "keep the LoRA weights in fp32, since lower precision loses small updates."
            )
    if name == "adamw":
        fused = all(param.device.type in _FUSED for param in params)
        return torch.optim.AdamW(params, lr=lr, betas=betas, weight_decay=weight_decay, fused=fused)
    if name == "adamp":
        try:
            from pytorch_optimizer import AdamP
        except ImportError as error:
            raise TrainingError(
                "Optimizer 'adamp' needs the package pytorch-optimizer; install it with: pip install pytorch-optimizer"
            ) from error
        # Everything the published rule fixes is spelled out: a library default may change.
        return AdamP(
            params, lr=lr, betas=betas, weight_decay=weight_decay, weight_decouple=True, fixed_decay=False,
            delta=0.1, wd_ratio=0.1, nesterov=False, eps=1e-8 * math.sqrt(1 - betas[1]), foreach=False,
        )  # fmt: skip
    raise TrainingError(f"Optimizer '{name}' is not known; choose one of {', '.join(OPTIMIZER_NAMES)}.")


def warmup_factor(step_in_phase: int, warmup_steps: int) -> float:
    """What to multiply the learning rate by at a step of a phase: linear from 1 / warmup_steps up to 1.

    `step_in_phase` counts from 0. After a reset Adam's second moment rests on a few gradients and its steps are all of
    size lr whatever the gradient (Ma and Yarats, AAAI 2021), which is what the warm-up softens. 0 steps: no warm-up.
    """
    if step_in_phase < 0 or warmup_steps < 0:
        raise TrainingError(f"Warm-up: step {step_in_phase} of {warmup_steps} warm-up steps; neither may be negative.")
    return 1.0 if step_in_phase >= warmup_steps else (step_in_phase + 1) / warmup_steps
