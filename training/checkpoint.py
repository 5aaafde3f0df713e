"""One atomic file that holds everything a run needs to go on bit for bit: adapter, optimizer, best adapter, history.

safetensors, never pickle: the optimizer's tensors are stored by name and its numbers as JSON in the metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..engines.lora_file import safetensors_bytes
from ..errors import TrainingError
from ..safety.atomic import replacing
from ..safety.fingerprint import swapped

# Raised by hand whenever a change of this pack would let the same training end in other weights: a checkpoint of the
# version before is then refused, and never gone on from half by the old rules and half by the new.
FORMAT = "identity-lock-training/2"


@dataclass(frozen=True)
class Checkpoint:
    """adapter and best: as Adapter.state(). progress: JSON-able counters and curves. fingerprint: of all that the
    weights depend on, so that a file never resumes another run. person: the id of whom it is trained on."""

    fingerprint: str
    adapter: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    progress: Mapping[str, Any]
    person: str = ""


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Atomic: a kill while writing leaves the checkpoint before. Raises OutputError."""
    tensors: dict[str, Tensor] = {f"adapter/{k}": v for k, v in checkpoint.adapter.items()}
    tensors |= {f"best/{k}": v for k, v in checkpoint.best.items()}
    numbers: dict[str, dict[str, Any]] = {}
    for index, state in checkpoint.optimizer["state"].items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{key}"] = value
            else:
                numbers.setdefault(str(index), {})[key] = value
    metadata = {
        "format": FORMAT,
        "fingerprint": checkpoint.fingerprint,
        "identity_id": checkpoint.person,
        "optimizer_groups": json.dumps(checkpoint.optimizer["param_groups"]),
        "optimizer_numbers": json.dumps(numbers),
        "progress": json.dumps(checkpoint.progress),
    }
    flat = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    with replacing(path) as temporary:
        temporary.write_bytes(safetensors_bytes(flat, metadata))


def load_checkpoint(path: Path, fingerprint: str) -> Checkpoint:
    """Raises TrainingError for a damaged file and for one of another run."""
    from safetensors import SafetensorError, safe_open

    remedy = "delete it to start afresh, or give another folder."
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise TrainingError(f"The training checkpoint {path} cannot be read ({error}); {remedy}") from error
    if metadata.get("format") != FORMAT:
        raise TrainingError(f"{path} is not a training checkpoint of this version; {remedy}")
    if changed := swapped(metadata["fingerprint"], fingerprint):
        raise TrainingError(
            f"The training checkpoint {path} belongs to another training: {changed} changed since it was written. "
            f"Put back what was there, {remedy}"
        )
    state: dict[int, dict[str, Any]] = {int(k): dict(v) for k, v in json.loads(metadata["optimizer_numbers"]).items()}
    parts: dict[str, dict[str, Tensor]] = {"adapter": {}, "best": {}}
    for key, value in tensors.items():
        kind, _, name = key.partition("/")
        if kind == "optimizer":
            index, _, field = name.partition("/")
            state.setdefault(int(index), {})[field] = value
        else:
            parts[kind][name] = value
    optimizer = {"state": state, "param_groups": json.loads(metadata["optimizer_groups"])}
    return Checkpoint(
        fingerprint, parts["adapter"], parts["best"], optimizer, json.loads(metadata["progress"]),
        metadata.get("identity_id", ""),
    )  # fmt: skip


def step_generator(seed: int, step: int) -> torch.Generator:
    """A CPU generator that depends on (seed, global step) alone, so that resuming needs no RNG state."""
    mixed = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9) & (2**63 - 1)
    return torch.Generator().manual_seed(mixed)
