"""PhasedLoRATrainer: the four phases on the wired model (paper section 3.3)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from . import live, places, sockets
from .packages import guarded
from .schema import (
    SEED,
    Lora,
    given,
    identity_input,
    model_inputs,
    prompt_input,
    report_output,
    schema,
    seed_input,
    told,
)

PAPER, DEMO, QUICK = "paper", "demo base", "demo base, quick"
PHASES = ("coarse", "mid", "mid_fine", "final_fine")


class PhasedLoRATrainer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return schema(
            "PhasedLoRATrainer",
            display_name="Phased LoRA Trainer",
            description="Trains a LoRA of one person in four phases on the wired model, and keeps the weights with the "
            "lowest identity drift. Cancelling keeps the work: the same graph queued again goes on from there. The "
            "model itself is left unchanged.",
            search_aliases=["train lora", "dreambooth", "finetune", "face lora", "identity training"],
            inputs=[
                *model_inputs(),
                given(io.Image, "training_images", "Square pictures of the person: Face Prep's training_images."),
                given(
                    io.Mask, "face_masks", "1 on the face, where the loss counts in full; one a picture or one for all."
                ),
                identity_input(),
                prompt_input(
                    "caption", "What the pictures show. One line for all of them, or one line for each photo: the "
                    "lines divide the pictures evenly, in order.", default="photo of sks person",
                ),
                given(
                    io.String, "lora_name", "Name of the file in models/loras. The same training keeps its file; "
                    "another one under that name gets _2, _3, ...", default="identity",
                ),
                given(
                    io.Combo, "plan", "Phases, learning rates and losses: the paper's table, for Stable Diffusion and "
                    "its kin; or what the small Demo Model needs.", options=[PAPER, DEMO, QUICK], default=PAPER,
                ),
                given(
                    io.Int, "resolution", "Side of the pictures that are trained on, px; 0 is the model's own.",
                    default=0, min=0, max=2048, step=8,
                ),
                *(
                    given(
                        io.Int, f"steps_{phase}", f"At most so many steps in the {phase.upper()} phase, which may end "
                        "sooner on a plateau; 0 is the plan's.", default=0, min=0, max=20000,
                    )
                    for phase in PHASES
                ),
                given(
                    io.String, "probe_prompts", "Prompts, one a line, that are rendered now and then to measure the "
                    "drift by which the best weights are kept; empty is the first caption line.",
                    multiline=True, default="", advanced=True,
                ),
                given(
                    io.Int, "jitter_copies", "Slightly moved, turned, scaled copies of each picture; -1 is the plan's.",
                    default=-1, min=-1, max=64, advanced=True,
                ),
                given(
                    io.Int, "rank", "Rank of the LoRA; higher can hold more and makes a larger file; 0 is the plan's. "
                    "The alphas follow, so that alpha / rank stays.", default=0, min=0, max=256, advanced=True,
                ),
                given(
                    io.Combo, "layers", "Which layers get an adapter: attention projections, or all linear and "
                    "convolution layers.", options=["plan", "attention", "all"], default="plan", advanced=True,
                ),
                given(
                    io.Int, "batch", "Pictures a step; higher is steadier and needs more memory; 0 is the plan's.",
                    default=0, min=0, max=64, advanced=True,
                ),
                given(
                    io.Float, "learning_rate_scale", "Factor on every phase's learning rate; lower if the loss jumps.",
                    default=1.0, min=0.01, max=100.0, step=0.01, advanced=True,
                ),
                given(
                    io.Float, "background_weight", "Weight of the loss outside the face, from 0 to 1; lower leaves the "
                    "background to the prompt; 0 is the plan's.",
                    default=0.0, min=0.0, max=1.0, step=0.05, advanced=True,
                ),
                given(
                    io.Combo, "gradient_checkpointing", "On needs less memory and more time.",
                    options=["plan", "on", "off"], default="plan", advanced=True,
                ),
                seed_input("seed", "Of every random draw in the training.", advanced=True),
                given(
                    io.Mask, "valid_masks", "0 where a picture has no content, such as rotation corners: Face Prep's "
                    "valid_masks.", optional=True,
                ),
            ],
            outputs=[
                told(Lora, "lora", "For this pack's renders and for ComfyUI's Load LoRA Model."),
                told(io.String, "lora_name", "The file's name as Load LoRA lists it."),
                report_output(),
                told(io.Image, "plot", "Loss, denoising probe and identity drift over the steps."),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    @guarded
    def execute(
        cls, model: Any, clip: Any, vae: Any, training_images: Any, face_masks: Any, identity: Any, caption: str,
        lora_name: str, plan: str, resolution: int, steps_coarse: int, steps_mid: int, steps_mid_fine: int,
        steps_final_fine: int, probe_prompts: str, jitter_copies: int, rank: int, layers: str, batch: int,
        learning_rate_scale: float, background_weight: float, gradient_checkpointing: str, seed: int = SEED,
        valid_masks: Any = None,
    ) -> Any:  # fmt: skip
        import torch

        from ..engines.comfy import ComfyEngine
        from ..identity.photo import read_photo
        from ..rendering.log import Meters
        from ..training.phases import adjusted
        from ..training.session import captions_for, train_on
        from ..training.training_set import TrainingImage

        places.check_name(lora_name)
        with torch.inference_mode(False):  # what is made in it cannot be trained on
            pixels = sockets.pictures(training_images, "training_images")
            sizes = [(image.shape[0], image.shape[1]) for image in pixels]
            faces = sockets.mask_planes(face_masks, sizes, "face_masks")
            valid = sockets.mask_planes(valid_masks, sizes, "valid_masks")
            captions = captions_for(caption, len(pixels))
            rows = zip(pixels, faces, valid, captions, strict=True)
            pictures = [TrainingImage(*row) for row in rows]
            base, jitter = _plan(plan)
            wanted = adjusted(
                base,
                steps=(steps_coarse, steps_mid, steps_mid_fine, steps_final_fine),
                rank=rank,
                targets=None if layers == "plan" else layers,  # type: ignore[arg-type]
                batch=batch,
                rate=learning_rate_scale,
                background_weight=background_weight,
                gradient_checkpointing=None if gradient_checkpointing == "plan" else gradient_checkpointing == "on",
                seed=seed,
                probe_prompts=[line.strip() for line in probe_prompts.splitlines() if line.strip()] or captions[:1],
            )
            jitter = jitter if jitter_copies < 0 else replace(jitter, copies=jitter_copies)
            meters = Meters.of(identity)
            node_id = cls.hidden.unique_id
            bar = live.Bar(wanted.max_steps, node_id, saving=True)
            feed = live.TrainingFeed(live.sender(node_id), bar, wanted.max_steps)
            with live.keeping_work(feed):
                outcome = train_on(
                    ComfyEngine(model, clip, vae), pictures, captions, meters.selection, wanted, jitter,
                    lambda fingerprint: places.training_folder(lora_name, fingerprint), person=identity.person,
                    reporting=meters.reporting, name=lora_name, size=resolution or None, on_progress=feed,
                    should_stop=live.interrupted,
                )  # fmt: skip
            saved = places.save_lora(outcome.lora, lora_name)
        report = f"{outcome.summary()}\nLoRA: {saved} in models/loras"
        plot = sockets.image_batch([read_photo(outcome.plot).pixels])
        ui = live.shown(node_id, live.training_output(outcome.report, report))
        return io.NodeOutput(sockets.WiredLora(outcome.lora), saved, report, plot, ui=ui)


def _plan(choice: str) -> tuple[Any, Any]:
    """The plan, and the jitter that goes with it. Probe seeds are neighbours of the seeds that a search starts with,
    and none of them: the probe must not have chosen what the search then finds."""
    from ..demo.settings import DEMO_JITTER, DEMO_PLAN, demo_quick_plan
    from ..training.augment import JitterSpec
    from ..training.phases import PAPER_PLAN

    probe = replace(PAPER_PLAN.identity_probe, seeds=DEMO_PLAN.identity_probe.seeds)
    plans = {
        PAPER: (replace(PAPER_PLAN, identity_probe=probe), JitterSpec(copies=8)),
        DEMO: (DEMO_PLAN, DEMO_JITTER),
        QUICK: (demo_quick_plan(), DEMO_JITTER),
    }
    return plans[choice]
