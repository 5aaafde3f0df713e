"""Steps that the adaptive run spends until its kept LoRA, over the best fixed number of steps found in hindsight."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from identity_lock.training.loop import train

from .common import Bench, Row


def measure(bench: Bench) -> list[Row]:
    plan = bench.spec.plan
    endless = replace(plan, plateau=replace(plan.plateau, min_checks=10**6))  # never a plateau: every budget is used up
    reports = {}
    for name, chosen in (("adaptive", plan), ("fixed", endless)):
        with tempfile.TemporaryDirectory() as folder:
            _, reports[name] = train(
                bench.engine, bench.data, bench.meters.selection, chosen, Path(folder), size=bench.spec.size
            )
    adaptive, fixed = reports["adaptive"], reports["fixed"]
    return [
        Row(
            "steps to the kept LoRA / best fixed steps",
            f"{adaptive.best_step / max(1, fixed.best_step):.2f}",
            "about 1",
            None,
            f"kept at step {adaptive.best_step} of {adaptive.steps} run (drift {adaptive.best_drift:.3f}); "
            f"in hindsight {fixed.best_step} of {fixed.steps} (drift {fixed.best_drift:.3f})",
        ),
        Row(
            "steps run / budget",
            f"{adaptive.steps / fixed.steps:.2f}",
            "-",
            None,
            "; ".join(f"{p.name} {p.last_step - p.first_step}" for p in adaptive.phases),
        ),
    ]
