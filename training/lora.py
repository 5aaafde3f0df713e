"""The adapter: PEFT's LoRA layers put into the lent module, rescaled at phase switches, and taken out again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..engines.lora_file import ALPHA, DOWN, UP, LoraWeights
from ..engines.protocol import TrainableDenoiser
from ..errors import TrainingError
from .phases import Targets

ADAPTER = "identity"
_ATTENTION = re.compile(r"(^|\.)attn\d\.(to_q|to_k|to_v|to_out\.0)$")


def target_modules(module: nn.Module, targets: Targets) -> list[str]:
    """Names of the layers to adapt. 'all' takes every linear and convolution layer except the time embedding's own."""
    names = []
    for name, child in module.named_modules():
        if not isinstance(child, nn.Linear | nn.Conv2d):
            continue
        if targets == "attention" and not _ATTENTION.search(name):
            continue
        if targets == "all" and re.match(r"(time_embedding|add_embedding|time_embed|label_emb)\.", name):
            continue
        names.append(name)
    if not names:
        raise TrainingError("This model has no layer that a LoRA could adapt; wire in an SD1.5 or SDXL UNet.")
    return names


class Adapter:
    """LoRA layers inside a module. Parameters are float32 whatever the base: at 1e-6, bf16 loses most updates."""

    def __init__(self, denoiser: TrainableDenoiser, *, rank: int, alpha: float, targets: Targets, seed: int) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        self._denoiser = denoiser
        self.rank, self.alpha = rank, alpha
        names = target_modules(denoiser.module, targets)
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=names, init_lora_weights=True)
        denoiser.module.requires_grad_(False)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                inject_adapter_in_model(config, denoiser.module, adapter_name=ADAPTER)
        except Exception as error:  # PEFT has no error family, and may have stopped half way through the layers
            self._layers = self._injected(names)
            self.eject()
            raise TrainingError(
                f"The LoRA layers could not be put into this model ({error}); "
                "take a checkpoint with float32, float16 or bfloat16 weights."
            ) from error
        self._layers = self._injected(names)
        for parameter in self.parameters():
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)

    def _injected(self, names: list[str]) -> dict[str, Any]:
        children = {name: self._denoiser.module.get_submodule(name) for name in names}
        return {name: layer for name, layer in children.items() if hasattr(layer, "get_base_layer")}

    def _pairs(self) -> Iterator[tuple[str, Any, Any]]:
        for name, layer in self._layers.items():
            yield name, layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]

    def parameters(self) -> list[nn.Parameter]:
        return [p for _, down, up in self._pairs() for p in (down.weight, up.weight)]

    @torch.no_grad()
    def set_alpha(self, alpha: float) -> None:
        """Changes the scale alpha/rank without changing the function: B takes up the old scale over the new."""
        for _, _, up in self._pairs():
            up.weight.mul_(self.alpha / alpha)
        for layer in self._layers.values():
            layer.scaling[ADAPTER] = alpha / self.rank
        self.alpha = alpha

    def base_weight(self, name: str) -> Tensor:
        """The frozen weight of an adapted layer."""
        return self._layers[name].get_base_layer().weight

    def state(self) -> dict[str, Tensor]:
        return {
            f"{name}.{part}": layer.weight.detach().clone()
            for name, down, up in self._pairs()
            for part, layer in (("down", down), ("up", up))
        }

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor], alpha: float) -> None:
        """Puts back what `state()` gave while the scale was alpha/rank. Raises KeyError, or ValueError for weights of
        another shape."""
        for name, down, up in self._pairs():
            for part, layer in (("down", down), ("up", up)):
                weight = state[f"{name}.{part}"]
                if weight.shape != layer.weight.shape:
                    raise ValueError(f"its weights of {name} are of another shape")
                layer.weight.copy_(weight)
        for layer in self._layers.values():
            layer.scaling[ADAPTER] = alpha / self.rank
        self.alpha = alpha

    @torch.no_grad()
    def relative_change(self) -> float:
        """Root mean square of the weight change over that of the adapted weights: how far it has moved them."""
        change = weight = 0.0
        for name, down, up in self._pairs():
            a = down.weight.flatten(1)
            b = up.weight.flatten(1)
            # |BA|^2 = trace((B'B)(AA')), which never builds the dense product
            change += float(((b.T @ b) * (a @ a.T)).sum()) * (self.alpha / self.rank) ** 2
            weight += float(self.base_weight(name).float().square().sum())
        return (change / max(weight, 1e-30)) ** 0.5

    @torch.no_grad()
    def export(self, name: str, metadata: Mapping[str, str], dtype: torch.dtype = torch.float32) -> LoraWeights:
        """The LoRA file's tensors: kohya layout, alpha folded into lora_up (see engines/lora_file.py)."""
        tensors: dict[str, Tensor] = {}
        for layer, down, up in self._pairs():
            key = self._denoiser.lora_key(layer)
            tensors[key + DOWN] = down.weight.detach().to("cpu", dtype).contiguous().clone()
            scaled = up.weight.detach() * (self.alpha / self.rank)
            tensors[key + UP] = scaled.to("cpu", dtype).contiguous()
            tensors[key + ALPHA] = torch.tensor(float(self.rank))
        return LoraWeights(name, tensors, dict(metadata))

    def eject(self) -> None:
        """Puts the base layers back where they were, leaving nothing behind."""
        root = self._denoiser.module
        for name, layer in self._layers.items():
            parent, _, leaf = name.rpartition(".")
            owner: Any = root.get_submodule(parent) if parent else root
            base = layer.get_base_layer()
            if isinstance(owner, nn.ModuleList | nn.Sequential):
                owner[int(leaf)] = base
            else:
                setattr(owner, leaf, base)
        for leftover in ("peft_config", "_hf_peft_config_loaded"):
            if leftover in vars(root):
                delattr(root, leftover)


@contextmanager
def adapted(denoiser: TrainableDenoiser, **options: Any) -> Iterator[Adapter]:
    """An Adapter inside the module for the length of a `with` block, ejected whatever happens."""
    adapter = Adapter(denoiser, **options)
    try:
        yield adapter
    finally:
        adapter.eject()
