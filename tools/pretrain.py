"""Train the demo base and its second look from rendered people (see tools/people).

    python -m tools.people dataset --out data/studio --people 1200 --views 6 --first-seed 0
    python -m tools.people dataset --out data/film --people 400 --views 6 --first-seed 0 --look film
    python -m tools.pretrain base --data data/studio --out assets/demo_base.safetensors --steps 12000
    python -m tools.pretrain look --data data/film --base assets/demo_base.safetensors \
        --out assets/demo_look.safetensors

Both are seeded and go on from their last checkpoint after a kill. One torch thread is faster here than two.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from identity_lock.engines import demo_base
from identity_lock.engines.noising import NoisingRule, discrete_rule

DROP_CAPTION = 0.10  # classifier-free guidance needs an unconditional model (Ho & Salimans 2022)
DROP_PHRASE = 0.15  # so that a prompt may leave things open
EMA_HORIZON = 0.998
MIRRORED = {"left": "right", "right": "left"}
EXTRA_WORDS = ("sks",)  # a word without a meaning: the subject's name
PREVIEWS = (
    "photo of a person, woman, warm light, green background, red shirt",
    "photo of a person, man, cool light, red background, white shirt",
    "photo of a person, man, golden hour field, blue shirt",
    "photo of a person, woman, rooftop at dusk, black shirt",
    "photo of a person, woman, spa garden, smiling",
    "photo of a person, man, indoor room, looking left",
    "photo of a person, neutral light, blue background, yellow shirt",
    "photo of a person, bright light, purple background, green shirt",
)


class RenderedPeople:
    """The pictures and captions that `tools.people dataset` wrote, served as seeded batches."""

    def __init__(self, folder: Path, zoom: float) -> None:
        self.zoom = zoom
        self.images = np.load(folder / "images.npy", mmap_mode="r")
        self.captions: list[list[str]] = json.loads((folder / "captions.json").read_text())

    def vocabulary(self) -> tuple[str, ...]:
        from tools.people import VOCABULARY

        return tuple(sorted(set(VOCABULARY) | set(EXTRA_WORDS)))

    def sample_pixels(self, count: int, seed: int) -> Tensor:
        rows = np.random.default_rng(seed).choice(len(self.images), min(count, len(self.images)), replace=False)
        return to_pixels(self.images[np.sort(rows)])

    def batch(self, step: int, size: int) -> tuple[Tensor, list[str]]:
        """Pixels (size, 3, 128, 128) in [-1, 1], mirrored and zoomed at random, and their captions."""
        rng = np.random.default_rng([7, step])
        rows = np.sort(rng.choice(len(self.images), size, replace=False))
        mirror = rng.random(size) < 0.5
        zoom = rng.uniform(1.0 - self.zoom, 1.0, size)
        shift = rng.uniform(-1.0, 1.0, (size, 2)) * (1.0 - zoom)[:, None]
        theta = torch.zeros(size, 2, 3)
        theta[:, 0, 0] = torch.from_numpy(np.where(mirror, -zoom, zoom))
        theta[:, 1, 1] = torch.from_numpy(zoom)
        theta[:, :, 2] = torch.from_numpy(shift)
        pixels = to_pixels(self.images[rows])
        grid = nn.functional.affine_grid(theta, list(pixels.shape), align_corners=False)
        pixels = nn.functional.grid_sample(pixels, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
        captions = [self._caption(self.captions[r], m, rng) for r, m in zip(rows, mirror, strict=True)]
        return pixels.clamp(-1.0, 1.0), captions

    @staticmethod
    def _caption(phrases: list[str], mirrored: bool, rng: np.random.Generator) -> str:
        if rng.random() < DROP_CAPTION:
            return ""
        kept = [p for p in phrases if rng.random() >= DROP_PHRASE] or phrases[:1]
        if mirrored:
            kept = [" ".join(MIRRORED.get(word, word) for word in phrase.split()) for phrase in kept]
        return ", ".join(kept)


def to_pixels(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float().div(127.5).sub(1.0)


def embed(text: demo_base.PhraseEncoder, captions: list[str]) -> Tensor:
    tokens = [text.tokenise(caption) for caption in captions]
    return text(torch.stack([t.ids for t in tokens]), torch.stack([t.phrases for t in tokens]))


def denoising_loss(unet: nn.Module, rule: NoisingRule, z: Tensor, context: Tensor, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(1_000_003 * 11 + step)
    # stratified over the batch: less variance for nothing
    u = (torch.rand(len(z), generator=generator) + torch.arange(len(z))) / len(z)
    t = (u * rule.steps).long().clamp(max=rule.steps - 1)
    eps = torch.randn(z.shape, generator=generator)
    output = unet(rule.add_noise(z, eps, t), t, context).sample
    error = (output - rule.target(z, eps, t)).square().mean((1, 2, 3))
    return (rule.loss_weight(t) * error).mean()


def learning_rate(step: int, steps: int, peak: float) -> float:
    return peak * min(1.0, (step + 1) / 100) * (0.5 * (1.0 + math.cos(math.pi * step / steps)) + 0.01)


def train(
    modules: nn.ModuleList,
    loss: Any,
    *,
    steps: int,
    until: int,
    peak: float,
    checkpoint: Path,
    preview: Any,
    every: int,
) -> nn.ModuleList:
    """AdamW with a cosine schedule of `steps`, run up to `until`; returns the moving average of `modules`."""
    parameters = [p for p in modules.parameters() if p.requires_grad]
    average = copy.deepcopy(modules)
    averaged = [a for a, p in zip(average.parameters(), modules.parameters(), strict=True) if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    first, running = 0, None
    if checkpoint.is_file():
        saved = torch.load(checkpoint, weights_only=True)
        modules.load_state_dict(saved["modules"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        first, running = saved["step"], saved["running"]
    bar = tqdm(range(first, until), initial=first, total=until, desc="pretrain", mininterval=20.0)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        value = loss(step)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        decay = min(EMA_HORIZON, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(averaged, parameters, 1.0 - decay)
        running = value.item() if running is None else 0.99 * running + 0.01 * value.item()
        bar.set_postfix(loss=f"{running:.4f}", refresh=False)
        if (step + 1) % every == 0 or step + 1 == until:
            state = dict(modules=modules.state_dict(), average=average.state_dict(), step=step + 1, running=running)
            temporary = checkpoint.with_suffix(".tmp")
            torch.save(state | {"optimizer": optimizer.state_dict()}, temporary)
            os.replace(temporary, checkpoint)
            preview(average, step + 1)
    return average


@torch.no_grad()
def preview_sheet(base: demo_base.DemoBase, path: Path, *, cfg: float = 2.0, steps: int = 12) -> None:
    """Eight prompts by four seeds, as a PNG to look at."""
    from PIL import Image

    scheduler = demo_base.new_scheduler()
    scheduler.set_timesteps(steps)
    context = embed(base.text, [p for p in PREVIEWS for _ in range(4)])
    empty = embed(base.text, [""]).expand(len(context), -1, -1)
    shape = (demo_base.LATENT_CHANNELS, 16, 16)
    rows = [torch.randn(shape, generator=torch.Generator().manual_seed(s)) for _ in PREVIEWS for s in range(4)]
    x = torch.stack(rows)
    for t in scheduler.timesteps:
        free, guided = base.unet(x, t, empty).sample, base.unet(x, t, context).sample
        x = scheduler.step(free + cfg * (guided - free), t, x).prev_sample
    pixels = base.codec.decode(x).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()
    sheet = pixels.reshape(len(PREVIEWS), 4, 128, 128, 3).transpose(1, 2, 0, 3, 4).reshape(4 * 128, -1, 3)
    Image.fromarray(sheet).save(path)


def pretrain_base(args: argparse.Namespace) -> None:
    torch.manual_seed(0)
    people = RenderedPeople(args.data, args.zoom)
    if args.init is None:
        codec = demo_base.PatchPCA.fit(people.sample_pixels(600, seed=3))
        text = demo_base.PhraseEncoder(people.vocabulary())
        unet = demo_base.new_unet()
    else:
        before = demo_base.load_demo_base(args.init)
        codec, text, unet = before.codec, before.text.requires_grad_(True), before.unet.requires_grad_(True)
    rule = discrete_rule("sample", demo_base.new_scheduler().alphas_cumprod)

    def loss(step: int) -> Tensor:
        pixels, captions = people.batch(step, args.batch)
        return denoising_loss(unet, rule, codec.encode(pixels), embed(text, captions), step)

    def assemble(modules: nn.ModuleList, step: int) -> demo_base.DemoBase:
        metadata = {
            "steps": str(step),
            "began_from": "noise" if args.init is None else args.init.name,
            "pictures": str(len(people.images)),
            "batch": str(args.batch),
        }
        return demo_base.DemoBase(modules[0].eval(), codec, modules[1].eval(), metadata)  # type: ignore[arg-type]

    def preview(modules: nn.ModuleList, step: int) -> None:
        base = assemble(modules, step)
        preview_sheet(base, args.work / f"preview_{step:06d}.png")
        demo_base.save_demo_base(base, args.work / "latest.safetensors")

    average = train(
        nn.ModuleList([unet, text]),
        loss,
        steps=args.steps,
        until=args.until or args.steps,
        peak=args.lr,
        checkpoint=args.work / "checkpoint.pt",
        preview=preview,
        every=args.every,
    )
    demo_base.save_demo_base(assemble(average, args.until or args.steps), args.out)


def pretrain_look(args: argparse.Namespace) -> None:
    """The second base, as a low-rank delta of the first: the same people and captions in another render look."""
    from identity_lock.engines.diffusers import open_demo_base
    from identity_lock.engines.lora_file import LoraWeights, write_lora
    from identity_lock.training.lora import adapted

    people = RenderedPeople(args.data, args.zoom)
    engine = open_demo_base(args.base)
    codec, text = engine.codec.module, engine.text.module
    options = dict(rank=args.rank, alpha=args.rank, targets="all", seed=0)
    with engine.trainable() as denoiser, adapted(denoiser, **options) as lora:

        def loss(step: int) -> Tensor:
            pixels, captions = people.batch(step, args.batch)
            return denoising_loss(engine.unet, engine.rule, codec.encode(pixels), embed(text, captions), step)

        def preview(modules: nn.ModuleList, step: int) -> None:
            base = demo_base.DemoBase(modules[0], codec, text, {})  # type: ignore[arg-type]
            preview_sheet(base, args.work / f"look_{step:06d}.png")

        average = train(
            nn.ModuleList([engine.unet]),
            loss,
            steps=args.steps,
            until=args.steps,
            peak=args.lr,
            checkpoint=args.work / "look_checkpoint.pt",
            preview=preview,
            every=args.every,
        )
        engine.unet.load_state_dict(average[0].state_dict())
        pictures = str(len(people.images))
        metadata = {"format": "identity-lock-demo-look/1", "steps": str(args.steps), "pictures": pictures}
        delta: LoraWeights = lora.export("demo_look", metadata, torch.float16)
    write_lora(delta, args.out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    base = commands.add_parser("base", help="train the demo base from scratch")
    base.set_defaults(run=pretrain_base)
    base.add_argument("--init", type=Path, help="a demo base to go on from instead of noise")
    base.add_argument("--until", type=int, help="end here, before the schedule of --steps does")
    look = commands.add_parser("look", help="train the second look as a delta of the base")
    look.set_defaults(run=pretrain_look)
    look.add_argument("--base", type=Path, required=True)
    look.add_argument("--rank", type=int, default=16)
    for command in (base, look):
        command.add_argument("--data", type=Path, required=True)
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--work", type=Path, default=Path("build/pretrain"), help="checkpoints and previews")
        command.add_argument("--steps", type=int, default=12000)
        command.add_argument("--batch", type=int, default=8)
        command.add_argument("--every", type=int, default=500)
        command.add_argument("--threads", type=int, default=1)
        command.add_argument("--lr", type=float, default=1e-3, help="peak learning rate")
        command.add_argument("--zoom", type=float, default=0.04, help="pictures are enlarged by up to this share")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    started = time.time()
    args.run(args)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB after {(time.time() - started) / 60:.0f} min")


if __name__ == "__main__":
    main()
