"""The training checkpoint: whole or not at all, and only for the run that wrote it."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from identity_lock.errors import TrainingError
from identity_lock.safety.fingerprint import fingerprint
from identity_lock.training.checkpoint import FORMAT, Checkpoint, load_checkpoint, save_checkpoint, step_generator
from identity_lock.training.optimizers import OPTIMIZER_NAMES, make_optimizer

RUN = fingerprint(base="a", settings="plan")


def stepped(name, seed=0):
    """A real optimizer after three steps, and its parameters."""
    generator = torch.Generator().manual_seed(seed)
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((6, 4), (5, 4, 3, 3), (7,))]
    optimizer = make_optimizer(name, params, 1e-3)
    advance(optimizer, params, generator, 3)
    return optimizer, params


def advance(optimizer, params, generator, steps):
    for _ in range(steps):
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator)
        optimizer.step()


def checkpoint(name="adamw"):
    optimizer, params = stepped(name)
    adapter = {"layer.down": torch.randn(4, 3), "layer.up": torch.zeros(3, 4)}
    best = {"layer.down": torch.randn(4, 3), "layer.up": torch.ones(3, 4), "alpha": torch.tensor(8.0)}
    progress = {"position": {"step": 7, "delta": 0.1234567890123456}, "report": {"losses": [[1, 0.1 + 0.2]]}}
    return Checkpoint(RUN, adapter, best, optimizer.state_dict(), progress), optimizer, params


@pytest.mark.parametrize("name", OPTIMIZER_NAMES)
def test_it_comes_back_bit_for_bit_and_the_optimizer_goes_on_as_if_nothing_had_happened(name, tmp_path):
    saved, optimizer, params = checkpoint(name)
    save_checkpoint(saved, tmp_path / "t.safetensors")
    back = load_checkpoint(tmp_path / "t.safetensors", RUN)
    for part in ("adapter", "best"):
        mine, theirs = getattr(saved, part), getattr(back, part)
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)
    assert back.progress == saved.progress  # floats to the last digit
    copies = [torch.nn.Parameter(p.detach().clone()) for p in params]
    resumed = make_optimizer(name, copies, 1e-3)
    resumed.load_state_dict(dict(back.optimizer))
    advance(optimizer, params, torch.Generator().manual_seed(5), 3)
    advance(resumed, copies, torch.Generator().manual_seed(5), 3)
    assert all(torch.equal(a, b) for a, b in zip(params, copies, strict=True))


def test_an_optimizer_that_has_not_stepped_yet_can_be_saved(tmp_path):
    """As at the switch to a new phase."""
    optimizer = make_optimizer("adamp", [torch.nn.Parameter(torch.ones(2, 2))], 1e-3)
    save_checkpoint(Checkpoint("x", {}, {}, optimizer.state_dict(), {}), tmp_path / "t.safetensors")
    assert load_checkpoint(tmp_path / "t.safetensors", "x").optimizer["state"] == {}


def test_of_another_run_or_damaged_it_is_refused_with_the_way_out(tmp_path):
    path = tmp_path / "training.safetensors"
    save_checkpoint(checkpoint()[0], path)
    with pytest.raises(TrainingError, match="another training: the base model changed .*delete it to start afresh"):
        load_checkpoint(path, fingerprint(base="b", settings="plan"))
    whole = path.read_bytes()
    for size in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(TrainingError, match="training.safetensors cannot be read .*delete it to start afresh"):
            load_checkpoint(path, RUN)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(TrainingError, match="not a training checkpoint of this version"):
        load_checkpoint(path, RUN)


def test_writing_again_replaces_it_and_leaves_nothing_else(tmp_path):
    saved = checkpoint()[0]
    for step in range(3):
        again = Checkpoint("x", saved.adapter, saved.best, saved.optimizer, {"step": step})
        save_checkpoint(again, tmp_path / "t.safetensors")
    assert load_checkpoint(tmp_path / "t.safetensors", "x").progress == {"step": 2}
    assert os.listdir(tmp_path) == ["t.safetensors"]


def test_no_pickle_is_in_it(tmp_path):
    save_checkpoint(checkpoint()[0], tmp_path / "t.safetensors")
    content = (tmp_path / "t.safetensors").read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    assert header["__metadata__"]["format"] == FORMAT
    assert any(key.startswith("optimizer/0/exp_avg") for key in header)


def test_each_step_has_draws_of_its_own_whatever_was_drawn_before():
    draws = {}
    for seed in (0, 1, 1187891159):
        for step in range(200):
            torch.manual_seed(step % 3)
            draws[seed, step] = float(torch.rand(1, generator=step_generator(seed, step), dtype=torch.float64))
    assert len(set(draws.values())) == len(draws)
    torch.rand(5)
    assert float(torch.rand(1, generator=step_generator(1, 7), dtype=torch.float64)) == draws[1, 7]
