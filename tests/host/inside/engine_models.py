"""What the engine's scripts share: opening a model as a graph would, and a request for it."""

import on_cpu  # noqa: F401  (before anything else of ComfyUI)

# isort: split

import logging

import comfy.sd
import torch

from identity_lock.engines.comfy import ComfyEngine
from identity_lock.engines.comfy_demo import load_demo
from identity_lock.engines.protocol import SampleRequest

SIZE = 128
PROMPT = "photo of sks person, man, short brown hair, beard, green background"


class Logged(logging.Handler):
    """Every warning that is logged from now on."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.texts = []
        logging.getLogger().addHandler(self)

    def emit(self, record):
        self.texts.append(record.getMessage())


def opened(which):
    """MODEL, CLIP and VAE: of the demo base, or of a checkpoint file."""
    with torch.inference_mode():  # as nodes run
        if which == "demo":
            return load_demo()
        return comfy.sd.load_checkpoint_guess_config(str(which), output_vae=True, output_clip=True)[:3]


def request(engine: ComfyEngine, **changes) -> SampleRequest:
    asked = dict(
        positive=engine.encode_prompt(PROMPT),
        negative=engine.encode_prompt("blurred"),
        seeds=(11, 12, 12345678901),
        width=SIZE,
        height=SIZE,
        steps=4,
        cfg=2.0,
        sampler="euler",
        scheduler="simple",
    )
    return SampleRequest(**(asked | changes))


def apart(ours, theirs):
    """The largest difference in standard deviations of the second."""
    return float((ours - theirs).abs().max() / theirs.std())
