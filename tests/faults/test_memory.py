"""Memory runs out in a step: it goes on in smaller parts with the same mathematics; at one row it stops in words."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from identity_lock.engines.memory import out_of_memory
from identity_lock.errors import IdentityLockError, RenderError, TrainingError
from identity_lock.rendering.log import Meters
from identity_lock.rendering.passes import run_pass
from identity_lock.rendering.search import Rung, SearchSpec, search_seeds
from identity_lock.tests.fixtures.tiny_engine import FOUR_PHASES, HOPPER, square, tiny_data, tiny_engine, tiny_plan
from identity_lock.tests.rendering.conftest import RENDER, SIZE
from identity_lock.training import loop
from identity_lock.training.loop import TrainingStopped, train
from identity_lock.training.phases import ProbeSpec

PLAN = tiny_plan(FOUR_PHASES[:2], batch=4, accumulation=2, probe=ProbeSpec(pairs=8, every=100), checkpoint_every=3)


def too_much() -> None:
    """The CPU allocator's own refusal: more than any address space holds."""
    torch.empty(1 << 50)


def gpu_like() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def python_like() -> None:
    raise MemoryError


WAYS = [too_much, gpu_like, python_like]


@contextmanager
def room_for(engine, rows: int, way=too_much, *, training: bool = True, sampling: bool = False):
    """While it lasts, a forward pass of the model over more rows runs out of memory. The largest that went through."""
    largest = [0]

    def look(module, inputs) -> None:
        counts = training if torch.is_grad_enabled() else sampling
        if counts and len(inputs[0]) > rows:
            way()
        if counts:
            largest[0] = max(largest[0], len(inputs[0]))

    handle = engine.unet.register_forward_pre_hook(look)
    try:
        yield largest
    finally:
        handle.remove()


@pytest.fixture
def gradients(monkeypatch):
    """Of each step, as they are before the step."""
    seen, real = [], torch.nn.utils.clip_grad_norm_

    def listen(parameters, *more):
        parameters = list(parameters)
        seen.append([p.grad.clone() for p in parameters])
        return real(parameters, *more)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", listen)
    return seen


# ---- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_in_parts_has_the_gradient_of_the_whole(engine, data, meter, tmp_path, gradients, way):
    plan = replace(PLAN, phases=(replace(FOUR_PHASES[0], max_steps=2, min_steps=2),))
    _, undisturbed = train(engine, data, meter, plan, tmp_path / "whole")
    with room_for(engine, 1, way) as largest:
        _, report = train(engine, data, meter, plan, tmp_path / "parts")
    assert largest == [1] and len(gradients) == 4
    for whole, parts in zip(gradients[0], gradients[2], strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6 * float(whole.abs().max()) + 1e-9)
    assert np.allclose(report.losses, undisturbed.losses, rtol=1e-4)
    assert [note.split(";")[0] for note in report.notes] == [
        "Memory ran out over 4 pictures at step 1", "Memory ran out over 2 pictures at step 1",
    ]  # fmt: skip
    assert "1 at a time were computed, which gives the same gradient." in report.summary()
    assert not undisturbed.notes


def test_it_halves_no_further_than_it_must_and_a_resumed_run_keeps_the_parts(engine, data, meter, tmp_path):
    """The bits of a gradient depend on its parts, so those are part of the state."""
    with room_for(engine, 2) as largest:
        whole, _ = train(engine, data, meter, PLAN, tmp_path / "whole")
    assert largest == [2]
    steps = iter(range(100))
    with room_for(engine, 2), pytest.raises(TrainingStopped):
        train(engine, data, meter, PLAN, tmp_path / "cut", should_stop=lambda: next(steps) == 5)
    resumed, report = train(engine, data, meter, PLAN, tmp_path / "cut")  # now there would be room for all
    assert report.resumed_at == [5] and resumed.sha256 == whole.sha256


def test_at_one_picture_it_stops_in_words_with_its_state_saved(engine, data, meter, tmp_path):
    whole, _ = train(engine, data, meter, PLAN, tmp_path / "whole")

    def memory_is_taken(progress):
        if progress.step == 4:
            tight.append(engine.unet.register_forward_pre_hook(lambda m, i: too_much()))

    tight: list = []
    with pytest.raises(TrainingError) as caught:
        train(engine, data, meter, PLAN, tmp_path / "cut", on_progress=memory_is_taken)
    tight[0].remove()
    told = str(caught.value)
    assert "Memory ran out after step 4" in told and "allocate" in told
    assert str(tmp_path / "cut" / loop.CHECKPOINT_NAME) in told
    assert all(remedy in told for remedy in ("gradient checkpointing", "resolution", "rank"))
    more_frugal = replace(PLAN, gradient_checkpointing=True)  # as advised, and still the same training
    lora, report = train(engine, data, meter, more_frugal, tmp_path / "cut")
    assert report.resumed_at == [4] and [step for step, _ in report.losses] == list(range(1, 9))
    for key, value in whole.tensors.items():
        torch.testing.assert_close(lora.tensors[key], value, rtol=0.05, atol=2e-3)


def test_the_probes_go_on_in_parts_too(engine, data, meter, tmp_path):
    spec = replace(PLAN.identity_probe, seeds=(1, 2, 3))
    plan = replace(PLAN, identity_probe=spec, probe=ProbeSpec(pairs=8, every=2))
    _, whole = train(engine, data, meter, plan, tmp_path / "whole")
    with room_for(engine, 2, training=False, sampling=True) as largest:
        _, parts = train(engine, data, meter, plan, tmp_path / "parts")
    assert largest == [2]
    assert np.allclose([p.mean for p in parts.probe], [p.mean for p in whole.probe], rtol=1e-4)
    with room_for(engine, 0, training=False, sampling=True), pytest.raises(TrainingError, match="Memory ran out after"):
        train(engine, data, meter, plan, tmp_path / "none")


def limited(folder: str, megabytes: int) -> None:
    """A job: a training whose process may have so much more memory than it has."""
    import resource

    from identity_lock.identity import build_identity, read_photo
    from identity_lock.tests.fixtures.tiny_engine import CONSENT

    engine = tiny_engine()
    data = tiny_data(engine)
    meter, _ = build_identity([read_photo(HOPPER)], name="Grace", consent=CONSENT).meters()
    meter.measure_one(square(HOPPER, 128))
    with open("/proc/self/statm") as told:
        now = int(told.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + megabytes * 2**20,) * 2)
    plan = tiny_plan((replace(FOUR_PHASES[0], max_steps=2, min_steps=2),), batch=2048)
    _, report = train(engine, data, meter, plan, Path(folder))
    print(*report.notes, f"steps {report.steps}", sep="\n", flush=True)


def test_a_process_with_too_little_memory_goes_on_in_smaller_parts(nursery, tmp_path):
    """The kernel's own limit, and nothing raised by hand."""
    pytest.importorskip("resource", reason="this system has no limit on a process's memory to set")
    job = "identity_lock.tests.faults.test_memory:limited"
    ending, said = nursery.run(job, tmp_path / "said.txt", folder=str(tmp_path / "run"), megabytes=1200)
    assert ending == "ended 0", "\n".join(said[-30:])
    assert "steps 2" in said and any(line.startswith("Memory ran out over 2048 pictures at step 1") for line in said)


# ---- rendering -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def portrait_engine():
    return tiny_engine(origin=square(HOPPER, 128))


SEARCH = SearchSpec(RENDER, first_seed=40, count=9, batch=4, control=6, rungs=(Rung(0.25, 0.5),), min_correlation=-1.0)


def searched(engine, identity, meters, folder):
    return search_seeds(engine, None, identity, Meters(*meters), SEARCH, SIZE, folder)


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_of_seeds_in_parts_has_the_results_of_the_whole(portrait_engine, identity, meters, tmp_path, way):
    whole = searched(portrait_engine, identity, meters, tmp_path / "whole")
    with room_for(portrait_engine, 2, way, sampling=True) as largest:
        parts = searched(portrait_engine, identity, meters, tmp_path / "parts")
    assert largest == [2]
    (note,) = [note for note in parts.notes if "Memory" in note]
    assert note.startswith("Memory ran out over a batch; from seed 40 on, 2 at a time were rendered")
    assert parts.cost == whole.cost  # what memory cut off is not counted twice
    for one, other in zip(parts.results, whole.results, strict=True):
        assert (one.seed, one.dropped_at, one.full, one.file) == (other.seed, other.dropped_at, other.full, other.file)
        if other.finished:
            # a row of another batch size differs in the last bits, and so in a rounded level here and there
            assert one.drift == pytest.approx(other.drift, abs=5e-3)
            assert np.abs(parts.picture(one).astype(int) - whole.picture(other)).max() <= 1


def test_at_one_seed_it_stops_in_words_and_what_is_finished_stays(portrait_engine, identity, meters, tmp_path):
    whole = searched(portrait_engine, identity, meters, tmp_path / "whole")
    batches: list = []

    def memory_is_taken(progress):
        batches.append(portrait_engine.unet.register_forward_pre_hook(lambda m, i: too_much()))

    with pytest.raises(RenderError, match=r"single picture of 128 x 128 px \(.*allocate.*\); lower the.*is kept"):
        search_seeds(
            portrait_engine, None, identity, Meters(*meters), SEARCH, SIZE, tmp_path / "cut",
            on_progress=memory_is_taken,
        )  # fmt: skip
    batches[0].remove()
    assert searched(portrait_engine, identity, meters, tmp_path / "cut").results == whole.results


def test_a_single_render_without_memory_is_told_in_words(portrait_engine):
    with room_for(portrait_engine, 0, sampling=True), pytest.raises(RenderError, match="Memory ran out.*128 x 128"):
        run_pass(portrait_engine, RENDER, 1, SIZE, None)
    assert run_pass(portrait_engine, RENDER, 1, SIZE, None).shape == (128, 128, 3)


# ---- telling it from others ------------------------------------------------------------------------------------------


def test_only_memory_counts_as_memory():
    assert not out_of_memory(RuntimeError("shapes cannot be multiplied"))
    assert not out_of_memory(ValueError("out of memory"))
    assert not out_of_memory(IdentityLockError("Memory ran out"))
    assert out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 1.00 GB)"))
    windows = "[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to allocate 8"
    assert out_of_memory(RuntimeError(windows))
