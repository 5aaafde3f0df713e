"""The losses of the phases: values, gradients, precision, the mean under a mask, and a Huber delta that bites."""

import pytest
import torch

from identity_lock.errors import TrainingError
from identity_lock.training.losses import LOSS_NAMES, huber_delta, loss_map, masked_mean


def eps_residuals(seed=0, shape=(8, 4, 32, 32)):
    """Residuals of a denoiser that works: sigma from 0.03 to 0.2 with the timestep, and some outliers."""
    generator = torch.Generator().manual_seed(seed)
    sigma = torch.logspace(-1.5, -0.7, shape[0]).view(-1, 1, 1, 1)
    residuals = sigma * torch.randn(shape, generator=generator)
    outlier = torch.rand(shape, generator=generator) < 0.02
    return torch.where(outlier, residuals * 4, residuals)


def gradient_of(name, residuals, **options):
    prediction = residuals.clone().requires_grad_()
    loss_map(name, prediction, torch.zeros_like(residuals), **options).sum().backward()
    return prediction.grad.flatten()


def cosine(a, b):
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def test_values_by_hand():
    prediction, target = torch.tensor([0.0, 0.5, -3.0]), torch.zeros(3)
    assert loss_map("mse", prediction, target).tolist() == pytest.approx([0.0, 0.25, 9.0])
    assert loss_map("huber", prediction, target, delta=1.0).tolist() == pytest.approx([0.0, 0.125, 2.5])
    assert loss_map("charbonnier", prediction, target, eps=4.0).tolist() == pytest.approx(
        [0.0, 16.25**0.5 - 4, 1.0], rel=1e-6
    )


@pytest.mark.parametrize("name", LOSS_NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_subtracted_in_fp32(name, dtype):
    prediction = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    target = (prediction.float() * 1.01).to(dtype)
    low = loss_map(name, prediction, target, delta=0.1)
    assert low.dtype == torch.float32 and low.shape == prediction.shape
    torch.testing.assert_close(low, loss_map(name, prediction.float(), target.float(), delta=0.1), rtol=0, atol=0)


def test_charbonnier_is_accurate_and_has_a_gradient_at_and_near_zero():
    residuals = torch.tensor([0.0, 1e-7, 1e-5, 1e-3, 1.0])
    exact = (residuals.double() ** 2 + 1e-6).sqrt() - 1e-3
    value = loss_map("charbonnier", residuals, torch.zeros(5))
    torch.testing.assert_close(value[2:].double(), exact[2:], rtol=1e-5, atol=0)
    assert value[1] == pytest.approx(5e-12, rel=1e-5)  # r^2 / (2 eps): the plain formula gives 0 in fp32
    slope = residuals.double() / (residuals.double() ** 2 + 1e-6).sqrt()
    torch.testing.assert_close(gradient_of("charbonnier", residuals).double(), slope, rtol=1e-5, atol=1e-12)


def test_huber_with_delta_from_the_data_differs_from_mse_and_with_delta_1_it_does_not():
    residuals = eps_residuals()
    mse = gradient_of("mse", residuals)
    delta = huber_delta(residuals)
    assert delta < 0.5
    assert cosine(gradient_of("huber", residuals, delta=1.0), mse) > 0.99
    assert cosine(gradient_of("huber", residuals, delta=delta), mse) < 0.9
    linear = float((residuals.abs() > delta).float().mean())
    assert 0.1 < linear < 0.5  # it bites on a part of the residuals, not on none or all
    assert float((residuals.abs() > 1.0).float().mean()) < 0.005


def test_huber_delta_is_1_345_sigma_on_normal_residuals_and_outliers_hardly_move_it():
    residuals = 0.05 * torch.randn(200_000, generator=torch.Generator().manual_seed(2))
    clean = huber_delta(residuals)
    assert clean == pytest.approx(1.345 * 0.05, rel=0.01)
    dirty = residuals.clone()
    dirty[:20_000] = 50.0
    assert huber_delta(dirty) == pytest.approx(clean, rel=0.2)
    assert huber_delta(residuals.bfloat16() * 4) == pytest.approx(4 * clean, rel=0.01)


@pytest.mark.parametrize(
    ("residuals", "words"),
    [
        (torch.empty(0), "no residuals"),
        (torch.tensor([1.0, float("nan")]), "not finite"),
        (torch.zeros(9), "exactly zero"),
    ],
)
def test_huber_delta_refuses_residuals_that_tell_nothing(residuals, words):
    with pytest.raises(TrainingError, match=words):
        huber_delta(residuals)


def test_a_small_face_weighs_as_much_as_a_large_one():
    losses = torch.ones(2, 3, 10, 10)
    losses[1] = 5.0
    mask = torch.ones(2, 1, 10, 10)
    mask[1] = 0.0
    mask[1, :, 4:6, 4:6] = 1.0
    assert float(masked_mean(losses, mask)) == pytest.approx(3.0)
    assert float(masked_mean(losses, mask * 7)) == pytest.approx(3.0)


def test_weights_are_relative_and_a_zero_keeps_a_corner_out():
    losses = torch.zeros(1, 2, 2, 2)
    losses[0, :, 0, 0], losses[0, :, 0, 1], losses[0, :, 1, 1] = 4.0, 1.0, 1e6
    mask = torch.tensor([[[[1.0, 0.25], [0.25, 0.0]]]])
    assert float(masked_mean(losses, mask)) == pytest.approx((4 + 0.25) / 1.5)


def test_only_what_is_under_the_mask_gets_a_gradient():
    prediction = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(3)).requires_grad_()
    mask = torch.zeros(2, 1, 6, 6)
    mask[:, :, 2:4, 2:4] = 0.5
    masked_mean(loss_map("mse", prediction, torch.zeros_like(prediction)), mask).backward()
    assert torch.equal(prediction.grad.ne(0).any(dim=1, keepdim=True), mask > 0)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.cat([torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)]), "sample 1 is empty"),
        (torch.full((2, 1, 4, 4), -1.0), "negative"),
        (torch.full((2, 1, 4, 4), float("nan")), "not finite"),
        (torch.ones(2, 3, 4, 4), "shape"),
        (torch.ones(1, 1, 4, 4), "shape"),
    ],
)
def test_masks_that_cannot_weigh_are_refused(mask, words):
    with pytest.raises(TrainingError, match=words):
        masked_mean(torch.ones(2, 3, 4, 4), mask)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [("l7", {}, "l7"), ("huber", {}, "delta"), ("huber", {"delta": 0.0}, "delta"), ("charbonnier", {"eps": 0}, "eps")],
)
def test_losses_that_do_not_exist_are_refused(name, options, words):
    with pytest.raises(TrainingError, match=words):
        loss_map(name, torch.ones(3), torch.zeros(3), **options)


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(TrainingError, match="shape"):
        loss_map("mse", torch.ones(2, 4), torch.ones(4))
