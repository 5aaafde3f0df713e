"""The two yardsticks of a run are fixed: the same noise, timesteps and seeds, whatever happens around them."""

import dataclasses

import numpy as np
import pytest
import torch

from identity_lock.engines.diffusers import LentDenoiser
from identity_lock.tests.fixtures.tiny_engine import HOPPER, PHOTOS, square, tiny_data, tiny_engine, tiny_plan
from identity_lock.tests.training.test_lora import OPTIONS, learn
from identity_lock.training.loop import train
from identity_lock.training.lora import adapted
from identity_lock.training.phases import IdentityProbeSpec, ProbeSpec
from identity_lock.training.probes import DenoisingProbe, IdentityProbe


class Listening:
    """The real denoiser, with an ear on what it is asked."""

    def __init__(self, denoiser):
        self._denoiser, self.asked = denoiser, []

    def __getattr__(self, name):
        return getattr(self._denoiser, name)

    def predict(self, x_t, t, conditioning):
        self.asked += [(x.clone(), int(step), c.prompt) for x, step, c in zip(x_t, t, conditioning, strict=True)]
        return self._denoiser.predict(x_t, t, conditioning)


def same(one, two):
    return len(one) == len(two) and all(
        torch.equal(a[0], b[0]) and a[1:] == b[1:] for a, b in zip(one, two, strict=True)
    )


@pytest.mark.parametrize("pairs", [16, 24, 32])
def test_the_timesteps_are_stratified_and_every_picture_takes_part(engine, data, pairs):
    listening = Listening(LentDenoiser(engine))
    losses = DenoisingProbe(listening, data, ProbeSpec(pairs=pairs), seed=5).losses()
    assert losses.shape == (pairs,) and losses.dtype == np.float64 and (losses > 0).all()
    times = sorted(t for _, t, _ in listening.asked)
    edges = np.linspace(0, 1000, pairs + 1)
    assert all(low - 1 <= t < high for t, low, high in zip(times, edges[:-1], edges[1:], strict=True))


def test_every_check_asks_the_same_and_only_the_weights_change_the_answer(engine, data):
    with engine.trainable() as denoiser, adapted(denoiser, **OPTIONS) as adapter:
        listening = Listening(denoiser)
        probe = DenoisingProbe(listening, data, ProbeSpec(pairs=16), seed=5)
        first = probe.losses()
        asked = listening.asked
        torch.manual_seed(99)
        torch.rand(7)
        for change in ("nothing", "alpha", "weights"):
            listening.asked = []
            if change == "alpha":
                adapter.set_alpha(2.0)
            if change == "weights":
                learn(engine, denoiser, adapter)
            losses = probe.losses()
            assert same(listening.asked, asked)
            assert np.allclose(losses, first, rtol=1e-5) == (change != "weights")
        again = DenoisingProbe(denoiser, data, ProbeSpec(pairs=16), seed=5).losses()
        assert np.array_equal(again, losses)  # also after a resume, in a new process
        assert not np.allclose(DenoisingProbe(denoiser, data, ProbeSpec(pairs=16), seed=6).losses(), losses)


def test_the_probe_is_the_same_at_every_check_of_every_phase_of_a_run(engine, data, meter, tmp_path, monkeypatch):
    asked, losses = [], DenoisingProbe.losses

    def listen(probe):
        probe._denoiser = ear = Listening(LentDenoiser(engine))
        value = losses(probe)
        asked.append(list(ear.asked))  # as it stands: Huber asks once more for its delta
        return value

    monkeypatch.setattr(DenoisingProbe, "losses", listen)
    _, report = train(engine, data, meter, tiny_plan(), tmp_path)
    assert len(asked) == 8 == len(report.probe) and all(same(one, asked[0]) for one in asked)
    assert len({phase.name for phase in report.phases}) == 4


def test_the_probe_is_the_masked_squared_error_whatever_the_phase_trains(engine, data):
    probe = DenoisingProbe(LentDenoiser(engine), data, ProbeSpec(pairs=8), seed=5)
    residuals, masks = probe.residuals(), data.masks[torch.arange(8) % len(data.masks)]
    by_hand = [(r.square() * m).sum() / (m.sum() * len(r)) for r, m in zip(residuals, masks, strict=True)]
    np.testing.assert_allclose(probe.losses(), torch.stack(by_hand).numpy(), rtol=1e-5)


# ---- the identity probe --------------------------------------------------------------------------------------------

SPEC = IdentityProbeSpec(prompts=("photo of a woman", "red background"), seeds=(1, 2), steps=2, cfg=1.0, sampler="ddim")


def near_a_face(path=HOPPER, size=128):
    """An engine whose pictures are a photo plus whatever its small last layer adds."""
    engine = tiny_engine(origin=square(path, size))
    engine.unet.conv_out.weight.data *= 0.02
    return engine


def test_it_measures_the_person_in_the_renders_with_both_recognisers(meters):
    selection, reporting = meters
    same_person = IdentityProbe(near_a_face(), selection, SPEC, 128, reporting).check(7)
    other = IdentityProbe(near_a_face(PHOTOS / "synthetic_1.png"), selection, SPEC, 128, reporting).check(7)
    assert same_person.step == 7 and same_person.detected == 1.0
    assert same_person.drift < 0.35 < 0.6 < other.drift
    assert same_person.report_drift is not None and same_person.report_drift < other.report_drift


def test_its_renders_are_the_same_at_every_check(meter):
    engine = near_a_face()
    probe = IdentityProbe(engine, meter, SPEC, 128, None)
    first = probe.check(1)
    torch.manual_seed(4)
    torch.rand(3)
    again = probe.check(2)
    assert dataclasses.replace(again, step=1) == first and first.report_drift is None
    other = IdentityProbe(engine, meter, dataclasses.replace(SPEC, seeds=(8, 9)), 128, None).check(1)
    assert other.drift != first.drift


def test_a_render_without_a_face_counts_as_drift_1_and_is_told(engine, meter):
    check = IdentityProbe(engine, meter, SPEC, 64, None).check(0)
    assert (check.drift, check.detected) == (1.0, 0.0)


def test_the_reporting_recogniser_decides_nothing(meters, tmp_path):
    """The same run with and without it gives the same LoRA."""
    selection, reporting = meters
    loras = []
    for number, second in enumerate((None, reporting)):
        engine = near_a_face(size=64)
        plan = tiny_plan(tiny_plan().phases[:1])
        lora, report = train(engine, tiny_data(engine), selection, plan, tmp_path / str(number), reporting=second)
        loras.append(lora)
    assert loras[0].sha256 == loras[1].sha256
    assert all(check.report_drift is not None for check in report.identity)
