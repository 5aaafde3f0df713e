"""A small real engine that draws one real photo with random flaws, so that drifts lie about the lock; real meters."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from identity_lock.engines.diffusers import DiffusersEngine
from identity_lock.engines.lora_file import LoraWeights
from identity_lock.identity import Identity, build_identity, read_photo
from identity_lock.rendering.log import Meters
from identity_lock.rendering.passes import PassSpec
from identity_lock.tests.fixtures.tiny_engine import HOPPER, square, tiny_engine
from identity_lock.training.lora import adapted

SIZE = (128, 128)
PROMPT = "photo of a woman, red background"
RENDER = PassSpec(PROMPT, cfg=1.5, steps=4, sampler="ddim", scheduler="simple")


@pytest.fixture
def full_disk(monkeypatch) -> Callable[[Path], None]:
    """full_disk(path): from now on there is no room for another line of this file."""
    flush = os.fsync

    def full_for(path: Path) -> None:
        def full(handle: int) -> None:
            if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                raise OSError(errno.ENOSPC, "No space left on device")
            flush(handle)

        monkeypatch.setattr(os, "fsync", full)

    return full_for


@pytest.fixture(scope="session")
def identity() -> Identity:
    return build_identity([read_photo(HOPPER)], name="Grace", consent="A public domain portrait, used as a test.")


@pytest.fixture(scope="session")
def both_meters(identity: Identity) -> Meters:
    return Meters.of(identity)


@pytest.fixture(scope="session")
def portrait() -> np.ndarray:
    """The photo's face, 128 x 128."""
    return square(HOPPER, 128)


@pytest.fixture(scope="session")
def portrait_engine(portrait: np.ndarray) -> DiffusersEngine:
    return tiny_engine(origin=portrait)


@pytest.fixture(scope="session")
def other_engine(portrait: np.ndarray) -> DiffusersEngine:
    """Another base: other weights, the same codec."""
    return tiny_engine(seed=7, origin=portrait)


@pytest.fixture(scope="session")
def lora(portrait_engine: DiffusersEngine) -> LoraWeights:
    """A LoRA that changes the picture visibly."""
    import torch

    with (
        portrait_engine.trainable() as denoiser,
        adapted(denoiser, rank=2, alpha=2.0, targets="attention", seed=0) as adapter,
    ):
        generator = torch.Generator().manual_seed(5)
        for parameter in adapter.parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
        return adapter.export("tiny", {})


def render_with(**changes: object) -> PassSpec:
    return replace(RENDER, **changes)  # type: ignore[arg-type]


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())
