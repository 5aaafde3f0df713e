"""One sampling pass as data, and how it runs on an Engine. The passes of every mode are made of these."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..engines.lora_file import LoraWeights
from ..engines.memory import RanOut, attempt
from ..engines.protocol import Engine, SampleRequest
from ..errors import RenderError
from ..safety import index
from ..safety.prompt import require_renderable
from .log import Meters

# Raised by hand whenever a change of this pack changes the picture of a seed, what a preview shows, which seeds are
# pruned or how a face is blended: what an older version searched and rendered is then not gone on with.
ALGORITHM = "identity-lock-rendering/1"


@dataclass(frozen=True)
class PassSpec:
    """prompt, negative: text. strength: of the LoRA (never called alpha, which is the training term). denoise: (0, 1],
    outside the face; face_denoise: the same inside the face mask, None for no difference. Sizes in pixels."""

    prompt: str
    negative: str = ""
    strength: float = 1.0
    cfg: float = 5.8
    steps: int = 24
    sampler: str = "dpmpp_2m"
    scheduler: str = "karras"
    denoise: float = 1.0
    face_denoise: float | None = None

    def describe(self) -> dict[str, Any]:
        return asdict(self)

    def require_allowed(self, field: str = "prompt") -> None:
        """Raises PromptRefused, naming `field`, for words that the guard refuses. Asked before the first pass of
        several: each pass is refused by itself as well, but a later one after the time of those before it."""
        require_renderable(self.prompt, self.negative, self.cfg, field=field)


def run_pass(
    engine: Engine,
    spec: PassSpec,
    seed: int,
    size: tuple[int, int],
    lora: LoraWeights | None,
    *,
    start: np.ndarray | None = None,
    face_mask: np.ndarray | None = None,
) -> np.ndarray:
    """A uint8 RGB picture (height, width, 3). size: (width, height).

    start: the picture to begin from, of that size. face_mask: float32 (height, width), 1 on the face.
    Raises PromptRefused for a prompt that the guard refuses, or for such a negative prompt where cfg is below 1;
    RenderError where memory runs out.
    """
    spec.require_allowed()
    rendered = attempt(lambda: _rendered(engine, spec, seed, size, lora, start, face_mask), engine.free_memory)
    if isinstance(rendered, RanOut):
        raise no_memory(size, rendered.said)
    return rendered


def no_memory(size: tuple[int, int], said: str) -> RenderError:
    return RenderError(
        f"Memory ran out over a single picture of {size[0]} x {size[1]} px ({said}); lower the width and the height, "
        "or close what else uses the memory. What was finished is kept."
    )


def _rendered(
    engine: Engine,
    spec: PassSpec,
    seed: int,
    size: tuple[int, int],
    lora: LoraWeights | None,
    start: np.ndarray | None,
    face_mask: np.ndarray | None,
) -> np.ndarray:
    width, height = size
    init = mask = None
    if start is not None:
        init = engine.encode_images([start])
        if face_mask is not None and spec.face_denoise is not None:
            mask = soft_latent_mask(face_mask, spec.face_denoise / spec.denoise, engine.latent_factor)
    request = SampleRequest(
        positive=engine.encode_prompt(spec.prompt),
        negative=engine.encode_prompt(spec.negative),
        seeds=(seed,),
        width=width,
        height=height,
        steps=spec.steps,
        cfg=spec.cfg,
        sampler=spec.sampler,
        scheduler=spec.scheduler,
        denoise=spec.denoise if init is not None else 1.0,
        init=init,
        mask=mask,
        lora=lora,
        strength=spec.strength,
    )
    return engine.decode_latents(engine.sample(request).latents)[0]


def models_used(engine: Engine, lora: LoraWeights | None, **others: Engine) -> dict[str, dict[str, str]]:
    """Names and hashes for a RenderRecord, by role; of a LoRA the id of whom it was trained on, where it says so."""
    models = {role: {"name": e.card.name, "sha256": e.card.sha256} for role, e in {"base": engine, **others}.items()}
    if lora is not None:
        models["lora"] = {"name": lora.name, "sha256": lora.sha256}
        if index.is_id(lora.metadata.get("identity_id")):
            models["lora"]["identity_id"] = lora.metadata["identity_id"]
    return models


def made_with(engine: Engine, lora: LoraWeights | None, meters: Meters, style: Engine | None = None) -> dict[str, str]:
    """The parts of a fingerprint (safety/fingerprint.py) that every render has: models, identity, recognisers."""
    reader, reporting = meters.selection.reader, meters.reporting
    return dict(
        version=ALGORITHM,
        person=meters.selection.reference.tobytes().hex(),
        recogniser=reader.recogniser.sha256,
        reporting="" if reporting is None else reporting.reader.recogniser.sha256,
        detector=reader.detector.sha256,
        base=engine.card.sha256 + engine.card.variant,
        style="" if style is None else style.card.sha256 + style.card.variant,
        lora="" if lora is None else lora.sha256,
    )


def soft_latent_mask(face_mask: np.ndarray, face_share: float, factor: int) -> Tensor:
    """(1, 1, h, w): 1 off the face, `face_share` of the run on it, between in between."""
    weights = torch.from_numpy(face_mask.astype(np.float32))[None, None]
    pooled = torch.nn.functional.avg_pool2d(weights, factor)
    return 1.0 - (1.0 - min(1.0, face_share)) * pooled
