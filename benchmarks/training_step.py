"""A training step over a bare forward and backward of the same PEFT-adapted module; the probes are told apart."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

from identity_lock.training.loop import _Run
from identity_lock.training.lora import adapted
from identity_lock.training.optimizers import make_optimizer
from identity_lock.training.probes import DenoisingProbe, IdentityProbe

from .common import Bench, Row, ratio_of_medians

ROUNDS = 60


def measure(bench: Bench) -> list[Row]:
    plan, engine, data = bench.spec.plan, bench.engine, bench.data
    phase = plan.phases[0]
    with (
        tempfile.TemporaryDirectory() as folder,
        engine.trainable() as denoiser,
        adapted(denoiser, rank=plan.rank, alpha=phase.alpha, targets=plan.targets, seed=plan.seed) as adapter,
    ):
        identity_probe = IdentityProbe(engine, bench.meters.selection, plan.identity_probe, bench.spec.size, None)
        run = _Run(
            engine,
            data,
            bench.meters.selection,
            plan,
            Path(folder),
            bench.spec.size,
            identity_probe,
            None,
            lambda: False,
        )
        run.denoiser, run.adapter = denoiser, adapter
        run.optimizer = make_optimizer(phase.optimizer, adapter.parameters(), phase.lr)
        rows = torch.arange(plan.batch)
        x = data.latents[rows].to(denoiser.device)
        t = torch.full((plan.batch,), denoiser.rule.steps // 2)
        conditioning = [data.conditioning[row] for row in rows]

        def ours() -> None:
            run._step(phase)
            run.position.step += 1

        def bare() -> None:
            denoiser.predict(x, t, conditioning).square().mean().backward()
            for parameter in adapter.parameters():
                parameter.grad = None

        ratio, step, forward_backward = ratio_of_medians(ours, bare, ROUNDS)
        probe = DenoisingProbe(denoiser, data, plan.probe, plan.seed)
        started = time.perf_counter()
        probe.losses()
        probing = time.perf_counter() - started
        started = time.perf_counter()
        identity_probe.check(0)
        looking = time.perf_counter() - started
    share = probing / plan.probe.every + looking / plan.identity_probe.every
    return [
        Row(
            "training step / bare forward+backward",
            f"{ratio:.3f}",
            "<= 1.05",
            ratio <= 1.05,
            f"{step * 1e3:.0f} ms over {forward_backward * 1e3:.0f} ms, {ROUNDS} rounds in turn, batch {plan.batch}",
        ),
        Row(
            "probes / training step",
            f"{share / step:.3f}",
            "told apart",
            None,
            f"denoising probe {probing * 1e3:.0f} ms every {plan.probe.every} steps, "
            f"identity probe {looking * 1e3:.0f} ms every {plan.identity_probe.every}",
        ),
    ]
