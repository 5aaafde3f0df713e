"""The embedded engine: diffusers components from local files, for the demo, the tests and scale-out without ComfyUI."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CheckpointError, RenderError
from . import demo_base
from .lora_file import LoraWeights, read_lora, weight_change
from .noising import NoisingRule, Prediction, discrete_rule, flow_rule
from .protocol import Conditioning, ModelCard, SampleRequest, SampleResult, StepCallback
from .sampling import SAMPLERS, SCHEDULES, run_sampler


@dataclass
class DiffusersEngine:
    """One model, its codec and its text encoder. Build it with `open_demo_base` or `open_checkpoint`.

    codec and text know their own formats (`_codecs`, `_text` below); the UNet is any UNet2DConditionModel.
    """

    card: ModelCard
    unet: nn.Module
    codec: Any
    text: Any
    rule: NoisingRule
    schedule: dict[str, Any]
    device: torch.device
    dtype: torch.dtype
    samplers: tuple[str, ...] = SAMPLERS
    schedulers: tuple[str, ...] = SCHEDULES
    _names: dict[str, str] = field(default_factory=dict, init=False, repr=False)
    _patched: tuple[str, float] | None = field(default=None, init=False, repr=False)

    @property
    def latent_factor(self) -> int:
        return int(self.codec.factor)

    @torch.no_grad()
    def encode_prompt(self, prompt: str) -> Conditioning:
        data, unknown = self.text.encode(prompt)
        return Conditioning(prompt, data, unknown)

    @torch.no_grad()
    def encode_images(self, images: Sequence[np.ndarray]) -> Tensor:
        stack = torch.from_numpy(np.stack(images)).to(self.device).permute(0, 3, 1, 2).float().div(127.5).sub(1.0)
        return torch.cat([self.codec.encode(part) for part in stack.split(8)]).float()

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> list[np.ndarray]:
        if not len(latents):
            return []
        pixels = torch.cat([self.codec.decode(part) for part in latents.to(self.device).split(8)])
        levels = pixels.float().clamp(-1.0, 1.0).add(1.0).mul(127.5).round().byte()
        return [np.ascontiguousarray(image) for image in levels.permute(0, 2, 3, 1).cpu().numpy()]

    @torch.no_grad()
    def sample(self, request: SampleRequest, on_step: StepCallback | None = None) -> SampleResult:
        if request.width % self.latent_factor or request.height % self.latent_factor:
            raise RenderError(
                f"A picture of {request.width}x{request.height} does not fit this model; give a width and a height "
                f"that are multiples of {self.latent_factor}."
            )
        height, width = request.height // self.latent_factor, request.width // self.latent_factor
        positive, negative = request.positive, request.negative

        def denoise_rows(x: Tensor, t: Tensor, rows: tuple[int, ...]) -> Tensor:
            when = torch.as_tensor(float(t) if self.rule.prediction == "flow" else t, device=self.device).expand(len(x))
            wanted = self._forward(x, when, [positive] * len(x))
            if request.cfg == 1.0:
                return wanted
            unwanted = self._forward(x, when, [negative] * len(x))
            return unwanted + request.cfg * (wanted - unwanted)

        shape = (int(self.codec.channels), height, width)
        with self.patched(request.lora, request.strength):
            return run_sampler(request, shape, self.rule, self.schedule, self.device, denoise_rows, on_step)

    def _forward(self, x: Tensor, when: Tensor, conditioning: Sequence[Conditioning]) -> Tensor:
        context, extra = self.text.batch([c.data for c in conditioning], x.shape[-2:])
        output = self.unet(
            x.to(self.dtype), when, encoder_hidden_states=context.to(self.dtype), added_cond_kwargs=extra
        )
        return output.sample.float()

    @contextmanager
    def patched(self, lora: LoraWeights | None, strength: float) -> Iterator[None]:
        """The UNet with `lora` merged at `strength`; on leaving, the very tensors from before are back."""
        if lora is None or strength == 0.0:
            yield
            return
        saved: list[tuple[nn.Parameter, Tensor]] = []
        try:
            for name, module, down, up, scale in self._matched(lora):
                weight = module.weight
                change = weight_change(down.to(self.device), up.to(self.device), scale * strength)
                if change.shape != weight.shape:
                    raise CheckpointError(
                        f"The LoRA '{lora.name}' does not fit this model at '{name}'; use the one trained on it."
                    )
                saved.append((weight, weight.data))
                weight.data = (weight.data.float() + change).to(weight.dtype)
            yield
        finally:
            for weight, before in saved:
                weight.data = before

    def _matched(self, lora: LoraWeights) -> Iterator[tuple[str, Any, Tensor, Tensor, float]]:
        if not self._names:
            self._names = {lora_key(name): name for name, _ in self.unet.named_modules() if name}
        for key, down, up, scale in lora.modules():
            if key not in self._names:
                raise CheckpointError(
                    f"The LoRA '{lora.name}' adapts '{key}', which this model does not have; use the one trained on it."
                )
            yield self._names[key], self.unet.get_submodule(self._names[key]), down, up, scale

    @contextmanager
    def trainable(self) -> Iterator[LentDenoiser]:
        """Lends the UNet. Whoever injects adapters ejects them before leaving (training/lora.py does)."""
        frozen = [(p, p.requires_grad) for p in self.unet.parameters()]
        unet: Any = self.unet
        try:
            yield LentDenoiser(self)
        finally:
            if getattr(unet, "is_gradient_checkpointing", False):
                unet.disable_gradient_checkpointing()
            self.unet.eval()
            for parameter, before in frozen:
                parameter.requires_grad_(before)

    def free_memory(self) -> None:
        import gc

        gc.collect()
        backend: Any = getattr(torch, self.device.type, None)  # torch.cuda, torch.mps, ...; the CPU keeps no cache
        if hasattr(backend, "empty_cache"):
            backend.empty_cache()


class LentDenoiser:
    """The TrainableDenoiser of a DiffusersEngine."""

    def __init__(self, engine: DiffusersEngine) -> None:
        self._engine = engine
        self.module = engine.unet
        self.rule = engine.rule
        self.device = engine.device

    def predict(self, x_t: Tensor, t: Tensor, conditioning: Sequence[Conditioning]) -> Tensor:
        when = self.rule.model_time(t).to(self.device)
        return self._engine._forward(x_t, when, conditioning)

    def lora_key(self, module_name: str) -> str:
        return lora_key(module_name)

    def checkpoint_gradients(self) -> None:
        unet: Any = self.module
        unet.enable_gradient_checkpointing()


def lora_key(module_name: str) -> str:
    return "lora_unet_" + module_name.replace(".", "_")


# ---- the demo base -------------------------------------------------------------------------------------------------


class DemoCodec:
    factor, channels = demo_base.PATCH, demo_base.LATENT_CHANNELS

    def __init__(self, module: demo_base.PatchPCA) -> None:
        self.module = module

    def encode(self, pixels: Tensor) -> Tensor:
        return self.module.encode(pixels)

    def decode(self, latents: Tensor) -> Tensor:
        return self.module.decode(latents)


class DemoText:
    def __init__(self, module: demo_base.PhraseEncoder) -> None:
        self.module = module

    def encode(self, prompt: str) -> tuple[Tensor, tuple[str, ...]]:
        return self.module.encode(prompt)

    def batch(self, data: Sequence[Tensor], latent_size: Any) -> tuple[Tensor, None]:
        return torch.cat(list(data)), None


def open_demo_base(path: Path, *, look: Path | None = None, device: str = "cpu") -> DiffusersEngine:
    """The shipped base, in float32. look: a delta file that turns it into the second base of the two-pass mode."""
    base = demo_base.load_demo_base(path)
    unet: nn.Module = base.unet.to(device)
    engine = DiffusersEngine(
        card=ModelCard(path.stem, _hash_parameters(unet), "demo", "sample", demo_base.PIXELS),
        unet=unet,
        codec=DemoCodec(base.codec.to(device)),
        text=DemoText(base.text.to(device)),
        rule=discrete_rule("sample", demo_base.new_scheduler().alphas_cumprod),
        schedule=demo_base.SCHEDULE,
        device=torch.device(device),
        dtype=torch.float32,
    )
    if look is not None:
        for _, module, down, up, scale in engine._matched(read_lora(look)):
            module.weight.data += weight_change(down.to(device), up.to(device), scale)
        engine.card = ModelCard(look.stem, _hash_parameters(unet), "demo", "sample", demo_base.PIXELS)
    return engine


def _hash_parameters(module: nn.Module) -> str:
    import hashlib

    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# ---- Stable Diffusion checkpoints ----------------------------------------------------------------------------------


class StableDiffusionCodec:
    """AutoencoderKL or AutoencoderTiny, with the checkpoint's scale and shift."""

    def __init__(self, vae: Any, scale: float, shift: float) -> None:
        self.vae, self.scale, self.shift = vae, scale, shift
        self.channels = int(vae.config.latent_channels)
        self.factor = 8

    def encode(self, pixels: Tensor) -> Tensor:
        encoded = self.vae.encode(pixels.to(self.vae.dtype))
        latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mean
        return (latents.float() - self.shift) * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        return self.vae.decode((latents / self.scale + self.shift).to(self.vae.dtype)).sample


class StableDiffusionText:
    """CLIP-L for SD1.5; CLIP-L and OpenCLIP bigG with pooled output and size conditioning for SDXL."""

    def __init__(self, encoders: list[Any], tokenizers: list[Any], factor: int = 8) -> None:
        self.encoders, self.tokenizers, self.factor = encoders, tokenizers, factor

    def encode(self, prompt: str) -> tuple[tuple[Tensor, Tensor | None], tuple[str, ...]]:
        hidden: list[Tensor] = []
        pooled: Tensor | None = None
        for encoder, tokenizer in zip(self.encoders, self.tokenizers, strict=True):
            ids = tokenizer(prompt, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
            out = encoder(ids.to(encoder.device), output_hidden_states=len(self.encoders) > 1)
            hidden.append(out.hidden_states[-2] if len(self.encoders) > 1 else out[0])
            pooled = out[0] if len(self.encoders) > 1 else None
        return (torch.cat(hidden, -1), pooled), ()

    def batch(self, data: Sequence[tuple[Tensor, Tensor | None]], latent_size: Any) -> tuple[Tensor, Any]:
        context = torch.cat([hidden for hidden, _ in data])
        if data[0][1] is None:
            return context, None
        pooled = torch.cat([p for _, p in data if p is not None])
        height, width = (int(s) * self.factor for s in latent_size)
        time_ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=pooled.dtype, device=pooled.device)
        return context, {"text_embeds": pooled, "time_ids": time_ids.expand(len(data), -1)}


def open_checkpoint(
    path: Path, *, device: str | None = None, dtype: torch.dtype | None = None, prediction: Prediction | None = None
) -> DiffusersEngine:
    """A local SD1.5 or SDXL checkpoint: a diffusers folder or a single .safetensors. Raises CheckpointError.

    device: CUDA where there is one; dtype: float16 there and float32 on the CPU, unless given.
    """
    from .checkpoints import load_checkpoint

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or (torch.float16 if device.startswith("cuda") else torch.float32)
    loaded = load_checkpoint(path, device=device, dtype=dtype, prediction=prediction)
    info = loaded.info
    schedule = dict(loaded.scheduler_config)
    native = 1024 if info.architecture == "sdxl" else 512
    if info.prediction == "flow":
        rule = flow_rule(shift=float(schedule.get("shift", 1.0)))
    else:
        from diffusers import DDIMScheduler

        schedule["prediction_type"] = info.prediction
        rule = discrete_rule(info.prediction, DDIMScheduler.from_config(schedule).alphas_cumprod)  # type: ignore[arg-type]
    return DiffusersEngine(
        card=ModelCard(path.stem, info.sha256, info.architecture, info.prediction, native),
        unet=loaded.unet,
        codec=StableDiffusionCodec(loaded.vae, loaded.vae_scale, loaded.vae_shift),
        text=StableDiffusionText(loaded.text_encoders, loaded.tokenizers),
        rule=rule,
        schedule=schedule,
        device=torch.device(device),
        dtype=dtype,
    )
