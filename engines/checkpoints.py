"""Local SD1.5 and SDXL checkpoints as diffusers components. Nothing is ever fetched.

A checkpoint is one .safetensors file (LDM layout, dimensions read from the tensors) or a diffusers folder. diffusers'
own key conversion does the renaming; this module decides what a file is, checks that not one tensor is missing or left
over, and refuses everything else in a sentence.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from ..errors import CheckpointError
from ..safety.tensors import TensorHeader, read_header, read_tensors
from ..safety.untrusted import FileRefused, from_json, open_regular, parse_json, read_regular
from .configs import shapes as layout
from .sampling import SAMPLERS, make_scheduler
from .tokenizer import clip_tokenizer, read_clip_tokenizer

Architecture = Literal["sd15", "sdxl"]
Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
CLIP_L_PREFIX = {"sd15": "cond_stage_model.transformer.", "sdxl": "conditioner.embedders.0.transformer."}
BIGG_PREFIX = "conditioner.embedders.1.model."
# Entries of text encoders that are constants or belong to CLIP's training, not to the encoder.
NOT_WEIGHTS = ("position_ids", "logit_scale", "attn_mask")

FLOAT_STORAGE = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
TOKENS, POOLED = 77, 1280  # of a prompt; numbers that SDXL's second text encoder gives for the whole of it
MAX_TENSORS = 10_000  # SDXL has 2,500
MAX_JSON = 1 << 20  # bytes
MAX_TIMESTEPS = 10_000  # of the noise that a model was trained with; all known ones have 1,000
PICKLE_SUFFIXES = {".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle"}

NAMES = {"sd15": "Stable Diffusion 1.5", "sdxl": "SDXL"}
PIPELINES: dict[str, Architecture] = {
    "StableDiffusionPipeline": "sd15",
    "StableDiffusionImg2ImgPipeline": "sd15",
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusionXLImg2ImgPipeline": "sdxl",
}
CONTEXT_DIM = {"sd15": 768, "sdxl": 2048}
# diffusers names three of the four in a scheduler's prediction_type; flow is also told by the scheduler's class.
SCHEDULER_PREDICTION: dict[str, Prediction] = {
    "epsilon": "epsilon",
    "v_prediction": "v_prediction",
    "sample": "sample",
    "flow_prediction": "flow",
}


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint is, without its weights."""

    path: Path
    architecture: Architecture
    prediction: Prediction
    dtype: str  # how the UNet is stored: float16, bfloat16, float32 or float64

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of the file, read on first use (seconds for a full checkpoint). For a folder: of the lines that
        `sha256sum` prints for its .json and .safetensors files, in order of their names."""
        if self.path.is_file():
            return _file_sha256(self.path)
        files = sorted(file.relative_to(self.path).as_posix() for file in _folder_files(self.path))
        lines = "".join(f"{_file_sha256(self.path / name)}  {name}\n" for name in files)
        return hashlib.sha256(lines.encode()).hexdigest()


@dataclass
class LoadedCheckpoint:
    """Components on one device in one dtype, frozen (requires_grad False) and in eval mode. One exception: where fp16
    is asked for, the VAE of SDXL stays fp32, because its activations overflow fp16 and decode to black.

    The UNet's latent is (z - vae_shift) * vae_scale, z being what the VAE encodes to. `text_encoders` and `tokenizers`
    hold one entry (SD1.5: CLIP-L) or two (SDXL: CLIP-L, bigG). `scheduler_config` is diffusers' dict, with the class
    that the model was made for under "_class_name" and the prediction type in force."""

    info: CheckpointInfo
    unet: Any
    vae: Any
    text_encoders: list[Any]
    tokenizers: list[Any]
    scheduler_config: dict[str, Any]
    vae_scale: float
    vae_shift: float


def inspect_checkpoint(path: str | Path) -> CheckpointInfo:
    """Identify a checkpoint from its headers alone. Raises CheckpointError for anything that cannot be loaded."""
    path = _existing(path)
    if path.is_dir():
        return _inspect_folder(path)
    header = _read_header(path)
    with _fitting(path):
        return _inspect_file(path, header)


def load_checkpoint(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    prediction: Prediction | None = None,
) -> LoadedCheckpoint:
    """Load a checkpoint's components from local files, cast to `dtype`.

    `prediction` overrides what the UNet is taken to predict, for the few files that do not say that they are not
    epsilon models. Raises CheckpointError."""
    if prediction is not None and prediction not in get_args(Prediction):
        raise CheckpointError(f"The prediction type {prediction!r} is none of {', '.join(get_args(Prediction))}.")
    path = _existing(path)
    load = _load_folder if path.is_dir() else _load_file
    return load(path, torch.device(device), dtype, prediction)


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not os.path.exists(path):
        raise CheckpointError(
            f"The checkpoint {path} does not exist, and nothing is fetched from a hub: put it at {path.absolute()}, "
            "or name another."
        )
    return path


# ---------------------------------------------------------------------------------------------------- reading headers


@dataclass(frozen=True)
class _Header(TensorHeader):
    """The header of one .safetensors file: no weights."""

    def component(self, prefix: str) -> dict[str, tuple[int, ...]]:
        """Shapes under `prefix`, without it."""
        return {
            name.removeprefix(prefix): shape
            for name, shape in self.shapes.items()
            if name.startswith(prefix) and not name.endswith(NOT_WEIGHTS)
        }


def _read_header(path: Path) -> _Header:
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise CheckpointError(
            f"{path.name} is a pickle file ({path.suffix}), which can run code when opened: convert it to .safetensors."
        )
    if path.suffix.lower() != ".safetensors":
        raise CheckpointError(f"{path.name} is no .safetensors file: only .safetensors and diffusers folders load.")
    try:
        header = read_header(path)
        if len(header.shapes) > MAX_TENSORS:
            raise FileRefused(f"it has {len(header.shapes)} tensors, and no model that loads here has {MAX_TENSORS}")
    except FileRefused as error:
        raise CheckpointError(_unreadable(path, error)) from error
    return _Header(header.shapes, header.storage, header.metadata, header.size)


def _unreadable(path: Path, reason: FileRefused) -> str:
    try:
        with open_regular(path) as file:
            start = file.read(64)
    except (FileRefused, OSError) as denied:
        return f"{path} cannot be read ({denied})."
    if not start:
        return f"{path.name} is empty (0 bytes): copy or download it again."
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return (
            f"{path.name} is a pickle file under a .safetensors name, which can run code when opened: "
            "convert it to .safetensors."
        )
    if start.startswith(b"GGUF"):
        return f"{path.name} is a GGUF file under a .safetensors name; quantised checkpoints are not supported."
    if start.startswith(b"version https://git-lfs"):
        return f"{path.name} is a Git LFS pointer, not the checkpoint itself: run `git lfs pull` beside it."
    if start.lstrip()[:1] == b"<":
        return f"{path.name} is a web page, not a checkpoint: its download failed; download it again."
    return f"{path.name} is truncated or damaged ({reason}): copy or download it again."


def _refuse_quantised(path: Path, header: _Header, prefixes: tuple[str, ...] = ("",)) -> None:
    for name, storage in header.storage.items():
        if not name.startswith(prefixes) or name.endswith(NOT_WEIGHTS):
            continue
        if storage not in FLOAT_STORAGE:
            raise CheckpointError(
                f"{path.name} stores {name} as {storage}; fp8 and quantised checkpoints are not supported: "
                "use an fp16, bf16 or fp32 one."
            )


def _storage_dtype(storage: Mapping[str, str]) -> str:
    """The commonest float type. fp32 norms in an fp16 file do not make it fp32."""
    counts = Counter(FLOAT_STORAGE[kind] for kind in storage.values() if kind in FLOAT_STORAGE)
    return counts.most_common(1)[0][0]


def _file_sha256(path: Path) -> str:
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    except FileRefused as error:
        raise CheckpointError(f"{path} cannot be read ({error}): copy the folder again.") from error


# -------------------------------------------------------------------------------------------------- what is this file?

# (what it looks like, what a tensor name contains). The first that fits is named, so adapters come before bases.
LOOKS_LIKE = (
    ("a LoRA", ("lora_up.", "lora_down.", ".lora_A.", ".lora_B.", ".hada_w", ".lokr_w", "_lora.up.", "dora_scale")),
    ("a ControlNet", ("control_model.", "controlnet_cond_embedding", "controlnet_blocks.")),
    ("an IP-Adapter", ("ip_adapter.", "image_proj.")),
    ("an AnimateDiff motion module", ("motion_modules.",)),
    ("a Flux-like transformer", ("double_blocks.",)),
    ("a Stable Diffusion 3 transformer", ("joint_blocks.",)),
    ("a video or flow transformer", ("patchify_proj.", "head.modulation", "cap_embedder.", "txt_in.")),
    ("a textual inversion embedding", ("emb_params", "string_to_param")),
    ("a UNet in diffusers layout without its folder", ("down_blocks.0.resnets.", "mid_block.resnets.")),
    ("a VAE alone", ("decoder.conv_in.", "decoder.layers.", "taesd_decoder.", "decoder.up.")),
    ("a text encoder alone", ("text_model.", "resblocks.", "encoder.block.")),
    ("a UNet alone, without its text encoder and VAE", ("input_blocks.0.0.weight",)),
)
EDM_KEYS = ("edm_mean", "edm_std", "edm_vpred.sigma_max", "edm_vpred.sigma_min")


def _looks_like(header: _Header) -> str:
    for what, marks in LOOKS_LIKE:
        if any(mark in name for name in header.shapes for mark in marks):
            return f"it looks like {what}"
    if not header.shapes:
        return "it holds no tensors"
    return f"its first tensor is {next(iter(header.shapes))}"


def _architecture(path: Path, header: _Header) -> Architecture:
    """Which of the two bases a single file is, by its UNet."""
    accepted = "only Stable Diffusion 1.5 and SDXL checkpoints load here."
    unet = header.component(UNET_PREFIX)
    first = unet.get("input_blocks.0.0.weight")
    if first is None:
        raise CheckpointError(f"{path.name} is no Stable Diffusion checkpoint: {_looks_like(header)}; {accepted}")
    if first[1] != 4:
        what = {8: "an instruction-editing", 9: "an inpainting"}.get(first[1], "an unknown")
        raise CheckpointError(
            f"{path.name} is {what} model (its UNet takes {first[1]} channels instead of 4): use its base model."
        )
    edm = next((key for key in EDM_KEYS if key in header.shapes), None)
    if edm is not None:
        raise CheckpointError(f"{path.name} is an EDM model (it has {edm}), whose noise schedule is not supported.")
    context = layout.context_dim(unet)
    vector = unet.get("label_emb.0.0.weight", (0, 0))[1]
    if (context, vector) == (768, 0):
        return "sd15"
    if (context, vector) == (2048, 2816):
        return "sdxl"
    known = {
        (1024, 0): "Stable Diffusion 2",
        (1280, 2560): "the SDXL refiner",
        (768, 2816): "an SDXL variant",
    }.get((context or 0, vector), "neither")
    raise CheckpointError(
        f"{path.name} looks like {known} (text width {context}, vector width {vector}); {accepted}"
        if known != "neither"
        else f"{path.name} has a UNet of text width {context} and vector width {vector}; {accepted}"
    )


def _inspect_file(path: Path, header: _Header) -> CheckpointInfo:
    architecture = _architecture(path, header)
    _refuse_quantised(path, header, (UNET_PREFIX, VAE_PREFIX, "cond_stage_model.", "conditioner."))
    _require_parts(path, header, architecture)
    return CheckpointInfo(
        path=path,
        architecture=architecture,
        # As in ComfyUI: an empty tensor of this name is how a single file says so.
        prediction="v_prediction" if "v_pred" in header.shapes else "epsilon",
        dtype=_storage_dtype({name: kind for name, kind in header.storage.items() if name.startswith(UNET_PREFIX)}),
    )


def _require_parts(path: Path, header: _Header, architecture: Architecture) -> None:
    parts = [("text encoder (CLIP-L)", CLIP_L_PREFIX[architecture])]
    if architecture == "sdxl":
        parts.append(("second text encoder (OpenCLIP bigG)", BIGG_PREFIX))
    parts.append(("VAE", VAE_PREFIX))
    for part, prefix in parts:
        if not header.component(prefix):
            raise CheckpointError(
                f"{path.name} has no {part}: no tensor is named {prefix}*. "
                f"Use a full {NAMES[architecture]} checkpoint, or a diffusers folder."
            )


# -------------------------------------------------------------------------------------------------------- single files


def _load_file(
    path: Path, device: torch.device, dtype: torch.dtype, prediction: Prediction | None
) -> LoadedCheckpoint:
    header = _read_header(path)
    with _fitting(path):
        info = _inspect_file(path, header)
        config = layout.shipped_config(info.architecture)
        unet = _unet(path, header, info.architecture, dtype)
        vae, vae_scale, vae_shift = _vae(path, header, info.architecture, dtype)
        text_encoders = [_clip_l(path, header, info.architecture, dtype)]
        if info.architecture == "sdxl":
            text_encoders.append(_bigg(path, header, dtype))
    scheduler = config["scheduler"]
    if "ztsnr" in header.shapes:
        scheduler["rescale_betas_zero_snr"] = True
    return _loaded(
        dataclasses.replace(info, prediction=prediction or info.prediction),
        unet,
        vae,
        text_encoders,
        [clip_tokenizer(**settings) for settings in config["tokenizers"]],
        scheduler,
        vae_scale,
        vae_shift,
        device,
    )


def _loaded(
    info: CheckpointInfo,
    unet: Any,
    vae: Any,
    text_encoders: list[Any],
    tokenizers: list[Any],
    scheduler: dict[str, Any],
    vae_scale: float,
    vae_shift: float,
    device: torch.device,
) -> LoadedCheckpoint:
    _require_match(info, unet, vae, text_encoders, tokenizers)
    for module in (unet, vae, *text_encoders):
        module.to(device).requires_grad_(False).eval()
    names = {ours: theirs for theirs, ours in SCHEDULER_PREDICTION.items()}
    scheduler = scheduler | {"prediction_type": names[info.prediction]}
    return LoadedCheckpoint(info, unet, vae, text_encoders, tokenizers, scheduler, vae_scale, vae_shift)


def _require_match(
    info: CheckpointInfo, unet: Any, vae: Any, text_encoders: list[Any], tokenizers: list[Any]
) -> None:
    """Raises CheckpointError where a part speaks of other sizes than the next one understands."""
    width = sum(encoder.config.hidden_size for encoder in text_encoders)
    if width != unet.config.cross_attention_dim:
        wrong = f"its text encoders give {width} numbers a word and its UNet takes {unet.config.cross_attention_dim}"
    elif {unet.config.in_channels, unet.config.out_channels, vae.config.latent_channels} != {4}:
        wrong = "its UNet and its VAE do not share latents of 4 channels"
    elif any(len(t) > e.config.vocab_size for t, e in zip(tokenizers, text_encoders, strict=True)):
        wrong = "its tokenizer has more words than its text encoder"
    elif any(encoder.config.max_position_embeddings < TOKENS for encoder in text_encoders):
        wrong = f"its text encoder takes fewer than {TOKENS} words"
    else:
        return
    raise CheckpointError(f"The parts of {info.path.name} do not fit each other: {wrong}. Copy or download it again.")


@contextmanager
def _fitting(path: Path) -> Iterator[None]:
    """What dimensions, conversion and networks are made of is not there, or makes no sense: say so in words."""
    try:
        yield
    except CheckpointError:
        raise
    except KeyError as error:
        raise CheckpointError(f"{path.name} is incomplete: it has no tensor {error.args[0]}.") from error
    except Exception as error:  # constructors of networks raise nearly anything on numbers that make no sense
        raise CheckpointError(
            f"{path.name} describes no network of a kind that loads here ({error}): copy or download it again."
        ) from error


def _tensors(path: Path, prefix: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """One component, names as in the file. Copied out of the memory map, so that the file can be moved or replaced."""
    try:
        tensors, _ = read_tensors(path, "pt", lambda name: name.startswith(prefix) and not name.endswith(NOT_WEIGHTS))
    except FileRefused as error:
        raise CheckpointError(_unreadable(path, error)) from error
    return {name: tensor.to(dtype, copy=True) for name, tensor in tensors.items()}


def _unet(path: Path, header: _Header, architecture: Architecture, dtype: torch.dtype) -> Any:
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    config = layout.unet_config(header.component(UNET_PREFIX), architecture)
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel(**config)
    source = _tensors(path, UNET_PREFIX, dtype)
    converted = convert_ldm_unet_checkpoint(source, unet.config)
    return _fill(unet, converted, path, "UNet", _not_carried_over(source, converted))


def _vae(path: Path, header: _Header, architecture: Architecture, dtype: torch.dtype) -> tuple[Any, float, float]:
    shapes = header.component(VAE_PREFIX)
    if any(name.startswith("taesd_") for name in shapes):
        return _taesd(path, shapes, architecture, dtype)
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    config = layout.vae_config(shapes, architecture)
    with torch.device("meta"):
        vae: Any = AutoencoderKL(**config)
    source = _tensors(path, VAE_PREFIX, _vae_dtype(architecture, vae.config, dtype))
    converted = convert_ldm_vae_checkpoint(source, vae.config)
    vae = _fill(vae, converted, path, "VAE", _not_carried_over(source, converted))
    return vae, config["scaling_factor"], 0.0


def _vae_dtype(architecture: Architecture, config: Mapping[str, Any], dtype: torch.dtype) -> torch.dtype:
    overflows = architecture == "sdxl" and dtype == torch.float16 and config.get("force_upcast", True)
    return torch.float32 if overflows else dtype


def _taesd(
    path: Path, shapes: Mapping[str, tuple[int, ...]], architecture: Architecture, dtype: torch.dtype
) -> tuple[Any, float, float]:
    """TAESD. ComfyUI takes z / vae_scale + vae_shift as the VAE's latent and multiplies it by the architecture's
    factor; (z - shift) * scale below is the same number."""
    from diffusers import AutoencoderTiny

    source = {
        name.removeprefix(VAE_PREFIX): tensor for name, tensor in _tensors(path, VAE_PREFIX, torch.float32).items()
    }
    vae_scale = float(source.pop("vae_scale", 1.0))
    vae_shift = float(source.pop("vae_shift", 0.0))
    scale = layout.shipped_config(architecture)["vae"]["scaling_factor"] / vae_scale
    shift = -vae_shift * vae_scale
    config = layout.taesd_config(shapes, scaling_factor=scale, shift_factor=shift)
    with torch.device("meta"):
        vae = AutoencoderTiny(**config)
    return _fill(vae, {_taesd_name(n): t.to(dtype) for n, t in source.items()}, path, "VAE"), scale, shift


def _taesd_name(name: str) -> str:
    """ComfyUI's decoder starts with a clamp layer, which diffusers' does not count."""
    part, index, rest = name.split(".", 2)
    if part == "taesd_decoder":
        return f"decoder.layers.{int(index) - 1}.{rest}"
    return f"encoder.layers.{index}.{rest}"


def _clip_l(path: Path, header: _Header, architecture: Architecture, dtype: torch.dtype) -> Any:
    from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint
    from transformers import CLIPTextConfig, CLIPTextModel

    prefix = CLIP_L_PREFIX[architecture]
    config = CLIPTextConfig(**layout.clip_config(header.component(prefix), architecture))
    with torch.device("meta"):
        model = CLIPTextModel(config)
    converted = convert_ldm_clip_checkpoint(_tensors(path, prefix, dtype))
    # Some tools save CLIP-L's projection too; nothing conditions on it.
    converted.pop("text_projection.weight", None)
    if not hasattr(model, "text_model"):  # transformers 5.6 and later flattened the class
        converted = {name.removeprefix("text_model."): tensor for name, tensor in converted.items()}
    return _fill(model, converted, path, "text encoder (CLIP-L)")


def _bigg(path: Path, header: _Header, dtype: torch.dtype) -> Any:
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(**layout.open_clip_config(header.component(BIGG_PREFIX)))
    with torch.device("meta"):
        model = CLIPTextModelWithProjection(config)
    converted = convert_open_clip_checkpoint(model, _tensors(path, BIGG_PREFIX, dtype), prefix=BIGG_PREFIX)
    return _fill(model, converted, path, "second text encoder (OpenCLIP bigG)")


def _not_carried_over(source: Mapping[str, torch.Tensor], converted: Mapping[str, torch.Tensor | None]) -> list[str]:
    """Tensors of the file that the conversion passed over in silence: it renames, so each must share its storage."""
    kept = {t.untyped_storage().data_ptr() for t in converted.values() if t is not None}
    return [name for name, tensor in source.items() if tensor.untyped_storage().data_ptr() not in kept]


def _fill(
    model: Any, state: Mapping[str, torch.Tensor], path: Path, part: str, passed_over: list[str] | None = None
) -> Any:
    """Give a model on the meta device its weights; every one of them, no other, each of the right shape."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted((state.keys() - expected.keys()) | set(passed_over or ()))
    wrong = sorted(n for n in expected.keys() & state.keys() if tuple(state[n].shape) != expected[n])
    _refuse_mismatch(path, part, missing, unexpected, wrong)
    model.load_state_dict({name: tensor.contiguous() for name, tensor in state.items()}, strict=True, assign=True)
    for name, buffer in model.named_buffers():
        if buffer.is_meta and name.endswith("position_ids"):  # not saved: always 0, 1, 2, ...
            owner = model.get_submodule(name.rpartition(".")[0])
            owner.position_ids = torch.arange(buffer.shape[-1]).expand(buffer.shape).clone()
    return model


def _refuse_mismatch(path: Path, part: str, missing: list[str], unexpected: list[str], wrong: list[str]) -> None:
    problems = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong))
        if names
    ]
    if problems:
        raise CheckpointError(
            f"The {part} of {path.name} does not fit its architecture; tensors: {'; '.join(problems)}. "
            "The file is incomplete or of a variant that is not supported."
        )


# ---------------------------------------------------------------------------------------------------------- folders


def _folder_files(path: Path) -> list[Path]:
    parts = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
    files = [path / "model_index.json", *(file for part in parts for file in (path / part).glob("*"))]
    return [file for file in files if file.suffix in (".json", ".safetensors")]


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = parse_json(read_regular(file, MAX_JSON))
    except (FileRefused, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read as JSON ({error}): copy the folder again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} holds no JSON object: copy the folder again.")
    return content


@dataclass(frozen=True)
class _Weights:
    """The .safetensors files of one component of a folder, with their headers, and its configuration."""

    files: list[Path]
    headers: list[_Header]
    config: dict[str, Any]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: shape for header in self.headers for name, shape in header.shapes.items()}


def _component_weights(folder: Path, part: str, stem: str) -> _Weights:
    directory = folder / part
    if not (directory / "config.json").is_file():
        raise CheckpointError(f"The folder {folder} has no {part} ({part}/config.json): copy the whole model.")
    # The files are found by their names here, not by an index that may name any file:
    # <stem>.safetensors, <stem>.fp16.safetensors, or shards: <stem>-00001-of-00002.safetensors,
    # <stem>.fp16-00001-of-00002.safetensors.
    names = [file.name.removesuffix(".safetensors") for file in directory.glob(f"{stem}*.safetensors")]
    groups: dict[str | None, list[str]] = {}
    for name in sorted(names):
        base = name.split("-000", 1)[0]
        groups.setdefault(base.removeprefix(stem).lstrip(".") or None, []).append(name)
    if not groups:
        if any(directory.glob("*.bin")):
            raise CheckpointError(
                f"{directory} holds .bin (pickle) weights only, which can run code when opened: "
                "save the model with safetensors."
            )
        raise CheckpointError(f"{directory} holds no {stem}.safetensors: copy the whole model.")
    adapter = directory / "adapter_config.json"
    if adapter.is_file():
        raise CheckpointError(f"{adapter} makes {part} an adapter of another model: save the model with it merged in.")
    config = _read_json(directory / "config.json")
    if "quantization_config" in config:
        raise CheckpointError(f"{directory} is quantised, which is not supported: use fp16, bf16 or fp32 weights.")
    variant = None if None in groups else sorted(key for key in groups if key)[0]
    _require_shards(directory, groups[variant])
    files = [directory / f"{name}.safetensors" for name in groups[variant]]
    headers = [_read_header(file) for file in files]
    for file, header in zip(files, headers, strict=True):
        _refuse_quantised(file, header)
    return _Weights(files, headers, config)


def _require_shards(directory: Path, names: list[str]) -> None:
    """Where weights come in shards, "...-00001-of-00002": every one of them."""
    sharded = re.fullmatch(r"(.*)-\d{5}-of-(\d{5})", names[0])
    if sharded is None:
        return
    for number in range(1, int(sharded[2]) + 1):
        file = directory / f"{sharded[1]}-{number:05d}-of-{sharded[2]}.safetensors"
        if not file.is_file():
            raise CheckpointError(f"{file} is missing, one of {int(sharded[2])} parts: copy the whole model.")


def _folder_components(path: Path) -> tuple[Architecture, dict[str, _Weights]]:
    index_file = path / "model_index.json"
    if not index_file.is_file():
        raise CheckpointError(
            f"The folder {path} has no model_index.json, so it is no diffusers model: "
            "name a .safetensors file in it, or a diffusers folder."
        )
    pipeline = _read_json(index_file).get("_class_name")
    architecture = PIPELINES.get(str(pipeline))
    if architecture is None:
        raise CheckpointError(
            f"The folder {path} holds a {pipeline or 'model of no named class'}; "
            "only Stable Diffusion 1.5 and SDXL checkpoints load here."
        )
    parts = [("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model"), ("text_encoder", "model")]
    if architecture == "sdxl":
        parts.append(("text_encoder_2", "model"))
    weights = {part: _component_weights(path, part, stem) for part, stem in parts}
    unet = weights["unet"].config
    width, channels = unet.get("cross_attention_dim"), unet.get("in_channels", 4)
    if width != CONTEXT_DIM[architecture] or channels != 4:
        raise CheckpointError(
            f"The folder {path} is no {NAMES[architecture]} base model: its UNet has text width {width} and takes "
            f"{channels} channels, instead of {CONTEXT_DIM[architecture]} and 4."
        )
    for tokenizer in ("tokenizer", "tokenizer_2")[: len(parts) - 2]:
        directory = path / tokenizer
        vocabulary = (directory / "vocab.json").is_file() and (directory / "merges.txt").is_file()
        if not vocabulary and not (directory / "tokenizer.json").is_file():
            raise CheckpointError(f"The folder {path} has no {tokenizer} (vocab.json and merges.txt): copy it whole.")
    if not (path / "scheduler" / "scheduler_config.json").is_file():
        raise CheckpointError(f"The folder {path} has no scheduler (scheduler/scheduler_config.json): copy it whole.")
    return architecture, weights


def _folder_prediction(path: Path) -> Prediction:
    file = path / "scheduler" / "scheduler_config.json"
    scheduler = _read_json(file)
    if "FlowMatch" in str(scheduler.get("_class_name")):
        return "flow"
    named = str(scheduler.get("prediction_type", "epsilon"))
    if named not in SCHEDULER_PREDICTION:
        raise CheckpointError(f"{file} names an unknown prediction type, {named!r}.")
    return SCHEDULER_PREDICTION[named]


def _inspect_folder(path: Path) -> CheckpointInfo:
    architecture, weights = _folder_components(path)
    storage = {name: kind for header in weights["unet"].headers for name, kind in header.storage.items()}
    return CheckpointInfo(path, architecture, _folder_prediction(path), _storage_dtype(storage))


def _load_folder(
    path: Path, device: torch.device, dtype: torch.dtype, prediction: Prediction | None
) -> LoadedCheckpoint:
    info = _inspect_folder(path)
    _, weights = _folder_components(path)
    vae_settings = weights["vae"].config
    encoders = ["text_encoder", "text_encoder_2"][: 2 if info.architecture == "sdxl" else 1]
    schedule = _folder_schedule(path, info.prediction)
    with _fitting(path):
        unet = _folder_unet(path, weights["unet"], dtype)
        vae = _folder_vae(path, weights["vae"], _vae_dtype(info.architecture, vae_settings, dtype))
        text_encoders = [_folder_clip(path, part, weights[part], dtype) for part in encoders]
        vae_scale, vae_shift = float(vae.config.scaling_factor), float(vae.config.get("shift_factor") or 0.0)
    return _loaded(
        dataclasses.replace(info, prediction=prediction or info.prediction),
        unet,
        vae,
        text_encoders,
        [read_clip_tokenizer(path / part.replace("text_encoder", "tokenizer")) for part in encoders],
        schedule,
        vae_scale,
        vae_shift,
        device,
    )


@dataclass(frozen=True)
class _Noise:
    """The settings of a scheduler that a table of noise is made from, with diffusers' defaults."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    trained_betas: list[float] | None = None
    shift: float = 1.0


def _folder_schedule(path: Path, prediction: Prediction) -> dict[str, Any]:
    """The scheduler's settings, from which every sampler can be made. Raises CheckpointError."""
    file = path / "scheduler" / "scheduler_config.json"
    settings = _read_json(file)
    names = {ours: theirs for theirs, ours in SCHEDULER_PREDICTION.items()}
    try:
        if not isinstance(settings.get("_class_name", ""), str):
            raise ValueError("its class has no name")
        noise = from_json(_Noise, {f.name: settings[f.name] for f in dataclasses.fields(_Noise) if f.name in settings})
        if not 1 < noise.num_train_timesteps <= MAX_TIMESTEPS or len(noise.trained_betas or ()) > MAX_TIMESTEPS:
            raise ValueError(f"a table of noise has 2 to {MAX_TIMESTEPS} entries")
        if not 0.0 < noise.shift < 1000.0 or not 0.0 < noise.beta_start <= noise.beta_end < 1.0:
            raise ValueError("its noise is out of range")
        for sampler in ("euler",) if prediction == "flow" else SAMPLERS:
            kind = "flow" if prediction == "flow" else names[prediction]
            make_scheduler(settings | {"prediction_type": kind}, sampler, "simple").set_timesteps(4)
    except Exception as error:  # schedulers raise nearly anything on settings that make no sense
        raise CheckpointError(f"{file} describes no schedule of noise ({error}): copy the folder again.") from error
    return settings


# diffusers' and transformers' own loaders follow what a folder's files name: other files, attention kernels, a hub.
# Here a network is made from numbers alone, and filled from the .safetensors files in the component's folder.


def _folder_unet(path: Path, weights: _Weights, dtype: torch.dtype) -> Any:
    from diffusers import UNet2DConditionModel

    layout.require_evidence(weights.config, weights.shapes)
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(weights.config)
        _rehearse_unet(unet)
    return _fill(unet, _folder_tensors(weights, dtype), path, "unet")


def _rehearse_unet(unet: Any) -> None:
    """One call without numbers, on the meta device: settings that only fail in use fail here."""
    pooled = {"text_embeds": torch.empty(1, POOLED), "time_ids": torch.empty(1, 6)}
    context = torch.empty(1, TOKENS, int(unet.config.cross_attention_dim))
    unet(torch.empty(1, 4, 8, 8), torch.empty(1), context, added_cond_kwargs=pooled)


def _folder_vae(path: Path, weights: _Weights, dtype: torch.dtype) -> Any:
    import diffusers

    name = str(weights.config.get("_class_name"))
    if name not in ("AutoencoderKL", "AutoencoderTiny"):
        raise CheckpointError(f"The VAE of {path} is of class {name}, not AutoencoderKL or AutoencoderTiny.")
    layout.require_evidence(weights.config, weights.shapes)
    with torch.device("meta"):
        vae: Any = getattr(diffusers, name).from_config(weights.config)
        vae(torch.empty(1, 3, 64, 64))  # as _rehearse_unet
    state = {_attention_name(name): tensor for name, tensor in _folder_tensors(weights, dtype).items()}
    return _fill(vae, state, path, "vae")


def _attention_name(name: str) -> str:
    """diffusers called the attention layers of a VAE otherwise until 2023."""
    renamed = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    head, _, leaf = name.rpartition(".")
    stem, _, layer = head.rpartition(".")
    return f"{stem}.{renamed[layer]}.{leaf}" if layer in renamed and "attentions" in stem else name


@dataclass(frozen=True)
class _ClipSettings:
    """What a text encoder is built from, None for transformers' own default; its file says more."""

    vocab_size: int | None
    hidden_size: int | None
    intermediate_size: int | None
    projection_dim: int | None
    num_hidden_layers: int | None
    num_attention_heads: int | None
    max_position_embeddings: int | None
    hidden_act: str | None
    layer_norm_eps: float | None
    pad_token_id: int | None
    bos_token_id: int | None
    eos_token_id: int | None


def _folder_clip(path: Path, part: str, weights: _Weights, dtype: torch.dtype) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    layout.require_evidence(weights.config, weights.shapes)
    known = {field.name: weights.config.get(field.name) for field in dataclasses.fields(_ClipSettings)}
    settings = dataclasses.asdict(from_json(_ClipSettings, known))
    config = CLIPTextConfig(**{key: value for key, value in settings.items() if value is not None})
    with torch.device("meta"):
        model = (CLIPTextModel if part == "text_encoder" else CLIPTextModelWithProjection)(config)
    state = _folder_tensors(weights, dtype)
    if not any(name.startswith("text_model.") for name in model.state_dict()):  # since transformers 5.6
        state = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    return _fill(model, state, path, part)


def _folder_tensors(weights: _Weights, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {name: tensor for file in weights.files for name, tensor in _tensors(file, "", dtype).items()}
