"""Each sampler through the engine against plain KSampler runs. engine_sampling.py demo|CHECKPOINT [SAMPLER,...]"""

import json
import sys

from engine_models import Logged, apart, opened, request

# isort: split

import comfy.sample
import numpy as np
import torch

from identity_lock.engines.comfy import ComfyEngine
from identity_lock.errors import RenderError


def main(which, names=None):
    engine = ComfyEngine(*opened(which))
    names = names.split(",") if names else engine.samplers
    print(
        json.dumps(
            {
                "card": vars(engine.card),
                "samplers": {name: rows(engine, name) for name in names},
                "masked": masked(engine),
                "denoise": denoised(engine),
                "ended": ended(engine),
                "refused": refused(engine),
                "round_trip": round_trip(engine),
            }
        )
    )


def plain(engine, seed, sampler, **changes):
    """What KSampler makes of one seed, in model space."""
    asked = request(engine, **changes)
    model = engine._model
    empty = torch.zeros(1, 4, asked.height // 8, asked.width // 8)
    with torch.inference_mode():
        latent = comfy.sample.fix_empty_latent_channels(model, empty)
        made = comfy.sample.sample(
            model, comfy.sample.prepare_noise(latent, seed), asked.steps, asked.cfg, sampler, asked.scheduler,
            asked.positive.data, asked.negative.data, latent, denoise=1.0, seed=seed, disable_pbar=True,
        )  # fmt: skip
        made = model.model.process_latent_in(made)
    return made.clone()


def rows(engine, name):
    asked = request(engine, sampler=name)
    alone = torch.cat([plain(engine, seed, name) for seed in asked.seeds])
    single = engine.sample(request(engine, sampler=name, seeds=asked.seeds[:1])).latents
    batch = engine.sample(asked).latents
    views = []

    def drop_the_second(view):
        views.append((view.step, view.total, view.rows, len(view.x0)))
        return [row for row in view.rows if row != 1 or view.step < 2]

    dropped = engine.sample(asked, drop_the_second)
    return {
        "single": float((single - alone[:1]).abs().max()),
        "batch": apart(batch, alone),
        "dropped": apart(dropped.latents, batch[[0, 2]]),
        "kept": dropped.rows,
        "views_fit": all(len(rows) == count for _, _, rows, count in views),
    }


def masked(engine):
    """Left half kept, right half sampled, and a soft mask between."""
    start = engine.encode_images([np.full((128, 128, 3), 90, np.uint8)])
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 8:] = 1.0
    seen = []
    made = engine.sample(request(engine, init=start, mask=mask, seeds=(1, 2)), lambda v: seen.append(v.x0)).latents
    free = engine.sample(request(engine, init=start, mask=torch.ones_like(mask), seeds=(1,))).latents
    whole = engine.sample(request(engine, init=start, seeds=(1,))).latents
    nothing = engine.sample(request(engine, init=start, mask=torch.zeros_like(mask), seeds=(1,))).latents
    soft = engine.sample(request(engine, init=start, mask=mask * 0.5, seeds=(1,))).latents
    return {
        "kept_half": float((made - start)[..., :8].abs().max()),
        "changed_half": float((made - start)[..., 8:].abs().mean()),
        "previews_kept_half": float((seen[1] - start)[..., :8].abs().max()),
        "mask_of_ones": apart(free, whole),
        "mask_of_zeros": float((nothing - start).abs().max()),
        "soft_changed": float((soft - start)[..., 8:].abs().mean()),
    }


def denoised(engine):
    start = engine.encode_images([np.full((128, 128, 3), 90, np.uint8)])
    return [
        float((engine.sample(request(engine, init=start, denoise=share, seeds=(5,))).latents - start).abs().mean())
        for share in (0.1, 0.5, 1.0)
    ]


def ended(engine):
    """A callback that keeps nothing, one that fails, and a run after them."""
    before = engine.sample(request(engine)).latents
    steps = []
    nothing = engine.sample(request(engine), lambda view: steps.append(view.step) or [])
    try:
        engine.sample(request(engine), lambda view: 1 / 0)
        failed = False
    except ZeroDivisionError:
        failed = True
    return {
        "rows": nothing.rows,
        "steps": steps,
        "shape": list(nothing.latents.shape),
        "failed": failed,
        "same_afterwards": torch.equal(before, engine.sample(request(engine)).latents),
    }


def refused(engine):
    found = {}
    for name, changes in {
        "size": {"width": 130},
        "sampler": {"sampler": "magic"},
        "scheduler": {"scheduler": "magic"},
        "seeds": {"seeds": ()},
        "mask": {"mask": torch.ones(1, 1, 16, 16)},
    }.items():
        try:
            engine.sample(request(engine, **changes))
            found[name] = None
        except RenderError as error:
            found[name] = str(error)
    return found


def round_trip(engine):
    picture = np.kron(np.random.default_rng(0).integers(40, 200, (16, 16, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    back = engine.decode_latents(engine.encode_images([picture, picture]))
    return {"count": len(back), "shape": back[0].shape, "levels": float(np.abs(back[0] * 1.0 - picture).mean())}


if __name__ == "__main__":
    logged = Logged()
    main(*sys.argv[1:])
