"""One of the two trainers, in a process of its own and in ComfyUI's Python.

one_trainer.py ours|native CHECKPOINT SIZE default|attention|all checkpointed|plain BLOCKS STEPS

Every line that it reads from stdin is its turn: it trains STEPS steps and writes, as a JSON list, the seconds of each:
[by the clock, of the processor]. After BLOCKS turns it writes a JSON object: what it trained, and its memory.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import on_cpu  # noqa: F401  (tests/host/inside; before anything else of ComfyUI)

# isort: split

import comfy.sd
import numpy as np
import torch
from comfy_extras import nodes_train

from identity_lock.demo.subjects import synthetic
from identity_lock.identity.faces import default_detector
from identity_lock.identity.identity import build_identity
from identity_lock.identity.prepare import PrepSettings, prepare_all
from identity_lock.training.augment import JitterSpec, training_images
from identity_lock.training.lora import target_modules
from identity_lock.training.phases import PAPER_PLAN

RANK, LEARNING_RATE = PAPER_PLAN.rank, 5e-4  # TrainLoraNode's own rate


class Turns:
    """Lets a block of steps begin only when it is this trainer's turn, and takes the time of each step."""

    def __init__(self, answers: TextIO, blocks: int, steps: int) -> None:
        self._answers, self._blocks, self._steps = answers, blocks, steps
        self._seconds: list[tuple[float, float]] = []

    def wait(self) -> None:
        if not sys.stdin.readline():
            raise SystemExit("nobody waits for an answer any more")
        self._start()

    def _start(self) -> None:
        self._clock, self._processor = time.perf_counter(), time.process_time()

    def step_done(self) -> None:
        self._seconds.append((time.perf_counter() - self._clock, time.process_time() - self._processor))
        if len(self._seconds) == self._steps:
            self.answer(self._seconds)
            self._seconds, self._blocks = [], self._blocks - 1
            if self._blocks:
                self.wait()
        self._start()

    def answer(self, what: object) -> None:
        print(json.dumps(what), file=self._answers, flush=True)


class Memory:
    """Resident memory of this process in MiB, and its peak since the last mark (Linux)."""

    @staticmethod
    def _status(field: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field + ":"))

    def mark(self) -> float:
        """What is held now, without what Python and malloc keep for later; the peak counts from here on."""
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        return self._status("VmRSS")

    def peak(self) -> float:
        """As getrusage's ru_maxrss, which would still know the loading of the checkpoint."""
        return self._status("VmHWM")


class Task:
    """The wired objects and what to learn: the synthetic subject's two faces at the given size, with their captions."""

    def __init__(self, checkpoint: str, size: int) -> None:
        self.model, self.clip, self.vae = comfy.sd.load_checkpoint_guess_config(
            checkpoint, output_vae=True, output_clip=True
        )[:3]
        subject = synthetic()
        self.photos = subject.read()
        prepared = prepare_all(self.photos, default_detector(), PrepSettings(size=size))
        self.images = training_images(prepared, [subject.photos[face.source] for face in prepared], size, JitterSpec())
        self.identity = build_identity(self.photos, name=subject.name, consent=subject.consent)
        for parameter in self.model.model.parameters():
            float(parameter.sum())  # a file that is only mapped is not in memory before it is read


def kinds(modules: Iterable[torch.nn.Module]) -> dict[str, int]:
    return dict(Counter(type(module).__name__ for module in modules))


def train_ours(task: Task, layers: str, checkpointed: bool, memory: Memory, turns: Turns, steps: int) -> dict[str, Any]:
    from identity_lock.engines.comfy import ComfyEngine
    from identity_lock.rendering.log import Meters
    from identity_lock.training.loop import _Run
    from identity_lock.training.lora import adapted
    from identity_lock.training.optimizers import make_optimizer
    from identity_lock.training.probes import IdentityProbe
    from identity_lock.training.training_set import build_training_set

    plan = replace(PAPER_PLAN, gradient_checkpointing=checkpointed)
    if layers != "default":
        plan = replace(plan, targets=layers)  # type: ignore[arg-type]
    phase = plan.phases[0]
    size = task.images[0].pixels.shape[0]
    engine = ComfyEngine(task.model, task.clip, task.vae)
    data = build_training_set(engine, task.images, background_weight=plan.background_weight)
    meter = Meters.of(task.identity).selection
    held = memory.mark()

    import peft  # noqa: F401

    libraries = memory.mark() - held
    with engine.trainable() as denoiser, tempfile.TemporaryDirectory() as folder:
        if plan.gradient_checkpointing:
            denoiser.checkpoint_gradients()
        trained = [denoiser.module.get_submodule(name) for name in target_modules(denoiser.module, plan.targets)]
        with adapted(denoiser, rank=plan.rank, alpha=phase.alpha, targets=plan.targets, seed=plan.seed) as adapter:
            probe = IdentityProbe(engine, meter, plan.identity_probe, size, None)
            run = _Run(engine, data, meter, plan, Path(folder), size, probe, None, lambda: False)
            run.denoiser, run.adapter = denoiser, adapter
            run.optimizer = make_optimizer(phase.optimizer, adapter.parameters(), phase.lr)
            turns.wait()
            for _ in range(steps):
                run._step(phase)
                run.position.step += 1
                run.position.phase_step += 1
                turns.step_done()
            peak = memory.peak()
            parameters = sum(parameter.numel() for parameter in adapter.parameters())
    return {
        "kinds": kinds(trained), "offsets": {}, "parameters": parameters,
        "held": held, "peak": peak, "libraries": libraries,
    }  # fmt: skip


def train_native(
    task: Task, layers: str, checkpointed: bool, memory: Memory, turns: Turns, steps: int
) -> dict[str, Any]:
    pixels = torch.from_numpy(np.stack([image.pixels for image in task.images])).float().div(255.0)
    latents = {"samples": task.vae.encode(pixels)}
    positive = [encoded(task.clip, image.caption) for image in task.images]
    if layers != "default":
        restrict_native(target_modules(task.model.model.diffusion_model, layers))  # type: ignore[arg-type]
    nodes_train.ProgressBar = lambda total: _StepBar(turns)
    held = memory.mark()
    options = dict(
        batch_size=1, steps=steps, grad_accumulation_steps=1, learning_rate=LEARNING_RATE, rank=RANK,
        optimizer="AdamW", loss_function="MSE", seed=0, training_dtype="fp32", lora_dtype="fp32", algorithm="LoRA",
        gradient_checkpointing=checkpointed, checkpoint_depth=1, offloading=False, existing_lora="[None]",
        bucket_mode=False, bypass_mode=False,
    )  # fmt: skip
    turns.wait()
    output = nodes_train.TrainLoraNode.execute(
        model=[task.model], latents=[latents], positive=positive, **{name: [value] for name, value in options.items()}
    )
    peak = memory.peak()
    weights, lora = dict(task.model.model.named_modules()), output.result[0]

    def having(ending: str) -> dict[str, int]:
        return kinds(weights[key.removesuffix(ending)] for key in lora if key.endswith(ending))

    return {
        "kinds": having(".lora_up.weight"),
        "offsets": {"norm weights": sum(having(".diff").values()), "biases": sum(having(".diff_b").values())},
        "parameters": sum(value.numel() for key, value in lora.items() if not key.endswith(".alpha")),
        "held": held, "peak": peak, "libraries": 0.0,
    }  # fmt: skip


class _StepBar:
    """In place of TrainLoraNode's progress bar, which it moves once at the end of every step."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def update(self, value: int) -> None:
        self._turns.step_done()


def restrict_native(names: list[str]) -> None:
    """TrainLoraNode has no choice of layers: its loop over all of them is replaced by one over these weights."""

    def chosen(mp: Any, existing: Any, algorithm: str, dtype: torch.dtype, rank: int) -> tuple[dict, list]:
        parameters, adapters = {}, []
        for name in names:
            key = f"diffusion_model.{name}"
            adapter, own = nodes_train._create_weight_adapter(
                mp.model.get_submodule(key), key, existing, algorithm, dtype, rank
            )
            mp.add_weight_wrapper(f"{key}.weight", adapter)
            parameters.update(own)
            adapters.append(adapter)
        return parameters, adapters

    nodes_train._setup_lora_adapters = chosen


def encoded(clip: Any, prompt: str) -> Any:
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))


def main(which: str, checkpoint: str, size: str, layers: str, checkpointing: str, blocks: str, steps: str) -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # what ComfyUI prints is not for the one who reads the answers
    turns = Turns(answers, int(blocks), int(steps))
    # Loaded in ordinary mode: autograd refuses ComfyUI's inference tensors where a layer has no adapter, and
    # TrainLoraNode on chosen layers would stop there. The rest runs in inference mode, as nodes do.
    task = Task(checkpoint, int(size))
    train = {"ours": train_ours, "native": train_native}[which]
    with torch.inference_mode():
        found = train(task, layers, checkpointing == "checkpointed", Memory(), turns, int(blocks) * int(steps))
    turns.answer(found)


if __name__ == "__main__":
    main(*sys.argv[1:])
