"""Sampling: a seed's picture is its own, whatever else is in the batch, and denoise, mask and previews do as they say.

The reference is the ideal denoiser of a world that holds one picture: whatever the noise, its answer is known, so every
sampler must arrive at that picture, and every preview must show it.
"""

import pytest
import torch

from identity_lock.engines.protocol import Conditioning, SampleRequest
from identity_lock.engines.sampling import SAMPLERS, SCHEDULES, initial_noise, make_scheduler, run_sampler
from identity_lock.errors import RenderError
from identity_lock.tests.fixtures.tiny_engine import DISCRETE, request, rule_of, schedule_of, tiny_engine

SHAPE = (4, 8, 8)
PICTURE = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(7))
COMBINATIONS = [(p, s) for p in DISCRETE for s in SAMPLERS] + [("flow", "euler")]


def asked(sampler="euler", **changes):
    nothing = Conditioning("", None)
    defaults = dict(
        positive=nothing, negative=nothing, seeds=(1, 2, 3), width=64, height=64, steps=6, cfg=1.0, sampler=sampler,
        scheduler="simple",
    )  # fmt: skip
    return SampleRequest(**(defaults | changes))


class Ideal:
    """The perfect model of a world whose only picture is `picture`; remembers what it was asked."""

    def __init__(self, prediction, picture=PICTURE, zero_snr=None):
        self.schedule = schedule_of(prediction, zero_snr=zero_snr)
        self.rule, self.picture = rule_of(self.schedule), picture
        self.times, self.inputs, self.rows = [], [], []

    def level(self, t):
        if self.rule.prediction == "flow":
            return 1.0 - float(t) / 1000, float(t) / 1000
        low = min(int(t), 998)
        share = float(t) - low

        def between(table):
            return float(table[low] * (1 - share) + table[low + 1] * share)

        signal = between(self.rule.signal)
        return signal, (1 - signal**2) ** 0.5

    def __call__(self, x, t, rows):
        self.times.append(float(t))
        self.inputs.append(x.clone())
        self.rows.append(rows)
        signal, noise = self.level(t)
        x0 = self.picture.expand_as(x)
        eps = (x - signal * x0) / noise
        return {"epsilon": eps, "v_prediction": signal * eps - noise * x0, "sample": x0, "flow": eps - x0}[
            self.rule.prediction
        ].contiguous()

    def run(self, wanted, on_step=None):
        return run_sampler(wanted, SHAPE, self.rule, self.schedule, torch.device("cpu"), self, on_step)


# ---- where a run arrives -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prediction, sampler, scheduler",
    [
        (p, s, schedule)
        for p, s in COMBINATIONS
        for schedule in SCHEDULES
        if s != "ddim" or schedule in ("simple", "sgm_uniform")
    ],
)
def test_with_a_perfect_model_every_sampler_arrives_and_every_preview_shows_it(prediction, sampler, scheduler):
    ideal, previews = Ideal(prediction), []
    result = ideal.run(asked(sampler, scheduler=scheduler), previews.append)
    assert [view.step for view in previews] == [1, 2, 3, 4, 5, 6] and all(view.total == 6 for view in previews)
    # DDIM ends, as in Stable Diffusion's own configuration, at the least noise trained on: 3 % of a deviation
    tolerance = 0.12 if sampler == "ddim" else 0.02
    assert (result.latents - PICTURE).abs().max() < tolerance
    for view in previews:
        late = view.step > 1  # at 4,000 sigmas of noise an eps or v output no longer resolves the picture
        assert (view.x0 - PICTURE).abs().max() < (0.05 if late else 0.6)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "uni_pc"])
def test_the_last_preview_is_the_picture(sampler):
    engine, previews = tiny_engine(), []
    result = engine.sample(request(engine, sampler=sampler), lambda view: previews.append(view.x0))
    torch.testing.assert_close(previews[-1], result.latents, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(previews[0], previews[-1], atol=1e-2)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_zero_terminal_snr_starts_from_pure_noise_whatever_it_starts_from(sampler, prediction):
    ideal = Ideal(prediction, zero_snr=True)
    result = ideal.run(asked(sampler, init=PICTURE * 5.0))
    assert ideal.times[0] == 999
    torch.testing.assert_close(ideal.inputs[0], initial_noise((1, 2, 3), SHAPE), atol=6e-3, rtol=0)
    assert torch.isfinite(result.latents).all()


# ---- rows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction, sampler", COMBINATIONS)
def test_each_row_is_the_picture_of_its_seed_alone(prediction, sampler):
    engine = tiny_engine(prediction)
    seeds = (11, 1187891159, 5)
    together = engine.decode_latents(engine.sample(request(engine, seeds, sampler=sampler)).latents)
    for row, seed in enumerate(seeds):
        alone = engine.decode_latents(engine.sample(request(engine, (seed,), sampler=sampler)).latents)[0]
        assert abs(alone.astype(int) - together[row].astype(int)).max() <= 1
    assert abs(together[0].astype(int) - together[1].astype(int)).max() > 8  # and seeds differ


@pytest.mark.parametrize("prediction, sampler", COMBINATIONS)
def test_rows_that_are_dropped_leave_the_others_as_they_were_and_cost_nothing_more(prediction, sampler):
    engine, evaluated = tiny_engine(prediction), []
    seeds = (1, 2, 3, 4)
    whole = engine.sample(request(engine, seeds, sampler=sampler, cfg=1.0))
    handle = engine.unet.register_forward_pre_hook(lambda module, inputs: evaluated.append(len(inputs[0])))

    def keep(view):
        return {2: (0, 2, 3), 3: (0, 3)}.get(view.step)

    pruned = engine.sample(request(engine, seeds, sampler=sampler, cfg=1.0), keep)
    handle.remove()
    assert pruned.rows == (0, 3) and evaluated == [4, 4, 3, 2]
    torch.testing.assert_close(pruned.latents, whole.latents[[0, 3]], atol=2e-4, rtol=1e-4)


def test_the_callback_sees_only_the_rows_alive_and_dropping_all_ends_the_run():
    ideal, seen = Ideal("sample"), []

    def keep(view):
        seen.append((view.step, view.rows, view.x0.shape[0]))
        return {1: (2, 0, 99), 2: None, 3: ()}[view.step]

    result = ideal.run(asked(), keep)
    assert seen == [(1, (0, 1, 2), 3), (2, (0, 2), 2), (3, (0, 2), 2)]
    assert result.rows == () and len(result.latents) == 0 and len(ideal.times) == 3


def test_an_exception_in_the_callback_stops_the_run_and_the_next_run_is_unharmed():
    engine = tiny_engine()
    before = engine.sample(request(engine)).latents

    def stop(view):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.sample(request(engine), stop)
    assert torch.equal(engine.sample(request(engine)).latents, before)


def test_the_noise_of_a_seed_is_plain_randn_of_it():
    rows = initial_noise((5, 6), SHAPE)
    assert torch.equal(rows[1], torch.randn(SHAPE, generator=torch.Generator().manual_seed(6)))
    torch.manual_seed(0)
    assert torch.equal(initial_noise((5, 6), SHAPE), rows)


# ---- denoise -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction, sampler", COMBINATIONS)
def test_denoise_is_the_share_of_the_schedule_that_is_run_from_init(prediction, sampler):
    start = torch.full((1, *SHAPE), 3.0)
    for denoise in (0.25, 0.5):
        ideal, steps = Ideal(prediction, picture=start), []
        result = ideal.run(asked(sampler, init=start, denoise=denoise), steps.append)
        assert len(steps) == 6 and steps[0].total == 6
        assert ideal.times[0] == pytest.approx(1000 * denoise, abs=3)
        signal, noise = ideal.level(ideal.times[0])
        expected = signal * start + noise * initial_noise((1, 2, 3), SHAPE)
        torch.testing.assert_close(ideal.inputs[0], expected, atol=0.02, rtol=0)
        assert (result.latents - start).abs().max() < 0.13


def test_denoise_says_nothing_where_there_is_no_picture_to_start_from():
    half, whole = Ideal("sample"), Ideal("sample")
    a, b = half.run(asked(denoise=0.5)), whole.run(asked())
    assert half.times == whole.times and torch.equal(a.latents, b.latents)


def test_less_denoise_stays_nearer_to_the_picture():
    engine = tiny_engine("epsilon")
    init = torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(3)) * 2
    away = [
        float((engine.sample(request(engine, init=init, denoise=denoise)).latents - init).abs().mean())
        for denoise in (0.1, 0.4, 1.0)
    ]
    assert away[0] < away[1] < away[2]


# ---- masks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction, sampler", COMBINATIONS)
def test_a_mask_of_zero_keeps_the_picture_and_a_mask_of_one_is_no_mask(prediction, sampler):
    engine = tiny_engine(prediction)
    init = torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(3))
    wanted = dict(init=init, denoise=0.6, sampler=sampler)
    free = engine.sample(request(engine, **wanted)).latents
    kept = engine.sample(request(engine, mask=torch.zeros(1, 1, 8, 8), **wanted)).latents
    full = engine.sample(request(engine, mask=torch.ones(1, 1, 8, 8), **wanted)).latents
    assert torch.equal(kept, init.expand_as(kept)) and torch.equal(full, free)


def test_half_a_mask_changes_its_half_only_and_the_preview_shows_the_rest_as_it_stays():
    engine, previews = tiny_engine(), []
    init = torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(3))
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1.0
    result = engine.sample(request(engine, init=init, mask=mask, denoise=0.5), lambda v: previews.append(v.x0))
    for latents in (result.latents, *previews):
        assert torch.equal(latents[..., :4], init.expand_as(latents)[..., :4])
    assert (result.latents - init)[..., 4:].abs().mean() > 0.1


def test_a_soft_mask_joins_in_once_that_share_of_the_run_is_left():
    """With a mask of one half, the first half of the steps still sees the picture, and the second half repaints it."""
    ideal = Ideal("sample", picture=torch.full((1, *SHAPE), -2.0))
    start, joined = torch.full((1, *SHAPE), 2.0), []
    for value in (0.2, 0.5, 0.8):
        previews = []
        ideal.run(
            asked(init=start, mask=torch.full((1, 1, 8, 8), value), seeds=(1,), steps=10),
            lambda view, previews=previews: previews.append(float(view.x0.mean())),
        )
        joined.append(sum(mean < 0 for mean in previews))
    assert joined == [2, 5, 8]


def test_each_row_may_have_a_mask_and_a_picture_of_its_own():
    engine = tiny_engine()
    init = torch.randn(2, 32, 8, 8, generator=torch.Generator().manual_seed(3))
    mask = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)])
    result = engine.sample(request(engine, (4, 5), init=init, mask=mask, denoise=0.5)).latents
    alone = engine.sample(request(engine, (5,), init=init[1:], denoise=0.5)).latents
    assert torch.equal(result[0], init[0])
    torch.testing.assert_close(result[1], alone[0], atol=1e-4, rtol=1e-4)


# ---- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(sampler="heun"), "sampler 'heun' is not one of ddim, euler, dpmpp_2m, uni_pc"),
        (dict(scheduler="beta"), "scheduler 'beta' is not one of simple, sgm_uniform, normal, karras"),
        (dict(sampler="ddim", scheduler="karras"), "'ddim' has no karras schedule here; take 'simple'"),
        (dict(sampler="ddim", scheduler="normal"), "'ddim' has no normal schedule here; take 'simple'"),
        (dict(seeds=()), "at least one seed.*got 0 seeds"),
        (dict(steps=0), "one step.*0 steps"),
        (dict(denoise=0.0), r"denoise in \(0, 1\].*denoise 0.0"),
        (dict(denoise=1.2), "denoise 1.2"),
        (dict(mask=torch.ones(1, 1, 8, 8)), "give init as well"),
        (dict(width=60), "60x64 does not fit.*multiples of 8"),
        (dict(height=100), "64x100 does not fit"),
    ],
)
def test_what_cannot_be_sampled_is_refused_in_words(changes, words):
    engine = tiny_engine()
    with pytest.raises(RenderError, match=words):
        engine.sample(request(engine, **changes))


def test_a_flow_model_is_sampled_with_euler_only():
    with pytest.raises(RenderError, match="flow model is sampled with 'euler' here, not 'ddim'"):
        make_scheduler(schedule_of("flow"), "ddim", "simple")
