"""One atomic file that holds everything a run needs to go on bit for bit: adapter, optimizer, best adapter, history.

safetensors, never pickle: the optimizer's tensors are stored by name and its numbers as JSON in the metadata.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..engines.lora_file import safetensors_bytes
from ..errors import TrainingError
from ..safety.atomic import replacing
from ..safety.fingerprint import swapped
from ..safety.tensors import read_header, read_tensors
from ..safety.untrusted import FileRefused, from_json, parse_json

# Raised by hand whenever a change of this pack would let the same training end in other weights: a checkpoint of the
# version before is then refused, and never gone on from half by the old rules and half by the new.
FORMAT = "identity-lock-training/2"
REMEDY = "delete it to start afresh, or give another folder."


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
    try:
        metadata = read_header(path).metadata
        if metadata.get("format") != FORMAT:
            raise TrainingError(f"{path} is not a training checkpoint of this version; {REMEDY}")
        if changed := swapped(metadata.get("fingerprint", ""), fingerprint):
            raise TrainingError(
                f"The training checkpoint {path} belongs to another training: {changed} changed since it was written. "
                f"Put back what was there, {REMEDY}"
            )
        tensors, _ = read_tensors(path, "pt")
        return _restored(fingerprint, metadata, tensors)
    except (FileRefused, KeyError, TypeError, ValueError, AttributeError) as error:
        raise TrainingError(f"The training checkpoint {path} cannot be read ({error}); {REMEDY}") from error


def _restored(fingerprint: str, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> Checkpoint:
    numbers, groups, progress = (
        parse_json(metadata[key], finite=False) for key in ("optimizer_numbers", "optimizer_groups", "progress")
    )
    state: dict[int, dict[str, Any]] = {int(key): dict(held) for key, held in numbers.items()}
    parts: dict[str, dict[str, Tensor]] = {"adapter": {}, "best": {}}
    for key, value in tensors.items():
        kind, _, name = key.partition("/")
        if kind == "optimizer":
            index, _, field = name.partition("/")
            state.setdefault(int(index), {})[field] = value
        else:
            parts[kind][name] = value
    optimizer = {"state": state, "param_groups": groups}
    person = metadata.get("identity_id", "")
    return Checkpoint(fingerprint, parts["adapter"], parts["best"], optimizer, progress, person)


@contextmanager
def restoring(path: Path) -> Iterator[None]:
    """Around what puts a checkpoint's content to use: what does not fit is a damaged file. Raises TrainingError."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = error.args[0] if error.args else type(error).__name__
        raise TrainingError(f"The training checkpoint {path} cannot be used ({reason}); {REMEDY}") from error


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Moments and step counts from a checkpoint; the settings stay those of the plan. Raises ValueError, KeyError."""
    fresh = optimizer.state_dict()
    for group, held in zip(fresh["param_groups"], saved["param_groups"], strict=True):
        if "step" in held:
            group["step"] = from_json(int, held["step"])
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, state in saved["state"].items():
        for key, value in state.items():
            shape = tuple(value.shape) if isinstance(value, Tensor) else ()
            if not 0 <= index < len(parameters) or shape not in ((), tuple(parameters[index].shape)):
                raise ValueError(f"its optimizer's {key} is not of this training")
    optimizer.load_state_dict({"state": saved["state"], "param_groups": fresh["param_groups"]})


def step_generator(seed: int, step: int) -> torch.Generator:
    """A CPU generator that depends on (seed, global step) alone, so that resuming needs no RNG state."""
    mixed = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9) & (2**63 - 1)
    return torch.Generator().manual_seed(mixed)
