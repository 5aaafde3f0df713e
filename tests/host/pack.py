"""Graphs of the pack's nodes that several tests start from, on the demo base and in its small numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from identity_lock.tests.host.client import Client, Graph, Node

SAMPLE = "identity_lock_sample_1.png"  # the pack puts it into ComfyUI's input folder
CONSENT = "Nobody is depicted: this person was rendered from shape data, so nobody's consent is needed."
SUBJECT = "photo of sks person, man, short brown hair, beard"
PROMPT = f"{SUBJECT}, neutral expression, facing forward, neutral light, gray background"
SCENE = f"{SUBJECT}, warm light, green background, red shirt"
SEED = 1187891159
SAMPLING: dict[str, Any] = dict(steps=8, sampler="ddim", scheduler="simple")
SMALL: dict[str, Any] = dict(width=128, height=128, **SAMPLING)
NODE_IDS = {
    "FacePrep", "IdentityEmbed", "PhasedLoRATrainer", "DriftSeedSearch", "ThreePassRender", "RescueBlend",
    "TwoPassStylize", "SaveIdentity", "LoadIdentity", "DriftScore", "DemoModelLoader",
}  # fmt: skip


@dataclass(frozen=True)
class Person:
    """The first nodes of every graph: the demo base, a photo of somebody, and their identity."""

    graph: Graph
    base: Node
    photo: Node
    faces: Node
    identity: Node

    @property
    def model(self) -> dict[str, list[Any]]:
        return {"model": self.base[0], "clip": self.base[1], "vae": self.base[2]}


def person(client: Client, *, photo: str = SAMPLE, consent: str = CONSENT, **faces: Any) -> Person:
    graph = client.graph()
    base = graph.add("DemoModelLoader")
    loaded = graph.add("LoadImage", image=photo)
    prepared = graph.add("FacePrep", photo_1=loaded[0], **faces)
    identity = graph.add("IdentityEmbed", references=prepared[0], name="sample", consent=consent)
    return Person(graph, base, loaded, prepared, identity)


def trainer(who: Person, *, name: str, steps: Iterable[int] = (2, 2, 2, 2), **inputs: Any) -> Node:
    """A training of a few steps; enough to make a LoRA that changes the pictures."""
    budget = dict(zip(("steps_coarse", "steps_mid", "steps_mid_fine", "steps_final_fine"), steps, strict=True))
    return who.graph.add(
        "PhasedLoRATrainer",
        **dict(
            who.model,
            training_images=who.faces[1],
            face_masks=who.faces[2],
            identity=who.identity[0],
            caption=PROMPT,
            lora_name=name,
            plan="demo base, quick",
            jitter_copies=0,
            rank=8,
            batch=1,
            **budget,
        )
        | inputs,
    )


def search(who: Person, **inputs: Any) -> Node:
    small = dict(prompt=PROMPT, cfg=1.5, first_seed=SEED, count=4, batch=4, control=4, **SMALL)
    return who.graph.add("DriftSeedSearch", **dict(who.model, identity=who.identity[0], **small) | inputs)


def three_pass(who: Person, **inputs: Any) -> Node:
    small = dict(seed=SEED, anchor_prompt=PROMPT, scene_prompt=SCENE, anchor_cfg=1.5, style_cfg=5.0, rescue_cfg=1.5)
    small |= dict(style_face_denoise=0.25, **SMALL)
    return who.graph.add("ThreePassRender", **dict(who.model, identity=who.identity[0], **small) | inputs)


def tell(graph: Graph, output: list[Any]) -> Node:
    """Shows any output as text; read it with `told`."""
    return graph.add("PreviewAny", source=output)


def told(entry: dict[str, Any], node: Node) -> str:
    return str(entry["outputs"][node.number]["text"][0])


def plain_render(
    who: Person, model: list[Any], seed: int | list[Any], prompt: str = PROMPT, *, cfg: float = 1.5, steps: int = 8
) -> Node:
    """The same picture by stock nodes alone: EmptyLatentImage, CLIPTextEncode, KSampler, VAEDecode, PreviewImage."""
    graph = who.graph
    positive = graph.add("CLIPTextEncode", clip=who.base[1], text=prompt)
    negative = graph.add("CLIPTextEncode", clip=who.base[1], text="")
    empty = graph.add("EmptyLatentImage", width=128, height=128, batch_size=1)
    sampled = graph.add(
        "KSampler", model=model, seed=seed, steps=steps, cfg=cfg, sampler_name="ddim", scheduler="simple",
        positive=positive[0], negative=negative[0], latent_image=empty[0], denoise=1.0,
    )  # fmt: skip
    decoded = graph.add("VAEDecode", samples=sampled[0], vae=who.base[2])
    return graph.add("PreviewImage", images=decoded[0])


def shown(graph: Graph, images: list[Any]) -> Node:
    return graph.add("PreviewImage", images=images)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference of two pictures, in levels of 255."""
    assert one.shape == other.shape
    return float(np.abs(one.astype(int) - other.astype(int)).max())


def lora_tensors(base: Path, name: str) -> dict[str, np.ndarray]:
    return dict(load_file(base / "models" / "loras" / name))


def same_tensors(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def live(events: Iterable[tuple[str, dict[str, Any]]], kind: str) -> list[dict[str, Any]]:
    """What the pack sent to the browser: its events of a kind ("training", "search")."""
    return [data for name, data in events if name == "identity_lock" and data.get("kind") == kind]


def journal(base: Path, pattern: str = "output/identity_lock/seeds/*/seeds.jsonl") -> list[list[dict[str, Any]]]:
    """Every seed search's journal under `base`, newest last."""
    files = sorted(base.glob(pattern), key=lambda file: file.stat().st_mtime)
    return [[json.loads(line) for line in file.read_text().splitlines()] for file in files]


def sentence(message: str) -> bool:
    """Is this a message for a reader: a line or two of words, with no traceback and no bare exception?"""
    lines = [line for line in message.strip().splitlines() if line.strip()]
    return (
        1 <= len(lines) <= 3
        and "Traceback" not in message
        and not re.match(r"\s*(\w+Error|\w+Exception|\(|\[|\{|')", message)
        and len(message.split()) >= 5
        and message.strip()[-1] in ".)'\"!"
    )
