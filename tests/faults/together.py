"""Jobs for processes that get into each other's way."""

from __future__ import annotations

import time
from pathlib import Path


def hold(folder: str, name: str) -> None:
    """Takes a folder's lock and keeps it until killed."""
    from identity_lock.safety.lock import only_one

    with only_one(Path(folder), name, lambda holder: AssertionError(holder)):  # type: ignore[arg-type,return-value]
        print("held", flush=True)
        time.sleep(600)


def write_renders(folder: str, count: int, seed: int, gun: str) -> None:
    """As many renders as a node would write, under the next free numbers."""
    import numpy as np

    from identity_lock.rendering.log import RenderLog

    picture = np.full((64, 64, 3), seed, np.uint8)
    _wait_for(gun)
    for _ in range(count):
        RenderLog(Path(folder)).write_next(picture, "render", _record(seed))


def save_loras(folder: str, count: int, seed: int, gun: str) -> None:
    """Different LoRAs under one name, and one that every process saves."""
    import torch

    from identity_lock.engines.lora_file import LoraWeights
    from identity_lock.nodes.places import lora_into

    def lora(value: float) -> LoraWeights:
        down, up = torch.full((2, 4), value), torch.ones((4, 2))
        return LoraWeights("anna", {"lora_unet_x.lora_down.weight": down, "lora_unet_x.lora_up.weight": up})

    _wait_for(gun)
    for number in range(count):
        print("saved", lora_into(Path(folder), lora(1000.0 * seed + number), "anna"), flush=True)
        print("shared", lora_into(Path(folder), lora(-1.0), "shared"), flush=True)


def _wait_for(gun: str) -> None:
    print("set", flush=True)
    while not Path(gun).exists():
        time.sleep(0.001)


def _record(seed: int):
    from identity_lock.identity.drift import Drift
    from identity_lock.rendering.log import RenderRecord, outcome

    measured = outcome(Drift(0.2, None, "sface"), None)
    return RenderRecord("three_pass", seed, {}, {}, "Grace", "", "She agreed to these pictures.", **measured)
