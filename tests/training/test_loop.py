"""The run as a whole: what it keeps, what it leaves behind, what it says, and that a restart changes nothing."""

import dataclasses
import errno
import json
import os

import pytest
import torch
from safetensors import safe_open

from identity_lock.engines import diffusers as engine_module
from identity_lock.errors import OutputError, TrainingError
from identity_lock.tests.engines.test_diffusers_engine import fingerprint
from identity_lock.tests.fixtures.tiny_engine import (
    FOUR_PHASES,
    HOPPER,
    PHOTOS,
    phase,
    request,
    square,
    tiny_data,
    tiny_engine,
    tiny_plan,
)
from identity_lock.training import loop
from identity_lock.training.checkpoint import load_checkpoint, step_generator
from identity_lock.training.loop import CHECKPOINT_NAME, TrainingStopped, train
from identity_lock.training.losses import huber_delta
from identity_lock.training.phases import IdentityProbeSpec, ProbeSpec
from identity_lock.training.plateau import PlateauSpec
from identity_lock.training.probes import DenoisingProbe


class Chose(Exception):
    pass


def stop_after(step):
    """on_progress that breaks a run off, as Ctrl-C does."""

    def look(progress):
        if progress.step == step:
            raise Chose

    return look


def the_step_in(path):
    with safe_open(str(path), framework="pt") as file:
        return json.loads(file.metadata()["progress"])["position"]["step"]


# ---- what is kept --------------------------------------------------------------------------------------------------


def test_the_lora_that_is_kept_is_the_best_likeness_and_not_the_last(meter, tmp_path):
    """Real faces by the real recogniser: the pictures are a photo plus what the model adds, and change as it learns.

    A first run is looked in on at step 12. Whoever its picture shows is then the person that the second run, otherwise
    the same, is to be like: its best likeness is at step 12, and it must not keep step 24.
    """
    engine = tiny_engine(origin=square(HOPPER, 128))
    engine.unet.conv_out.weight.data *= 0.1
    data = tiny_data(engine, size=128, path=PHOTOS / "synthetic_1.png", copies=0)
    probe = IdentityProbeSpec(prompts=("photo of a woman",), seeds=(1,), steps=2, cfg=1.0, sampler="ddim", every=6)
    plan = tiny_plan(
        (phase("COARSE", 1e-2, 8.0, "mse", "adamw", 12), phase("MID", 1e-2, 4.0, "huber", "adamw", 12)),
        targets="all", identity_probe=probe, probe=ProbeSpec(pairs=8, every=50), checkpoint_every=50,
    )  # fmt: skip
    positive = engine.encode_prompt("photo of a woman")
    wanted = request(engine, (1,), positive=positive, width=128, height=128, steps=2, cfg=1.0, sampler="ddim")

    def picture(lora=None):
        return engine.decode_latents(engine.sample(dataclasses.replace(wanted, lora=lora)).latents)[0]

    seen = []

    def look(progress):
        if progress.step == 12:
            seen.append(picture())
            raise Chose

    with pytest.raises(Chose):
        train(engine, data, meter, plan, tmp_path / "first", size=128, on_progress=look)
    reference = meter.reader.read(seen[0]).embedding
    assert reference is not None
    alike = type(meter)(reference, meter.reader)
    lora, report = train(engine, data, alike, plan, tmp_path / "second", size=128)
    drifts = {check.step: check.drift for check in report.identity}
    assert sorted(drifts) == [0, 6, 12, 18, 24] and min(drifts[0], drifts[24]) > drifts[12] + 0.02
    assert report.best_step == 12 and lora.metadata["kept_step"] == "12" and report.best_drift == drifts[12]
    assert abs(picture(lora).astype(int) - seen[0].astype(int)).max() <= 1
    assert "Kept: the weights of step 12 of 24" in report.summary()


def test_where_no_render_shows_a_face_the_last_weights_are_kept_and_it_says_so(engine, data, meter, tmp_path):
    lora, report = train(engine, data, meter, tiny_plan(), tmp_path)
    assert all(check.detected == 0.0 for check in report.identity)
    assert report.best_step == 16 and lora.metadata["kept_step"] == "16"
    assert any(tensor.any() for key, tensor in lora.tensors.items() if key.endswith("lora_up.weight"))
    assert "No probe render showed a face" in report.summary()


# ---- what is left behind -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_model_is_bit_identical_afterwards_and_can_sample_and_train_again(
    engine, data, meter, tmp_path, checkpointing
):
    plan = tiny_plan(FOUR_PHASES[:2], gradient_checkpointing=checkpointing)
    before, picture = fingerprint(engine.unet)[:2], engine.sample(request(engine)).latents
    one, _ = train(engine, data, meter, plan, tmp_path / "one")
    assert fingerprint(engine.unet)[:2] == before
    assert not any("lora" in name or "base_layer" in name for name, _ in engine.unet.named_modules())
    assert torch.equal(engine.sample(request(engine)).latents, picture)
    with_lora = engine.sample(request(engine, lora=one)).latents
    assert not torch.allclose(with_lora, picture, atol=1e-3)
    two, _ = train(engine, data, meter, plan, tmp_path / "two")
    assert two.sha256 == one.sha256 and fingerprint(engine.unet)[:2] == before
    assert torch.equal(engine.sample(request(engine, lora=two)).latents, with_lora)


def test_the_model_is_bit_identical_also_when_training_is_broken_off(engine, data, meter, tmp_path):
    before = fingerprint(engine.unet)
    with pytest.raises(Chose):
        train(engine, data, meter, tiny_plan(), tmp_path, on_progress=stop_after(5))
    assert fingerprint(engine.unet) == before


def test_gradient_checkpointing_trains_the_same_weights(data, meter, tmp_path):
    """It recomputes instead of storing: same gradients, to rounding."""
    outcomes = []
    for on in (False, True):
        plan = tiny_plan(FOUR_PHASES[:1], gradient_checkpointing=on)
        outcomes.append(train(tiny_engine(), data, meter, plan, tmp_path / str(on))[0].tensors)
    for key, tensor in outcomes[0].items():
        torch.testing.assert_close(outcomes[1][key], tensor, atol=1e-5, rtol=1e-4)


# ---- what it says --------------------------------------------------------------------------------------------------


def test_the_switch_of_a_phase_resets_the_optimizer_warms_up_and_says_so(engine, data, meter, tmp_path, monkeypatch):
    steps, made = [], loop.make_optimizer

    def listen(name, params, lr):
        optimizer = made(name, params, lr)
        step = optimizer.step

        def stepping(*args, **kwargs):
            momentum = [state["exp_avg"].abs().sum() for state in optimizer.state.values()]
            steps.append((name, lr, optimizer.param_groups[0]["lr"], bool(momentum)))
            return step(*args, **kwargs)

        optimizer.step = stepping
        return optimizer

    monkeypatch.setattr(loop, "make_optimizer", listen)
    _, report = train(engine, data, meter, tiny_plan(), tmp_path)
    for number, spec in enumerate(FOUR_PHASES):
        names, rates, warmed, momenta = zip(*steps[4 * number : 4 * number + 4], strict=True)
        assert set(names) == {spec.optimizer} and set(rates) == {spec.lr}
        assert momenta == (False, True, True, True)  # fresh at the switch
        assert warmed == pytest.approx((spec.lr / 2, spec.lr, spec.lr, spec.lr))
        assert f"{spec.optimizer} state reset with 2 warm-up steps" in report.phases[number].sentence
        assert f"alpha {spec.alpha:g} (B rescaled" in report.phases[number].sentence


def test_each_phase_begins_where_the_last_one_ended(engine, data, meter, tmp_path, monkeypatch):
    """The function is continuous over the switches: the probe before and after them is the same."""
    pairs, begin = [], loop._Run._begin_phase

    def listen(run):
        first = not run.report.phases
        before = run.probe.losses()
        begin(run)
        if not first:
            pairs.append((before, run.probe.losses()))

    monkeypatch.setattr(loop._Run, "_begin_phase", listen)
    _, report = train(engine, data, meter, tiny_plan(), tmp_path)
    assert len(pairs) == 3
    for before, after in pairs:
        torch.testing.assert_close(torch.tensor(after), torch.tensor(before), atol=0, rtol=1e-6)
    for previous, following in zip(report.phases, report.phases[1:], strict=False):
        assert following.start_norm == pytest.approx(previous.total, rel=1e-5)


def test_the_weight_change_of_each_phase_is_measured_and_a_phase_that_moves_nothing_says_so(meter, tmp_path):
    engine = tiny_engine(dtype=torch.bfloat16)
    phases = (*FOUR_PHASES[:1], phase("FINAL_FINE", 1e-12, 1.0, "charbonnier", "adamp"))
    _, report = train(engine, tiny_data(engine), meter, tiny_plan(phases), tmp_path)
    coarse, fine = report.phases
    assert coarse.moved > 1e-3 and coarse.moved == pytest.approx(coarse.total, rel=1e-4)
    assert fine.moved < 1e-6 and fine.total == pytest.approx(coarse.total, rel=1e-3)
    assert "next to nothing" in fine.sentence and "next to nothing" not in coarse.sentence


def test_the_measured_change_is_that_of_the_dense_weights(engine, data, meter, tmp_path):
    lora, report = train(engine, data, meter, tiny_plan(FOUR_PHASES[:1]), tmp_path)
    change = base = 0.0
    before = {name: module.weight.detach().clone() for name, module in engine.unet.named_modules()
              if engine_module.lora_key(name) + ".alpha" in lora.tensors}  # fmt: skip
    with engine.patched(lora, 1.0):
        for name, weight in before.items():
            change += float((engine.unet.get_submodule(name).weight - weight).double().square().sum())
            base += float(weight.double().square().sum())
    assert report.phases[0].moved == pytest.approx((change / base) ** 0.5, rel=1e-3)


def test_the_paper_s_last_learning_rates_move_the_weights_of_a_bf16_base(meter, tmp_path):
    engine = tiny_engine(dtype=torch.bfloat16)
    phases = (*FOUR_PHASES[:1], phase("MID_FINE", 1e-6, 2.0, "charbonnier", "adamp"),
              phase("FINAL_FINE", 5e-7, 1.0, "charbonnier", "adamp"))  # fmt: skip
    _, report = train(engine, tiny_data(engine), meter, tiny_plan(phases), tmp_path)
    for phase_report in report.phases[1:]:
        assert phase_report.moved > 1e-6 and "next to nothing" not in phase_report.sentence
    # lr 1e-6 is two thousand times less than the first phase's: the change must scale with it, not vanish
    assert 1e-6 < report.phases[1].moved < 1e-3


def test_progress_is_told_after_each_step(engine, data, meter, tmp_path):
    told = []
    _, report = train(engine, data, meter, tiny_plan(), tmp_path, on_progress=told.append)
    assert [p.step for p in told] == list(range(1, 17)) and {p.max_steps for p in told} == {16}
    assert [p.phase for p in told[::4]] == [spec.name for spec in FOUR_PHASES]
    assert [p.phase_step for p in told[:5]] == [1, 2, 3, 4, 1]
    assert [p.loss for p in told] == [loss for _, loss in report.losses] and told[0].drift == 1.0
    assert told[0].probe is None and told[1].probe == report.probe[0].mean


def test_a_flat_probe_ends_a_phase_before_its_budget(engine, data, meter, tmp_path):
    flat = dataclasses.replace(FOUR_PHASES[0], lr=1e-12, max_steps=60, min_steps=10)
    plan = tiny_plan(
        (flat,), probe=ProbeSpec(pairs=8, every=1), plateau=PlateauSpec(window=6, min_checks=6), checkpoint_every=50
    )
    _, report = train(engine, data, meter, plan, tmp_path)
    assert 10 <= report.steps < 30 and "stopped improving" in report.phases[0].reason
    assert report.phases[0].last_step == report.steps == report.identity[-1].step


# ---- what it trains ------------------------------------------------------------------------------------------------


def test_huber_s_delta_is_set_from_the_data_when_its_phase_begins(engine, data, meter, tmp_path, monkeypatch):
    deltas, residuals, real, measure = [], [], loop.loss_map, DenoisingProbe.residuals

    def listen(name, *args, delta=None):
        deltas.append((name, delta))
        return real(name, *args, delta=delta)

    def keep(probe):
        residuals.append(measure(probe))
        return residuals[-1]

    monkeypatch.setattr(loop, "loss_map", listen)
    monkeypatch.setattr(DenoisingProbe, "residuals", keep)
    plan = tiny_plan((FOUR_PHASES[0], FOUR_PHASES[1]), probe=ProbeSpec(pairs=8, every=100))
    train(engine, data, meter, plan, tmp_path)
    assert len(residuals) == 1  # measured once, at the switch
    used = {delta for name, delta in deltas if name == "huber"}
    assert used == {huber_delta(residuals[0])} and used != {1.0}
    assert {delta for name, delta in deltas if name == "mse"} == {None}


def test_the_soft_mask_weights_the_gradient_and_corners_get_none(engine, meter, tmp_path, monkeypatch):
    """Measured where it counts: at the loss of each output cell, in real steps."""
    from identity_lock.identity import PrepSettings, default_detector, prepare_photo, read_photo
    from identity_lock.training.augment import JitterSpec, training_images
    from identity_lock.training.training_set import build_training_set

    faces = prepare_photo(read_photo(HOPPER), default_detector(), PrepSettings(size=128, padding=1.2, rotations=True))
    data = build_training_set(engine, training_images(faces, ["photo"] * 3, 64, JitterSpec()), background_weight=0.2)
    seen, real = [], loop.masked_mean

    def listen(losses, mask):
        losses.retain_grad()
        seen.append((losses, mask))
        return real(losses, mask)

    monkeypatch.setattr(loop, "masked_mean", listen)
    train(engine, data, meter, tiny_plan(FOUR_PHASES[:2]), tmp_path)
    corners = background = 0
    for losses, mask in seen:
        pull = losses.grad.abs().mean(1, keepdim=True) / losses.grad.abs().amax((1, 2, 3), keepdim=True)
        assert (pull[mask == 0] == 0).all()
        torch.testing.assert_close(pull, mask / mask.amax((1, 2, 3), keepdim=True), atol=1e-4, rtol=1e-3)
        corners += int((mask == 0).sum())
        background += int(((pull > 0.15) & (pull < 0.25)).sum())
    assert len(seen) == 8 and corners > 0 and background > 0


def test_more_accumulation_is_a_larger_batch_in_the_same_number_of_steps(engine, data, meter, tmp_path):
    calls = []
    plan = tiny_plan(FOUR_PHASES[:1], accumulation=3, probe=ProbeSpec(pairs=8, every=100))
    handle = engine.unet.register_forward_pre_hook(lambda m, inputs: calls.append(torch.is_grad_enabled()))
    _, report = train(engine, data, meter, plan, tmp_path)
    handle.remove()
    assert report.steps == 4 and sum(calls) == 12


def test_captions_are_dropped_at_their_share(engine, data, meter, tmp_path):
    prompts = []
    plan = tiny_plan((phase("COARSE", 1e-3, 8.0, "mse", "adamw", 50),), caption_dropout=0.3, batch=4,
                     probe=ProbeSpec(pairs=8, every=100))  # fmt: skip
    forward = engine._forward

    def listen(x, when, conditioning):
        if torch.is_grad_enabled():
            prompts.extend(c.prompt for c in conditioning)
        return forward(x, when, conditioning)

    engine._forward = listen
    train(engine, data, meter, plan, tmp_path)
    assert len(prompts) == 200 and 0.2 < prompts.count("") / 200 < 0.4


# ---- going on ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uninterrupted(meter, tmp_path_factory):
    engine = tiny_engine()
    return train(engine, tiny_data(engine), meter, tiny_plan(), tmp_path_factory.mktemp("whole"))


def test_the_global_random_state_has_no_say_and_is_left_alone(engine, data, meter, tmp_path, uninterrupted):
    torch.manual_seed(123456)
    expected = torch.rand(3, generator=torch.Generator().manual_seed(123456))
    torch.manual_seed(123456)
    lora, _ = train(engine, data, meter, tiny_plan(), tmp_path, on_progress=lambda progress: torch.manual_seed(123456))
    assert lora.sha256 == uninterrupted[0].sha256
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("step", [1, 3, 4, 5, 9, 16])
def test_a_run_that_broke_off_goes_on_to_the_same_weights_curves_and_choice(
    step, engine, data, meter, tmp_path, uninterrupted
):
    with pytest.raises(Chose):
        train(engine, data, meter, tiny_plan(), tmp_path, on_progress=stop_after(step))
    torch.manual_seed(step)
    lora, report = train(engine, data, meter, tiny_plan(), tmp_path)
    wanted, whole = uninterrupted
    assert lora.sha256 == wanted.sha256 and lora.metadata == wanted.metadata
    assert report.losses == whole.losses and report.identity == whole.identity and report.probe == whole.probe
    assert report.phases == whole.phases and len(report.resumed_at) == (step >= 3)


def test_stopping_keeps_the_step_and_says_how_to_go_on(engine, data, meter, tmp_path, uninterrupted):
    done = []
    with pytest.raises(TrainingStopped, match="stopped at step 7 of at most 16.*same run started again goes on"):
        train(engine, data, meter, tiny_plan(), tmp_path, on_progress=done.append, should_stop=lambda: len(done) == 7)
    assert the_step_in(tmp_path / CHECKPOINT_NAME) == 7
    again = []
    lora, report = train(engine, data, meter, tiny_plan(), tmp_path, on_progress=again.append)
    assert [p.step for p in again] == list(range(8, 17)) and report.resumed_at == [7]
    assert lora.sha256 == uninterrupted[0].sha256


def test_stopping_before_the_first_step_is_safe_too(engine, data, meter, tmp_path, uninterrupted):
    with pytest.raises(TrainingStopped, match="stopped at step 0"):
        train(engine, data, meter, tiny_plan(), tmp_path, should_stop=lambda: True)
    assert train(engine, data, meter, tiny_plan(), tmp_path)[0].sha256 == uninterrupted[0].sha256


def test_a_finished_run_started_again_gives_the_same_lora(engine, data, meter, tmp_path, uninterrupted):
    train(engine, data, meter, tiny_plan(), tmp_path)
    again = []
    lora, _ = train(engine, data, meter, tiny_plan(), tmp_path, on_progress=again.append)
    assert lora.sha256 == uninterrupted[0].sha256 and len(again) <= 4  # from its last checkpoint on


def test_the_checkpoint_of_another_run_is_refused(engine, data, meter, tmp_path):
    with pytest.raises(Chose):
        train(engine, data, meter, tiny_plan(), tmp_path, on_progress=stop_after(5))
    before, others = fingerprint(engine.unet), tiny_data(engine, path=PHOTOS / "synthetic_1.png")


    def refused(what):
        return pytest.raises(TrainingError, match=f"belongs to another training: {what} changed .*delete it to start")

    with refused("the settings"):
        train(engine, data, meter, tiny_plan(seed=5), tmp_path)
    with refused("the photos or their captions"):
        train(engine, others, meter, tiny_plan(), tmp_path)
    with refused("the base model"):
        train(tiny_engine(seed=9), data, meter, tiny_plan(), tmp_path)
    with refused("the size"):
        train(engine, data, meter, tiny_plan(), tmp_path, size=128)
    assert fingerprint(engine.unet) == before
    assert the_step_in(tmp_path / CHECKPOINT_NAME) == 4


def test_another_person_to_be_like_is_another_run(engine, data, meters, tmp_path):
    """The reference decides which weights are kept, even where the pictures are the same."""
    selection, _ = meters
    with pytest.raises(Chose):
        train(engine, data, selection, tiny_plan(), tmp_path, on_progress=stop_after(5))
    other = type(selection)(-selection.reference, selection.reader)
    with pytest.raises(TrainingError, match="another training: the identity changed"):
        train(engine, data, other, tiny_plan(), tmp_path)


def test_a_truncated_checkpoint_is_refused_and_kept_for_a_look(engine, data, meter, tmp_path):
    with pytest.raises(Chose):
        train(engine, data, meter, tiny_plan(), tmp_path, on_progress=stop_after(5))
    path = tmp_path / CHECKPOINT_NAME
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(TrainingError, match="cannot be read .*delete it to start afresh"):
        train(engine, data, meter, tiny_plan(), tmp_path)
    assert path.exists()


# ---- what goes wrong -----------------------------------------------------------------------------------------------


def poisoned(data):
    """One number of one picture is broken: the one that a run on the tiny plan draws last, in its eighth step or so."""
    first = {}
    for step in range(16):
        for row in torch.randint(len(data.latents), (2,), generator=step_generator(tiny_plan().seed, step)).tolist():
            first.setdefault(row, step)
    latents = data.latents.clone()
    latents[max(first, key=first.__getitem__), 0, 0, 0] = float("nan")
    return dataclasses.replace(data, latents=latents)


def test_a_loss_that_is_no_number_names_step_and_phase_and_leaves_the_last_good_checkpoint(
    engine, data, meter, tmp_path
):
    bad = poisoned(data)
    long = dataclasses.replace(FOUR_PHASES[0], max_steps=16)
    plan = tiny_plan((long,), checkpoint_every=1, probe=ProbeSpec(pairs=8, every=100))
    before = fingerprint(engine.unet)
    with pytest.raises(TrainingError, match=r"The loss became nan at step \d+ \(\w+\); the last good state") as caught:
        train(engine, bad, meter, plan, tmp_path)
    step = int(str(caught.value).split("at step ")[1].split(" ")[0])
    assert step > 1 and "(COARSE)" in str(caught.value) and "Lower the learning rate" in str(caught.value)
    path = tmp_path / CHECKPOINT_NAME
    assert the_step_in(path) == step - 1
    with safe_open(str(path), framework="pt") as file:
        assert all(bool(torch.isfinite(file.get_tensor(key)).all()) for key in file.keys())  # noqa: SIM118
    assert fingerprint(engine.unet) == before


def test_without_a_checkpoint_yet_it_says_so(engine, data, meter, tmp_path):
    bad = dataclasses.replace(data, latents=torch.full_like(data.latents, float("nan")))
    with pytest.raises(TrainingError, match=r"nan at step 1 \(COARSE\); no checkpoint was written yet"):
        train(engine, bad, meter, tiny_plan(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_probe_that_is_no_number_stops_before_it_is_saved(engine, data, meter, tmp_path):
    """The draw may miss the broken picture for a while; the probe sees every picture."""
    plan = tiny_plan(probe=ProbeSpec(pairs=8, every=1), checkpoint_every=1)
    with pytest.raises(TrainingError, match=r"at step 1 \(COARSE\); no checkpoint was written yet"):
        train(engine, poisoned(data), meter, plan, tmp_path)


def test_residuals_that_are_no_numbers_stop_the_switch_to_huber(engine, data, meter, tmp_path):
    huber = phase("MID", 1e-3, 4.0, "huber", "adamw")
    with pytest.raises(TrainingError, match=r"at step 0 \(MID\); no checkpoint was written yet"):
        train(engine, poisoned(data), meter, tiny_plan((huber,)), tmp_path)


def test_a_gradient_that_overflows_never_reaches_the_weights(engine, data, meter, tmp_path):
    """A finite loss with infinite gradients, as half precision gives: the weights must not take the step."""

    def overflow(module, inputs, output):
        output.sample.register_hook(lambda gradient: gradient * float("inf"))

    handle = engine.unet.register_forward_hook(lambda m, i, o: overflow(m, i, o) if torch.is_grad_enabled() else None)
    with pytest.raises(TrainingError, match=r"The gradient became (nan|inf) at step 1 \(COARSE\)"):
        train(engine, data, meter, tiny_plan(checkpoint_every=1), tmp_path)
    handle.remove()
    assert not list(tmp_path.iterdir())


def test_a_learning_rate_out_of_all_proportion_ends_in_words_or_in_finite_weights(engine, data, meter, tmp_path):
    wild = tiny_plan((phase("COARSE", 1e30, 8.0, "mse", "adamw", 8),), checkpoint_every=1)
    with pytest.raises(TrainingError, match=r"at step \d \(COARSE\).*Lower the learning rate"):
        train(engine, data, meter, wild, tmp_path)


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_full_disk_leaves_the_checkpoint_before_and_no_half_file(
    broken, engine, data, meter, tmp_path, monkeypatch, uninterrupted
):
    real, calls = getattr(os, broken), []

    def full(*args):
        calls.append(1)
        if len(calls) >= 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args)

    before = fingerprint(engine.unet)
    with monkeypatch.context() as patch:
        patch.setattr(os, broken, full)
        with pytest.raises(OutputError, match="training.safetensors.*No space left.*free some space"):
            train(engine, data, meter, tiny_plan(), tmp_path)
    assert os.listdir(tmp_path) == [CHECKPOINT_NAME] and the_step_in(tmp_path / CHECKPOINT_NAME) == 3
    assert fingerprint(engine.unet) == before
    lora, _ = train(engine, data, meter, tiny_plan(), tmp_path)  # space was made
    assert lora.sha256 == uninterrupted[0].sha256


def test_a_disk_that_is_really_full(engine, data, meter, tmp_path):
    """A file system of 64 KiB."""
    import subprocess

    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True)
    if made.returncode:
        pytest.skip("a file system can be mounted by root alone")
    try:
        with pytest.raises(OutputError, match="training.safetensors"):
            train(engine, data, meter, tiny_plan(), tmp_path)
        assert os.listdir(tmp_path) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_folder_that_cannot_be_written_is_named(engine, data, meter, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="output folder .*file/run cannot be written"):
        train(engine, data, meter, tiny_plan(), tmp_path / "file" / "run")


def test_the_checkpoint_holds_what_the_run_needs_and_no_photo(engine, data, meter, tmp_path):
    with pytest.raises(Chose):
        train(engine, data, meter, tiny_plan(), tmp_path, on_progress=stop_after(6))
    with safe_open(str(tmp_path / CHECKPOINT_NAME), framework="pt") as file:
        fingerprint_ = file.metadata()["fingerprint"]
    saved = load_checkpoint(tmp_path / CHECKPOINT_NAME, fingerprint_)
    assert saved.adapter and saved.best and saved.optimizer["state"]
    content = (tmp_path / CHECKPOINT_NAME).read_bytes()
    assert meter.reference[:8].tobytes() not in content and data.latents[0].numpy().tobytes()[:64] not in content


class HostBreaksIn(Exception):
    """As a host's own interruption: from anywhere inside its model."""


def breaking(real, call):
    """A method of the run or of its probes, cut short at its `call`th call."""
    calls = []

    def cut(self, *args):
        calls.append(1)
        if len(calls) == call:
            raise HostBreaksIn
        return real(self, *args)

    return cut


@pytest.mark.parametrize(
    ("owner", "method", "call"),
    [
        (loop._Run, "_batch_loss", 3),
        (loop._Run, "_batch_loss", 8),
        (loop.DenoisingProbe, "losses", 2),
        (loop.IdentityProbe, "check", 2),  # in the middle of a phase
        (loop.IdentityProbe, "check", 3),  # at the end of one
    ],
)
def test_a_host_that_breaks_in_mid_step_or_mid_probe_loses_nothing(
    engine, data, meter, tmp_path, monkeypatch, owner, method, call
):
    """The interruption comes out of a forward pass, where nobody can be asked; the same LoRA comes out in the end."""
    probe = IdentityProbeSpec(prompts=("photo of a woman",), seeds=(1,), steps=2, cfg=1.0, sampler="ddim", every=4)
    plan = tiny_plan(
        (phase("COARSE", 1e-2, 8.0, "mse", "adamw", 6), phase("MID", 1e-2, 4.0, "huber", "adamw", 6)),
        identity_probe=probe, probe=ProbeSpec(pairs=8, every=4), checkpoint_every=50,
    )  # fmt: skip
    undisturbed, whole = train(engine, data, meter, plan, tmp_path / "whole", size=64)
    with monkeypatch.context() as patched:
        patched.setattr(owner, method, breaking(getattr(owner, method), call))
        with pytest.raises(HostBreaksIn):
            train(engine, data, meter, plan, tmp_path / "cut", size=64)
    resumed, report = train(engine, data, meter, plan, tmp_path / "cut", size=64)
    assert resumed.sha256 == undisturbed.sha256
    assert report.resumed_at[0] > 0
    assert report.losses == whole.losses
    assert [check.step for check in report.identity] == [check.step for check in whole.identity]
    assert [verdict.step for verdict in report.probe] == [verdict.step for verdict in whole.probe]
