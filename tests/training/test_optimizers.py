"""AdamP against the published rule, exact resumes, and the refusal of low-precision weights."""

import io
import math

import numpy as np
import pytest
import torch

from identity_lock.errors import TrainingError
from identity_lock.training.optimizers import OPTIMIZER_NAMES, make_optimizer, warmup_factor


class PublishedAdamP:
    """Heo et al., ICLR 2021, algorithm 2 with Adam's bias correction, for one weight, in float64.

    corrected_first says on which side of the bias correction epsilon is added to sqrt(v): True is the authors' code.
    """

    def __init__(self, weight, lr, betas, weight_decay, *, corrected_first, eps, delta=0.1, wd_ratio=0.1):
        self.weight = weight.astype(np.float64)
        self.m, self.v, self.t = np.zeros_like(self.weight), np.zeros_like(self.weight), 0
        self.lr, self.betas, self.weight_decay, self.corrected_first = lr, betas, weight_decay, corrected_first
        self.eps, self.delta, self.wd_ratio = eps, delta, wd_ratio
        self.branches = []

    def step(self, gradient):
        gradient = gradient.astype(np.float64)
        beta1, beta2 = self.betas
        self.t += 1
        self.m = beta1 * self.m + (1 - beta1) * gradient
        self.v = beta2 * self.v + (1 - beta2) * gradient**2
        root = math.sqrt(1 - beta2**self.t)
        denominator = np.sqrt(self.v) / root + self.eps if self.corrected_first else (np.sqrt(self.v) + self.eps) / root
        update, decay = self.m / (1 - beta1**self.t) / denominator, self.weight_decay
        branch = "none"
        if self.weight.ndim > 1:
            for name, rows in (("channel", len(self.weight)), ("layer", 1)):
                w, g, u = (a.reshape(rows, -1) for a in (self.weight, gradient, update))
                norms = np.linalg.norm(w, axis=1) * np.linalg.norm(g, axis=1)
                cosine = np.abs((w * g).sum(1)) / np.maximum(norms, 1e-30)
                if cosine.max() < self.delta / math.sqrt(w.shape[1]):
                    unit = w / (np.linalg.norm(w, axis=1, keepdims=True) + self.eps)
                    update = (u - unit * (unit * u).sum(1, keepdims=True)).reshape(update.shape)
                    decay, branch = self.weight_decay * self.wd_ratio, name
                    break
        self.branches.append(branch)
        self.weight = self.weight * (1 - self.lr * decay) - self.lr * update


def near_threshold(weight, gradient, part):
    """In each channel of n elements, a cosine to the weight of `part` times 0.1 / sqrt(n)."""
    w, g = weight.reshape(len(weight), -1), gradient.reshape(len(gradient), -1)
    g = g - w * ((w * g).sum(1, keepdims=True) / (w * w).sum(1, keepdims=True))
    slope = math.tan(math.asin(part * 0.1 / math.sqrt(w.shape[1])))
    g = g + slope * w * np.linalg.norm(g, axis=1, keepdims=True) / np.linalg.norm(w, axis=1, keepdims=True)
    return g.reshape(weight.shape)


def just_inside_by_channel(weight, gradient):
    return near_threshold(weight, gradient, 0.9)


def just_outside(weight, gradient):
    return near_threshold(weight, gradient, 1.1)


def tangent_by_layer(weight, gradient):
    """Orthogonal to the whole weight, but along its rows: up one, down the next."""
    signs = np.where(np.arange(len(weight)) % 2 == 0, 1.0, -1.0).reshape(-1, *[1] * (weight.ndim - 1))
    along = weight * signs
    return along - weight * (along * weight).sum() / (weight * weight).sum()


GRADIENTS = {"channel": just_inside_by_channel, "layer": tangent_by_layer, "none": just_outside}


def compare_with_published_rule(shape, branch, gradient_scale, *, corrected_first):
    """30 steps of both on the same gradients; the largest difference in the weights, in units of the whole change."""
    rng = np.random.default_rng(4)
    start = rng.standard_normal(shape).astype(np.float32)
    lr, betas, weight_decay = 1e-2, (0.9, 0.999), 0.1
    param = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = make_optimizer("adamp", [param], lr, betas=betas, weight_decay=weight_decay)
    eps = 1e-8 if corrected_first else 1e-8 * math.sqrt(1 - betas[1])
    published = PublishedAdamP(start, lr, betas, weight_decay, corrected_first=corrected_first, eps=eps)
    for _ in range(30):
        noise = rng.standard_normal(shape)
        gradient = gradient_scale * GRADIENTS[branch](published.weight, noise)
        param.grad = torch.from_numpy(gradient.astype(np.float32))
        optimizer.step()
        published.step(gradient)
    assert set(published.branches) == {branch if len(shape) > 1 else "none"}
    return np.abs(param.detach().numpy() - published.weight).max() / np.abs(published.weight - start).max()


@pytest.mark.parametrize("shape", [(6, 16), (4, 8, 3, 3)])
@pytest.mark.parametrize("branch", ["channel", "layer", "none"])
def test_adamp_follows_the_published_rule(shape, branch):
    assert compare_with_published_rule(shape, branch, 1e-3, corrected_first=False) < 5e-5
    # Which side of the bias correction epsilon is on makes no difference that counts, at usual gradients or at the
    # faint ones of a LoRA.
    assert compare_with_published_rule(shape, branch, 1e-3, corrected_first=True) < 5e-4
    assert compare_with_published_rule(shape, branch, 1e-5, corrected_first=True) < 0.02


def test_adamp_never_projects_a_one_dimensional_weight():
    assert compare_with_published_rule((16,), "layer", 1e-3, corrected_first=False) < 5e-5


def test_adamp_starts_from_a_zero_lora_b():
    param = torch.nn.Parameter(torch.zeros(8, 4))
    optimizer = make_optimizer("adamp", [param], 1e-3)
    param.grad = torch.randn(8, 4, generator=torch.Generator().manual_seed(5))
    optimizer.step()
    torch.testing.assert_close(param.detach(), -1e-3 * param.grad.sign(), rtol=1e-4, atol=0)


def small_net():
    generator = torch.Generator().manual_seed(6)
    shapes = [(8, 4), (4, 8), (6, 4, 3, 3), (5,)]
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def train(params, optimizer, steps):
    for step in steps:
        generator = torch.Generator().manual_seed(1000 + step)
        optimizer.zero_grad()
        loss = sum((p * torch.randn(p.shape, generator=generator)).sum() + p.square().sum() for p in params)
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZER_NAMES)
def test_a_resume_from_a_saved_state_gives_the_same_weights_bit_by_bit(name):
    whole = small_net()
    train(whole, make_optimizer(name, whole, 1e-2, weight_decay=0.01), range(12))

    first = small_net()
    optimizer = make_optimizer(name, first, 1e-2, weight_decay=0.01)
    train(first, optimizer, range(5))
    file = io.BytesIO()
    torch.save({"params": [p.detach() for p in first], "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)

    second = [torch.nn.Parameter(p) for p in saved["params"]]
    resumed = make_optimizer(name, second, 1e-2, weight_decay=0.01)
    resumed.load_state_dict(saved["optimizer"])
    train(second, resumed, range(5, 12))
    assert all(torch.equal(a, b) for a, b in zip(whole, second, strict=True))


@pytest.mark.parametrize(("name", "lr"), [("adamp", 1e-6), ("adamp", 5e-7), ("adamw", 3e-5)])
def test_the_tiny_learning_rates_of_the_late_phases_arrive_in_the_weights(name, lr):
    params = small_net()
    before = [p.detach().clone() for p in params]
    train(params, make_optimizer(name, params, lr), range(20))
    for new, old in zip(params, before, strict=True):
        moved = (new.detach() - old).abs()
        assert 5 * lr < float(moved.mean()) < 20.5 * lr


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", OPTIMIZER_NAMES)
def test_low_precision_weights_are_refused_by_index_and_dtype(name, dtype):
    params = [torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2, 2, dtype=dtype))]
    with pytest.raises(TrainingError, match=rf"parameter 1 .*{dtype}.*fp32"):
        make_optimizer(name, params, 1e-4)


def test_unknown_optimizers_and_empty_adapters_are_refused():
    with pytest.raises(TrainingError, match="sgd9"):
        make_optimizer("sgd9", [torch.nn.Parameter(torch.ones(1))], 1e-4)
    with pytest.raises(TrainingError, match="no parameters"):
        make_optimizer("adamw", [], 1e-4)


def test_warmup_rises_to_1_without_a_dead_first_step():
    assert [warmup_factor(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert warmup_factor(0, 0) == 1.0
    with pytest.raises(TrainingError, match="negative"):
        warmup_factor(-1, 4)
