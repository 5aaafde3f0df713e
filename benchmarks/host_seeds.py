"""The same LoRA and seeds on the embedded engine and on ComfyUI's own MODEL, CLIP and VAE: drift, seed by seed.

Needs a ComfyUI: COMFYUI_PATH=... COMFYUI_PYTHON=... python -m benchmarks host_seeds [--lora FILE].
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch

from identity_lock.engines.lora_file import write_lora
from identity_lock.engines.protocol import SampleRequest
from identity_lock.identity.identity import save_identity
from identity_lock.tests.host.comfyui import find_comfyui
from identity_lock.tests.host.server import host_environment, link_pack

from .common import Bench, Row

SEEDS = 64
GOAL = 0.02
SCRIPT = Path(__file__).parent / "inside" / "seed_by_seed.py"


def measure(bench: Bench) -> list[Row]:
    comfy = find_comfyui()
    if comfy is None:
        raise SystemExit("host_seeds needs a ComfyUI: set COMFYUI_PATH, and COMFYUI_PYTHON to its Python.")
    search, lora = bench.spec.search, bench.trained()
    render = search.render
    seeds = list(range(search.first_seed, search.first_seed + SEEDS))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_lora(lora, folder / "lora.safetensors")
        save_identity(bench.identity, folder / "identity.safetensors")
        asked = render.describe() | {"seeds": seeds, "size": bench.spec.size, "batch": search.batch}
        (folder / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
        package = link_pack(folder / "package")
        paths = os.pathsep.join(map(str, (comfy.path, package.parent, package / "tests" / "host" / "inside")))
        answer = subprocess.run(
            [str(comfy.python), str(SCRIPT), str(folder)],
            cwd=comfy.path,
            env=host_environment(comfy, PYTHONPATH=paths, OMP_NUM_THREADS=str(torch.get_num_threads())),
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
    theirs = np.array([row[0] for row in json.loads(answer.stdout.splitlines()[-1])])
    engine, ours = bench.engine, []
    for start in range(0, SEEDS, search.batch):
        request = SampleRequest(
            engine.encode_prompt(render.prompt),
            engine.encode_prompt(render.negative),
            tuple(seeds[start : start + search.batch]),
            bench.spec.size,
            bench.spec.size,
            render.steps,
            render.cfg,
            render.sampler,
            render.scheduler,
            lora=lora,
            strength=render.strength,
        )
        pictures = engine.decode_latents(engine.sample(request).latents)
        ours += [drift.value for drift in bench.meters.selection.measure(pictures)]
    here = np.array(ours)
    apart = abs(here - theirs)
    best = abs(float(here.min()) - float(theirs.min()))
    detail = f"best {theirs.min():.3f} on ComfyUI {comfy.version}, {here.min():.3f} embedded; {SEEDS} seeds, same LoRA"
    return [
        Row("best drift on ComfyUI / embedded, apart", f"{best:.4f}", f"<= {GOAL}", best <= GOAL, detail),
        Row(
            "drift seed by seed, apart: mean",
            f"{apart.mean():.4f}",
            "-",
            None,
            f"at most {apart.max():.4f}; {'the same' if here.argmin() == theirs.argmin() else 'another'} seed is best",
        ),
    ]
