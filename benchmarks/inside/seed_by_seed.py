"""Renders seeds through ComfyUI's objects and measures them. seed_by_seed.py FOLDER; see benchmarks/host_seeds.py."""

import json
import sys
from pathlib import Path

import on_cpu  # noqa: F401  (before anything else of ComfyUI)

# isort: split

import torch

from identity_lock.engines.comfy import ComfyEngine
from identity_lock.engines.comfy_demo import load_demo
from identity_lock.engines.lora_file import read_lora
from identity_lock.engines.protocol import SampleRequest
from identity_lock.identity.identity import load_identity
from identity_lock.rendering.log import Meters


def main(folder: Path) -> None:
    asked = json.loads((folder / "asked.json").read_text(encoding="utf-8"))
    meter = Meters.of(load_identity(folder / "identity.safetensors")).selection
    lora = read_lora(folder / "lora.safetensors")
    with torch.inference_mode():  # as nodes run
        engine = ComfyEngine(*load_demo())
        positive, negative = engine.encode_prompt(asked["prompt"]), engine.encode_prompt(asked["negative"])
        drifts = []
        for start in range(0, len(asked["seeds"]), asked["batch"]):
            seeds = tuple(asked["seeds"][start : start + asked["batch"]])
            request = SampleRequest(
                positive, negative, seeds, asked["size"], asked["size"], asked["steps"], asked["cfg"],
                asked["sampler"], asked["scheduler"], lora=lora, strength=asked["strength"],
            )  # fmt: skip
            pictures = engine.decode_latents(engine.sample(request).latents)
            drifts += [(drift.value, drift.detected) for drift in meter.measure(pictures)]
    print(json.dumps(drifts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
