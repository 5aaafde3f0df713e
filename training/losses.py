"""The three losses of the four phases (paper, section 3.3), element-wise, and their mean under a soft face mask.

The values of the three do not compare with each other: only the fixed MSE probe follows a run across its phases.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import TrainingError

LOSS_NAMES = ("mse", "huber", "charbonnier")

# 1 / Phi^-1(3/4): turns a median absolute deviation into the sigma of a normal distribution.
_MAD_TO_SIGMA = 1.4826022185056018


def loss_map(name: str, prediction: Tensor, target: Tensor, *, delta: float | None = None, eps: float = 1e-3) -> Tensor:
    """The loss of each element, before any mean; always computed and returned in fp32.

    `name` is one of LOSS_NAMES, with r = prediction - target:

    - ``mse``: r^2.
    - ``huber`` (Huber 1964, torch's scaling): r^2 / 2 for |r| < delta, else delta (|r| - delta / 2). `delta` has no
      default, because a delta far above the residuals gives plain MSE; take it from `huber_delta`.
    - ``charbonnier``: sqrt(r^2 + eps^2) - eps (Charbonnier et al., ICIP 1994; Barron, CVPR 2019, alpha = 1 with
      c = eps): quadratic below eps, |r| above it.

    `prediction` and `target` have the same shape, any float dtype; the result has that shape. bf16 and fp16 inputs are
    cast up *before* the subtraction: two bf16 numbers near each other lose most of their difference.
    Raises TrainingError on an unknown name, shapes that differ (broadcasting would hide a bug), or a bad delta or eps.
    """
    if prediction.shape != target.shape:
        raise TrainingError(
            f"Loss: prediction has shape {tuple(prediction.shape)} and target {tuple(target.shape)}; make them equal."
        )
    prediction, target = prediction.float(), target.float()
    if name == "mse":
        return F.mse_loss(prediction, target, reduction="none")
    if name == "huber":
        if delta is None or not delta > 0:
            raise TrainingError(f"Loss 'huber': delta is {delta}; give one above 0, measured with huber_delta.")
        return F.huber_loss(prediction, target, reduction="none", delta=delta)
    if name == "charbonnier":
        if not eps > 0:
            raise TrainingError(f"Loss 'charbonnier': eps is {eps}; it must be above 0.")
        squared = (prediction - target).square()
        # The same function as sqrt(r^2 + eps^2) - eps, without that difference's cancellation at small r.
        return squared / ((squared + eps * eps).sqrt() + eps)
    raise TrainingError(f"Loss '{name}' is not known; choose one of {', '.join(LOSS_NAMES)}.")


def masked_mean(loss_map: Tensor, mask: Tensor) -> Tensor:
    """The mean loss under a weight mask, normalised in each sample by that sample's own mask, as an fp32 scalar.

    `loss_map` (N, C, h, w); `mask` (N, 1, h, w), weights >= 0 (any scale: only their ratios within a sample matter).
    Every sample counts the same in the batch, so that a small face does not lose weight to a large one.
    Raises TrainingError for a mask of another shape, with a negative or non-finite weight, or empty in some sample.
    """
    expected = (loss_map.shape[0], 1, *loss_map.shape[2:])
    if loss_map.ndim != 4 or tuple(mask.shape) != expected:
        raise TrainingError(
            f"Loss mask: shape {tuple(mask.shape)} does not fit the loss of shape {tuple(loss_map.shape)}; "
            "it must be (N, 1, h, w)."
        )
    mask = mask.to(device=loss_map.device, dtype=torch.float32)
    weight = mask.sum(dim=(1, 2, 3))
    # One transfer for all the checks: each would stall a GPU.
    lowest, lightest, heaviest = torch.stack([mask.min(), weight.min(), weight.max()]).tolist()
    if not (lowest >= 0 and heaviest < float("inf")):
        raise TrainingError("Loss mask: a weight is negative or not finite; weights must be 0 or more.")
    if lightest <= 0:
        sample = int(weight.argmin())
        raise TrainingError(
            f"Loss mask: the mask of sample {sample} is empty, so nothing would be learned from it; "
            "check the face mask of that photo, or give the background a weight above 0."
        )
    per_sample = (loss_map.float() * mask).sum(dim=(1, 2, 3)) / (weight * loss_map.shape[1])
    return per_sample.mean()


def huber_delta(residuals: Tensor, tuning: float = 1.345) -> float:
    """The Huber delta that suits these residuals: `tuning` times their robust sigma.

    Sigma is 1.4826 times the median of |r|: the median absolute deviation about zero, which is where the loss has its
    minimum. Up to half of the residuals may be outliers without moving it much. With 1.345 (Huber 1964; Holland and
    Welsch 1977) the estimate keeps 95 % of the efficiency of MSE on normal residuals, about 18 % of which then lie in
    the linear part. A fixed delta of 1 is far above most eps residuals, and there Huber is MSE / 2 and nothing else.

    `residuals`: prediction - target, any shape and float dtype; pool them over the timesteps of the probe, since one
    delta serves them all. Raises TrainingError if there are none, if one is not finite, or if most are exactly zero.
    """
    magnitude = residuals.detach().float().abs().flatten()
    if magnitude.numel() == 0:
        raise TrainingError("Huber delta: there are no residuals to set it from; measure the probe first.")
    if not bool(torch.isfinite(magnitude).all()):
        raise TrainingError("Huber delta: a residual is not finite; the model's output is broken at some timestep.")
    delta = tuning * _MAD_TO_SIGMA * float(magnitude.median())
    if not delta > 0:
        raise TrainingError(
            "Huber delta: most residuals are exactly zero, which no trained denoiser gives; "
            "check that prediction and target are not the same tensor."
        )
    return delta
