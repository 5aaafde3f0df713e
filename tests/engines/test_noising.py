"""One noising rule for four kinds of model: what goes in comes out again."""

import pytest
import torch

from identity_lock.engines.noising import PREDICTIONS, NoisingRule, discrete_rule, flow_rule
from identity_lock.errors import CheckpointError
from identity_lock.tests.fixtures.tiny_engine import rule_of, schedule_of

X0 = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(1))
EPS = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_output_gives_back_the_clean_latent(prediction):
    rule = rule_of(schedule_of(prediction, zero_snr=False))
    t = torch.tensor([0, 250, 500, 750, 990])
    x_t = rule.add_noise(X0, EPS, t)
    recovered = rule.x0(rule.target(X0, EPS, t), x_t, t)
    assert x_t.dtype == recovered.dtype == torch.float32
    torch.testing.assert_close(recovered, X0, atol=2e-4, rtol=0)


def test_each_target_is_the_published_one():
    """By hand at signal 0.8, noise 0.6: x0 = 1, eps = 2."""
    x0, eps, t = torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 2.0), torch.tensor([0])
    signal, noise = torch.tensor([0.8]), torch.tensor([0.6])
    expected = {"epsilon": 2.0, "v_prediction": 0.8 * 2 - 0.6 * 1, "sample": 1.0, "flow": 2.0 - 1.0}
    for prediction, value in expected.items():
        rule = NoisingRule(prediction, signal, noise)
        assert rule.target(x0, eps, t).item() == pytest.approx(value)
        assert rule.add_noise(x0, eps, t).item() == pytest.approx(0.8 * 1 + 0.6 * 2)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_noising_is_that_of_diffusers(prediction):
    from diffusers import DDIMScheduler

    schedule = schedule_of(prediction)
    theirs, ours, t = DDIMScheduler(**schedule), rule_of(schedule), torch.tensor([0, 100, 400, 800, 999])
    torch.testing.assert_close(ours.add_noise(X0, EPS, t), theirs.add_noise(X0, EPS, t))
    if prediction == "v_prediction":
        torch.testing.assert_close(ours.target(X0, EPS, t), theirs.get_velocity(X0, EPS, t))


def test_flow_runs_from_nearly_clean_to_noise_and_shift_raises_the_noise():
    plain, shifted = flow_rule(), flow_rule(shift=3.0)
    torch.testing.assert_close(plain.signal + plain.noise, torch.ones(1000))
    assert plain.noise[0] == pytest.approx(1e-3) and plain.noise[-1] == 1.0
    assert shifted.noise[499] == pytest.approx(3 * 0.5 / (1 + 2 * 0.5))
    assert (shifted.noise[:-1] > plain.noise[:-1]).all()
    # the model is told the noise level times 1000, not the index
    torch.testing.assert_close(shifted.model_time(torch.tensor([499])), torch.tensor([750.0]))


def test_at_zero_terminal_snr_the_noised_latent_holds_nothing_of_the_picture():
    for prediction in ("v_prediction", "sample"):
        rule = rule_of(schedule_of(prediction, zero_snr=True))
        last = torch.full((5,), rule.steps - 1)
        torch.testing.assert_close(rule.add_noise(X0, EPS, last), EPS, atol=1e-6, rtol=0)
        torch.testing.assert_close(rule.x0(rule.target(X0, EPS, last), EPS, last), X0, atol=1e-5, rtol=0)


def test_a_half_precision_model_output_is_solved_in_float32():
    rule = rule_of(schedule_of("v_prediction"))
    t = torch.full((5,), 10)
    x_t = rule.add_noise(X0.bfloat16(), EPS.bfloat16(), t)
    assert x_t.dtype == rule.target(X0.bfloat16(), EPS.bfloat16(), t).dtype == torch.float32
    assert rule.x0(EPS.bfloat16(), x_t, t).dtype == torch.float32


def test_only_an_x0_model_has_its_low_noise_levels_raised_in_the_loss():
    for prediction in PREDICTIONS:
        rule = rule_of(schedule_of(prediction))
        weights = rule.loss_weight(torch.tensor([0, 300, 999]))
        if prediction == "sample":
            assert weights[0] == 4.0 and weights[2] == pytest.approx(1.0)
            assert weights[1] == pytest.approx(float(1 / rule.noise[300] ** 2))
        else:
            assert (weights == 1.0).all()


def test_an_unknown_prediction_is_refused_in_words():
    with pytest.raises(CheckpointError, match="'score' is not one of epsilon, v_prediction, sample, flow"):
        discrete_rule("score", torch.linspace(0.99, 0.01, 10))
