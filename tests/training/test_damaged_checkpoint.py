"""A training does not go on from a checkpoint that contradicts itself or the plan: it says so, and keeps the file."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from identity_lock.errors import TrainingError
from identity_lock.tests.fixtures.tiny_engine import FOUR_PHASES, tiny_plan
from identity_lock.training.checkpoint import REMEDY
from identity_lock.training.loop import CHECKPOINT_NAME, TrainingStopped, train

PLAN = tiny_plan(FOUR_PHASES[:2])


@pytest.fixture
def stopped(engine, data, meter, tmp_path):
    """A training that was stopped in its second phase; call it to go on."""
    looked = iter(range(100))

    def go_on(stop_at: int = 100):
        return train(engine, data, meter, PLAN, tmp_path, size=64, should_stop=lambda: next(looked) >= stop_at)

    with pytest.raises(TrainingStopped):
        go_on(5)
    return go_on


def edited(tmp_path, progress=lambda told: None, tensors=lambda held: None, groups=lambda told: None):
    path = tmp_path / CHECKPOINT_NAME
    with safe_open(str(path), framework="pt") as file:
        metadata = dict(file.metadata())
    held = load_file(path)
    told, settings = json.loads(metadata["progress"]), json.loads(metadata["optimizer_groups"])
    progress(told)
    tensors(held)
    groups(settings)
    metadata |= {"progress": json.dumps(told), "optimizer_groups": json.dumps(settings)}
    save_file(held, path, metadata=metadata)
    return path.read_bytes()


def first(held, prefix):
    return next(key for key in held if key.startswith(prefix))


@pytest.mark.parametrize(
    "change",
    [
        {"progress": lambda told: told["position"].update(phase=-1)},
        {"progress": lambda told: told["position"].update(phase=0)},
        {"progress": lambda told: told["position"].update(step=10**9)},
        {"progress": lambda told: told["position"].update(step="5")},
        {"progress": lambda told: told["position"].update(delta=None)},
        {"progress": lambda told: told.update(position=[])},
        {"progress": lambda told: told.pop("position")},
        {"progress": lambda told: told.update(alpha=0)},
        {"progress": lambda told: told["report"].update(identity=[])},
        {"progress": lambda told: told["report"].update(losses=[["1", 2]])},
        {"progress": lambda told: told["report"]["phases"].pop()},
        {"progress": lambda told: told["detector"].update(steps=[3, 2, 1])},
        {"progress": lambda told: told["detector"].update(losses=[[0.1]])},
        {"progress": lambda told: told["detector"].update(level=5)},
        {"tensors": lambda held: held.pop(first(held, "adapter/before/"))},
        {"tensors": lambda held: held.update({first(held, "best/"): torch.zeros(1)})},
        {"tensors": lambda held: held.update({first(held, "optimizer/0/exp_avg"): torch.zeros(3, 3)})},
        {"tensors": lambda held: held.update({"optimizer/99999/exp_avg": torch.zeros(1)})},
        {"tensors": lambda held: held.update({"optimizer/x/exp_avg": torch.zeros(1)})},
        {"tensors": lambda held: held.update({"best/alpha": torch.tensor(float("nan"))})},
        {"groups": lambda told: told.clear()},
    ],
)
def test_it_is_refused_with_the_way_out_and_left_as_it_is(stopped, tmp_path, change):
    before = edited(tmp_path, **change)
    with pytest.raises(TrainingError, match=f"training checkpoint .*training.safetensors cannot be .*{REMEDY}"):
        stopped()
    assert (tmp_path / CHECKPOINT_NAME).read_bytes() == before


def test_settings_of_an_optimizer_come_from_the_plan_and_not_from_the_file(stopped, tmp_path):
    """A file could otherwise bring a learning rate, or a kind of thing that no optimizer takes."""
    edited(tmp_path, groups=lambda told: told[0].update(betas="x", lr=1e9, weight_decay=[], eps=None))
    lora, _ = stopped()
    assert all(bool(torch.isfinite(tensor).all()) for tensor in lora.tensors.values())
