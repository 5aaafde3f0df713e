"""Training on the MODEL that a user wired in, without a second copy of it and without touching it.

The host's module is copied as a structure only: every parameter of the copy lies over the host's own storage. Adapters
go into the copy, so nothing has to be undone, ComfyUI's patching never meets a renamed layer, and the wired MODEL stays
what it was, object by object. (ComfyUI's weights are inference tensors, which autograd refuses to save; an ordinary
tensor over the same storage is fine.)
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import comfy.ldm.modules.attention as comfy_attention
import comfy.patcher_extension
import comfy.sampler_helpers
import comfy.samplers
import comfy.utils
import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from ..errors import TrainingError
from .noising import PREDICTIONS, NoisingRule
from .protocol import Conditioning

_KEY = "identity_lock_training"
_TRAINABLE = (torch.float32, torch.float16, torch.bfloat16)
_FOR_INFERENCE = ("attention_basic", "attention_sub_quad", "attention_split")
_CHECKPOINTED = ("ResBlock", "SpatialTransformer")  # blocks whose activations are recomputed on demand


class Shell:
    """A structural copy of a module whose parameters and buffers share the module's storage."""

    def __init__(self, module: nn.Module) -> None:
        memo: dict[int, Any] = {}
        self._pairs: list[tuple[nn.Module, str, Tensor]] = []
        for owner, name, tensor in _tensors(module):
            if id(tensor) not in memo:
                alias = _alias(tensor)
                memo[id(tensor)] = nn.Parameter(alias, False) if isinstance(tensor, nn.Parameter) else alias
            self._pairs.append((owner, name, memo[id(tensor)]))
        self.module: nn.Module = copy.deepcopy(module, memo)

    def follow(self) -> None:
        """Points the copy at the module's storage again, should the host have moved it meanwhile."""
        for owner, name, tensor in self._pairs:
            now = getattr(owner, name)
            if now.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr():
                tensor.data = _alias(now)


def _tensors(module: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    for owner in module.modules():
        for kept in (owner._parameters, owner._buffers):
            for name, tensor in kept.items():
                if tensor is not None:
                    yield owner, name, tensor


def _alias(tensor: Tensor) -> Tensor:
    """An ordinary tensor over the same memory; call it outside inference mode."""
    empty = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return empty.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())


def refuse_untrainable(module: nn.Module, name: str) -> None:
    """Raises TrainingError for weights that no LoRA can be trained on: float8 storage, quantised layers."""
    for key, tensor in module.named_parameters():
        if tensor.dtype not in _TRAINABLE or type(tensor.data) is not Tensor:
            kind = str(tensor.dtype).removeprefix("torch.")
            kind = kind if type(tensor.data) is Tensor else f"{type(tensor.data).__name__} ({kind})"
            raise TrainingError(
                f"The model {name} keeps {key} as {kind}, which cannot be trained on; load it with float16, bfloat16 "
                "or float32 weights (in Load Diffusion Model: weight_dtype 'default')."
            )


def noising_rule(sampling: Any) -> tuple[NoisingRule, Tensor]:
    """How this model_sampling noises, found by asking it; and the time that the module is given at each step (T,).

    Every parameterisation is affine in the output, so the one whose target makes the host's own `calculate_denoised`
    return x0 is the right one. Raises TrainingError where none does.
    """
    sigmas = sampling.sigmas.detach().float().cpu().clone()
    ask = _on_cpu(sampling)
    column = sigmas.view(-1, 1, 1, 1)
    ones, zeros = torch.ones_like(column), torch.zeros_like(column)
    signal = ask("calculate_input", sigmas, ask("noise_scaling", column, zeros, ones.clone())).flatten()
    noise = ask("calculate_input", sigmas, ask("noise_scaling", column, ones.clone(), zeros)).flatten()
    t = torch.linspace(0.1, 0.9, 9).mul(len(sigmas)).long()
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn((2, len(t), 1, 1, 8), generator=generator)
    x = ask("noise_scaling", sigmas[t].view(-1, 1, 1, 1), eps.clone(), x0.clone())
    for prediction in PREDICTIONS:
        rule = NoisingRule(prediction, signal, noise)
        found = ask("calculate_denoised", sigmas[t], rule.target(x0, eps, t), x)
        if torch.allclose(found, x0, atol=1e-2):
            return rule, ask("timestep", sigmas).float()
    raise TrainingError(
        "This model's output is neither noise, velocity, the clean picture nor a flow, so no training target is known "
        "for it; wire in an SD1.5, SDXL or flow model, without a ModelSampling node in between."
    )


def _on_cpu(sampling: Any) -> Any:
    """Calls a copy of the host's object on the CPU, in ordinary mode."""
    own = copy.deepcopy(sampling).to("cpu")

    def call(method: str, *tensors: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            return getattr(own, method)(*tensors).detach().clone()

    return call


class ComfyDenoiser:
    """The TrainableDenoiser over a wired MODEL. Made by ComfyEngine.trainable()."""

    def __init__(self, patcher: Any, shell: Shell) -> None:
        self.base = patcher.model
        self.shell = shell
        self.module = shell.module
        self.device: torch.device = patcher.load_device
        self.rule, self._times = noising_rule(patcher.get_model_object("model_sampling"))
        self._names = _diffusers_names(self.base)
        self._encoded: dict[tuple[int, int, int], tuple[Conditioning, dict[str, Any]]] = {}

    @property
    def _dtype(self) -> torch.dtype:
        return self.base.manual_cast_dtype or self.base.get_dtype()

    def predict(self, x_t: Tensor, t: Tensor, conditioning: Sequence[Conditioning]) -> Tensor:
        extra = self._batched(x_t, conditioning)
        context = extra.pop("c_crossattn")
        when = self._times[t.cpu()].to(self.device)
        output = self.module(
            x_t.to(self.device, self._dtype), when, context=context, control=None,
            transformer_options=_attention_options(), **extra,
        )  # fmt: skip
        return output.float()

    def lora_key(self, module_name: str) -> str:
        """By diffusers' name where the architecture has one, else by ComfyUI's; both load in ComfyUI."""
        return "lora_unet_" + self._names.get(module_name, module_name).replace(".", "_")

    def checkpoint_gradients(self) -> None:
        blocks = [block for block in self.module.modules() if type(block).__name__ in _CHECKPOINTED]
        for block in blocks[:-2]:  # the backward pass begins with the last ones: letting those go would save nothing
            block.forward = functools.partial(  # type: ignore[method-assign]
                torch.utils.checkpoint.checkpoint, block.forward, use_reentrant=False
            )

    def _batched(self, x_t: Tensor, conditioning: Sequence[Conditioning]) -> dict[str, Tensor]:
        """The model's own conditioning inputs for a batch of prompts, each encoded once."""
        rows = [self._encode(c, x_t) for c in conditioning]
        batch = {}
        for key, first in rows[0].items():
            merged = first.concat([row[key] for row in rows[1:]]) if len(rows) > 1 else first.cond
            batch[key] = merged.clone() if isinstance(merged, Tensor) else merged  # inference tensors cannot be saved
        if "c_concat" in batch:
            raise TrainingError(
                "This is an inpainting or editing model, which wants a picture beside its noise; wire in its base "
                "model to train on."
            )
        return {
            key: value.to(self.device, self._dtype) if value.is_floating_point() else value.to(self.device)
            for key, value in batch.items()
            if isinstance(value, Tensor)
        }

    def _encode(self, conditioning: Conditioning, x_t: Tensor) -> dict[str, Any]:
        key = (id(conditioning), x_t.shape[-2], x_t.shape[-1])
        if key not in self._encoded:
            prompt = comfy.sampler_helpers.convert_cond(conditioning.data)
            latent = torch.zeros_like(x_t[:1])
            made = comfy.samplers.process_conds(self.base, latent, {"positive": prompt}, self.device)
            conds = made["positive"][0]["model_conds"]
            ready = {
                name: cond.process_cond(batch_size=1, area=None, device=self.device) for name, cond in conds.items()
            }
            self._encoded[key] = (conditioning, ready)  # kept, so that its id stays its own
        return self._encoded[key][1]


def _attention_options() -> dict[str, Any]:
    """Torch's fused attention where ComfyUI would take one made for inference, which keeps whole attention matrices
    for the backward pass. Hosts that do not know the key go on with their own."""
    if comfy_attention.optimized_attention.__name__ not in _FOR_INFERENCE:
        return {}
    fused = comfy_attention.attention_pytorch
    return {"optimized_attention_override": lambda theirs, *args, **kwargs: fused(*args, **kwargs)}


def _diffusers_names(base: Any) -> dict[str, str]:
    """ComfyUI's name of each layer of a UNet -> diffusers'; empty for other architectures."""
    mapped = comfy.utils.unet_to_diffusers(base.model_config.unet_config)
    return {
        host[: -len(".weight")]: name[: -len(".weight")] for name, host in mapped.items() if host.endswith(".weight")
    }


def sample_through(patcher: Any, shell: Shell) -> None:
    """From now on `patcher` (a clone of ours) samples through the shell, adapters and all."""

    def reroute(executor: Any, *args: Any, **kwargs: Any) -> Any:
        executor.original = executor.original.__func__.__get__(shell.module)
        return executor(*args, **kwargs)

    patcher.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, _KEY, reroute)
