"""The Engine on ComfyUI's own objects: the MODEL, CLIP and VAE that a user wired in, under ComfyUI's memory management.

Latents are in model space here, as the protocol's `x0` is; ComfyUI's LATENT sockets hold them before scaling.
"""

from __future__ import annotations

import gc
import hashlib
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.sd
import latent_preview
import numpy as np
import torch
from torch import Tensor

from ..errors import RenderError, TrainingError
from .comfy_demo import unknown_words
from .comfy_sampling import ask_for_alive_rows, initial_noise, join_by_share, sampler_for
from .comfy_training import ComfyDenoiser, Shell, noising_rule, refuse_untrainable, sample_through
from .lora_file import LoraWeights
from .protocol import Conditioning, ModelCard, SampleRequest, SampleResult, StepCallback, StepView

_KEPT_LORAS = 4  # patched clones share their weights' storage; this many are remembered between calls


class ComfyEngine:
    """model, clip, vae: native objects; none of them is changed. progress: show each sampling run on the node's bar."""

    def __init__(self, model: Any, clip: Any, vae: Any, *, progress: bool = False) -> None:
        # weights that come and go (ComfyUI's dynamic loading) cannot be shared with training
        dynamic = getattr(model, "is_dynamic", lambda: False)()
        self._model = model.get_non_dynamic_delegate() if dynamic else model
        self._clip, self._vae, self._progress = clip, vae, progress
        self._lent: tuple[Any, Shell] | None = None
        self._patched: dict[tuple[str, float], Any] = {}
        self._card: ModelCard | None = None
        if self._format.latent_dimensions != 2:
            raise RenderError("This model makes video latents; wire in one that makes pictures.")

    # -- what it is ----------------------------------------------------------------------------------------------------

    @property
    def _format(self) -> Any:
        return self._model.get_model_object("latent_format")

    @property
    def card(self) -> ModelCard:
        """sha256: over the UNet's unpatched weights. variant: what else decides its pictures: weight patches that are
        wired in, the noise schedule, text encoder and VAE."""
        if self._card is None:
            base = self._model.model
            kind = type(base.model_config)  # ComfyUI's class for the layout that it recognised
            self._card = ModelCard(
                name=getattr(kind, "title", kind.__name__),
                sha256=weights_sha256(self._model),
                architecture=getattr(kind, "architecture", kind.__name__.lower()),
                prediction=self._prediction(),
                native_size=_native_size(kind),
                variant=_variant(self._model, self._clip, self._vae),
            )
        return self._card

    def _prediction(self) -> str:
        try:
            return noising_rule(self._model.get_model_object("model_sampling"))[0].prediction
        except TrainingError:  # sampling needs no target; training says so when it is asked for
            return "unknown"

    @property
    def samplers(self) -> tuple[str, ...]:
        return tuple(comfy.samplers.KSampler.SAMPLERS)

    @property
    def schedulers(self) -> tuple[str, ...]:
        return tuple(comfy.samplers.KSampler.SCHEDULERS)

    @property
    def latent_factor(self) -> int:
        return int(getattr(self._format, "spacial_downscale_ratio", 8))

    # -- text and pictures ---------------------------------------------------------------------------------------------

    def encode_prompt(self, prompt: str) -> Conditioning:
        with torch.inference_mode():
            data = self._clip.encode_from_tokens_scheduled(self._clip.tokenize(prompt))
        return Conditioning(prompt, data, unknown_words(self._clip, prompt))

    def encode_images(self, images: Sequence[np.ndarray]) -> Tensor:
        with torch.inference_mode():
            pixels = torch.from_numpy(np.stack(images)).float().div(255.0)
            latents = self._model.model.process_latent_in(self._vae.encode(pixels))
        return _ordinary(latents).float().cpu()

    def decode_latents(self, latents: Tensor) -> list[np.ndarray]:
        if not len(latents):
            return []
        with torch.inference_mode():
            pixels = self._vae.decode(self._model.model.process_latent_out(latents.clone()))
            levels = pixels.float().clamp(0.0, 1.0).mul(255.0).round().byte().cpu().numpy()
        return [np.ascontiguousarray(image) for image in levels.reshape(-1, *levels.shape[-3:])]

    # -- sampling ------------------------------------------------------------------------------------------------------

    def sample(self, request: SampleRequest, on_step: StepCallback | None = None) -> SampleResult:
        """As KSampler, seed by seed. Raises RenderError, and ComfyUI's own interruption untouched."""
        self._check(request)
        with torch.inference_mode():
            model = self._model_for(request.lora, request.strength)
            rows, latents = _Sampling(self, model, request, on_step).run()
            latents = self._model.model.process_latent_in(latents)
        if self._lent is not None:
            self._settle_lent()
        return SampleResult(rows, _ordinary(latents).float())

    def _check(self, request: SampleRequest) -> None:
        factor = self.latent_factor
        if request.width % factor or request.height % factor:
            raise RenderError(
                f"A picture of {request.width}x{request.height} does not fit this model; give a width and a height "
                f"that are multiples of {factor}."
            )
        for kind, name, known in (
            ("sampler", request.sampler, self.samplers),
            ("scheduler", request.scheduler, self.schedulers),
        ):
            if name not in known:
                raise RenderError(f"The {kind} '{name}' is not one of {', '.join(known)}.")
        if request.steps < 1 or not 0.0 < request.denoise <= 1.0 or not request.seeds:
            raise RenderError(
                f"Sampling needs at least one seed, one step and a denoise in (0, 1]; got {len(request.seeds)} seeds, "
                f"{request.steps} steps, denoise {request.denoise}."
            )
        if request.mask is not None and request.init is None:
            raise RenderError(
                "A mask says what is kept of a picture, so it needs one to start from; give init as well."
            )

    def _model_for(self, lora: LoraWeights | None, strength: float) -> Any:
        """A clone to sample with: the lent one while training, else the wired one, with the LoRA patched on."""
        if self._lent is not None:
            return self._lent[0].clone()
        if lora is None or strength == 0.0:
            return self._model.clone()
        key = (lora.sha256, strength)
        if key not in self._patched:
            patched, _ = comfy.sd.load_lora_for_models(self._model, None, dict(lora.tensors), strength, 0.0)
            if _patches(patched) == _patches(self._model):
                raise RenderError(
                    f"The LoRA '{lora.name}' fits no layer of this model; it was trained for another architecture: "
                    "wire in the model that it was trained on."
                )
            if misfits := _misfits(patched):
                raise RenderError(
                    f"The LoRA '{lora.name}' was trained on another model: {len(misfits)} of its layers have another "
                    f"shape here, {misfits[0]} for one. Wire in the model that it was trained on."
                )
            while len(self._patched) >= _KEPT_LORAS:
                self._patched.pop(next(iter(self._patched)))
            self._patched[key] = patched
        return self._patched[key].clone()

    def free_memory(self) -> None:
        gc.collect()
        comfy.model_management.soft_empty_cache()

    # -- training ------------------------------------------------------------------------------------------------------

    @contextmanager
    def trainable(self) -> Iterator[ComfyDenoiser]:
        """Lends a shell over the loaded weights; `sample` goes through it until the end. Leaves inference mode for as
        long. Raises TrainingError for weights that cannot be trained on."""
        patcher = self._model.clone()
        refuse_untrainable(patcher.model.diffusion_model, self.card.name)
        _load(patcher)
        with torch.inference_mode(False), torch.enable_grad():
            shell = Shell(patcher.model.diffusion_model)
            shell.module.requires_grad_(False)
            sample_through(patcher, shell)
            self._lent = (patcher, shell)
            try:
                yield ComfyDenoiser(patcher, shell)
            finally:
                self._lent = None

    def _settle_lent(self) -> None:
        """Sampling may have made room by moving the model; training goes on where it is loaded in full."""
        assert self._lent is not None
        patcher, shell = self._lent
        _load(patcher)
        with torch.inference_mode(False):
            shell.follow()


class _Ended(Exception):
    """The callback keeps no row: the run is over."""


class _Sampling:
    """One request on its way through ComfyUI."""

    def __init__(self, engine: ComfyEngine, model: Any, request: SampleRequest, on_step: StepCallback | None) -> None:
        self.engine, self.model, self.request, self.on_step = engine, model, request, on_step
        whole = request.init is None  # nothing to keep a share of: denoise says nothing
        self.sigmas = comfy.samplers.KSampler(
            model, request.steps, model.load_device, request.sampler, request.scheduler,
            1.0 if whole else request.denoise, model.model_options,
        ).sigmas  # fmt: skip
        factor = engine.latent_factor
        self.shape = (engine._format.latent_channels, request.height // factor, request.width // factor)

    def run(self) -> tuple[tuple[int, ...], Tensor]:
        """(rows kept, their latents as a LATENT socket holds them)."""
        rows = tuple(range(len(self.request.seeds)))
        like = torch.zeros((1, *self.shape), device=self.model.load_device)
        sampler = sampler_for(self.request.sampler, self.request.seeds, self.sigmas, like)
        if sampler is not None:
            return self._run_rows(sampler, rows)
        parts = []
        for row in rows:
            alone = sampler_for(self.request.sampler, self.request.seeds[row : row + 1], self.sigmas, like)
            parts.append(self._run_rows(alone, (row,)))
        return tuple(r for kept, _ in parts for r in kept), torch.cat([latents for _, latents in parts])

    def _run_rows(self, sampler: Any, rows: tuple[int, ...]) -> tuple[tuple[int, ...], Tensor]:
        request, model = self.request, self.model.clone()
        seeds = [request.seeds[row] for row in rows]
        alive = list(range(len(rows)))  # places in this batch
        ask_for_alive_rows(model, lambda: alive)
        if request.mask is not None:
            join_by_share(model)
        show = latent_preview.prepare_callback(model, len(self.sigmas) - 1) if self.engine._progress else None

        def after_step(step: int, x0: Tensor, x: Tensor, total: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            if show is not None:
                show(step, x0[alive], x[alive], total)
            if self.on_step is None:
                return
            view = StepView(step + 1, total, tuple(rows[place] for place in alive), x0[alive])
            keep = self.on_step(view)
            if keep is not None:
                wanted = set(keep)
                alive[:] = [place for place in alive if rows[place] in wanted]
                if not alive:
                    raise _Ended

        try:
            latents = comfy.sample.sample_custom(
                model, initial_noise(seeds, self.shape), request.cfg, sampler, self.sigmas,
                request.positive.data, request.negative.data, self._start(rows),
                noise_mask=self._rows_of(request.mask, rows), callback=after_step, disable_pbar=True, seed=seeds[0],
            )  # fmt: skip
        except _Ended:
            return (), torch.zeros((0, *self.shape))
        return tuple(rows[place] for place in alive), latents[alive]

    def _start(self, rows: tuple[int, ...]) -> Tensor:
        if self.request.init is None:
            return torch.zeros((len(rows), *self.shape))
        start = self._rows_of(self.request.init, rows)
        assert start is not None
        return self.engine._model.model.process_latent_out(start.float().clone())

    def _rows_of(self, given: Tensor | None, rows: tuple[int, ...]) -> Tensor | None:
        if given is None:
            return None
        return given.expand(len(self.request.seeds), -1, -1, -1)[list(rows)]


def _patches(patcher: Any) -> int:
    return sum(len(patches) for patches in patcher.patches.values())


def _misfits(patcher: Any) -> list[str]:
    """Layers whose newest LoRA patch has the wrong shape: ComfyUI logs those while it patches, and goes on without."""
    state = patcher.model.state_dict()
    found = []
    for name, patches in patcher.patches.items():
        adapter, offset = patches[-1][1], patches[-1][3]
        if getattr(adapter, "name", None) != "lora" or offset is not None:
            continue
        up, down, _, middle, _, reshape = adapter.weights
        shape = state[name].shape
        if middle is None and reshape is None and (len(up), down[0].numel()) != (shape[0], shape[1:].numel()):
            found.append(name.removeprefix("diffusion_model."))
    return found


def _load(patcher: Any) -> None:
    """All of it on the device, alone if need be: training holds on to the weights."""
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([patcher], memory_required=1e20, force_full_load=True)


def _ordinary(tensor: Tensor) -> Tensor:
    """A copy that autograd may save, whatever mode the original was made in."""
    with torch.inference_mode(False):
        return tensor.clone()


def _native_size(kind: type) -> int:
    return int(getattr(kind, "native_size", 512 if kind.__name__.startswith(("SD15", "SD20", "SD21")) else 1024))


# -- hashes: a socket carries no file name, so a model is told by its weights ----------------------------------------

_hashes: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def weights_sha256(patcher: Any) -> str:
    """Over names and unpatched values of the diffusion model, whatever LoRAs are patched on at the moment."""
    base = patcher.model
    if base not in _hashes:
        digest = hashlib.sha256()
        for name, tensor in sorted(base.diffusion_model.state_dict().items()):
            kept = patcher.backup.get(f"diffusion_model.{name}")
            digest.update(name.encode())
            _update(digest, tensor if kept is None else kept.weight)
        _hashes[base] = digest.hexdigest()
    return _hashes[base]


def _update(digest: Any, tensor: Tensor) -> None:
    digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())


def _variant(model: Any, clip: Any, vae: Any) -> str:
    digest = hashlib.sha256()
    sigmas = getattr(model.get_model_object("model_sampling"), "sigmas", None)
    if isinstance(sigmas, Tensor):
        _update(digest, sigmas)
    for patches in (model.patches, clip.patcher.patches):
        for key in sorted(patches, key=str):
            digest.update(str(key).encode())
            _walk(digest, patches[key])
    for module in (clip.cond_stage_model, vae.first_stage_model):
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(name.encode())
            _update(digest, tensor.flatten()[:_GLANCE])
    return digest.hexdigest()[:16]


_GLANCE = 1024  # values a tensor: enough to tell text encoders and VAEs apart without reading gigabytes


def _walk(digest: Any, patch: Any) -> None:
    """Strengths and tensors of a weight patch, however ComfyUI nests them."""
    if isinstance(patch, Tensor):
        _update(digest, patch)
    elif isinstance(patch, Mapping):
        for key in patch:
            digest.update(str(key).encode())
            _walk(digest, patch[key])
    elif isinstance(patch, list | tuple):
        for part in patch:
            _walk(digest, part)
    elif hasattr(patch, "weights"):
        _walk(digest, patch.weights)
    elif isinstance(patch, int | float | str | type(None)):
        digest.update(repr(patch).encode())
    elif not isinstance(patch, Callable):  # type: ignore[arg-type]
        digest.update(type(patch).__name__.encode())
