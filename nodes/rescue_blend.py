"""RescueBlend: bring back just enough of the anchor's face in any picture (paper section 5.1, phase 3)."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..errors import RenderError
from . import live, places, sockets
from .packages import guarded
from .schema import (
    DRIFT,
    blend_input,
    cfg_input,
    denoise_input,
    given,
    identity_input,
    lora_input,
    model_inputs,
    negative_input,
    prefix_input,
    prompt_input,
    report_output,
    sampling_inputs,
    schema,
    seed_input,
    strength_input,
    threshold_input,
    told,
)


class RescueBlend(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return schema(
            "RescueBlend",
            display_name="Rescue Blend",
            description="Blends the anchor's face into a styled picture, inside a soft face mask, as little as reaches "
            f"the lock. {DRIFT} Pixels outside the mask stay as they are; where the poses differ too far it says so "
            "and changes nothing.",
            search_aliases=["face blend", "face fix", "restore face", "identity rescue", "laplacian blend"],
            inputs=[
                given(io.Image, "styled", "The pictures to rescue. Their count and order are kept."),
                given(io.Image, "anchor", "A picture of the right face: one for all, or one for each."),
                identity_input(),
                blend_input(),
                threshold_input(advanced=True),
                *model_inputs(optional=True),
                lora_input("The person's LoRA, for healing."),
                seed_input("seed", "Of the healing pass: the locked seed."),
                prompt_input("prompt", "Of the healing pass: the scene's prompt."),
                negative_input(),
                strength_input("strength", "LoRA strength of the healing pass.", 0.90),
                cfg_input("cfg", "Guidance of the healing pass.", 6.8),
                denoise_input("denoise", "How far the healing pass renders again; lower is less.", 0.25),
                *sampling_inputs(),
                prefix_input("rescue"),
            ],
            outputs=[
                told(io.Image, "image", "The rescued pictures, in the order given; also written to output."),
                told(io.Float, "drift_before", "The highest drift before; lower is more alike."),
                told(io.Float, "drift_after", "The highest drift after."),
                told(io.Mask, "mask", "Where pixels were changed; 0 elsewhere, and all 0 where nothing was blended."),
                report_output(),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )  # fmt: skip

    @classmethod
    @guarded
    def execute(
        cls, styled: Any, anchor: Any, identity: Any, blend: float, threshold: float, seed: int, prompt: str,
        negative: str, strength: float, cfg: float, denoise: float, steps: int, sampler: str, scheduler: str,
        file_prefix: str, model: Any = None, clip: Any = None, vae: Any = None, lora: Any = None,
    ) -> Any:  # fmt: skip
        from ..rendering.log import Meters
        from ..rendering.passes import PassSpec
        from ..rendering.rescue import rescue_picture
        from ..rendering.summary import drift_summary, rescue_notes, rescues_scored

        pixels, anchors = sockets.pictures(styled, "styled"), sockets.pictures(anchor, "anchor")
        if len(anchors) not in (1, len(pixels)):
            raise RenderError(
                f"The input anchor holds {len(anchors)} pictures and styled {len(pixels)}; give one anchor, or one for "
                "each styled picture."
            )
        anchors = anchors if len(anchors) == len(pixels) else anchors * len(pixels)
        engine = _engine(model, clip, vae)
        healing = PassSpec(prompt, negative, strength, cfg, steps, sampler, scheduler, denoise)
        log, prefix = places.render_log(file_prefix, live.graph_text(cls.hidden))
        meters = Meters.of(identity)
        weights = sockets.lora_weights(lora)
        rescued, images = [], []
        bar = live.Bar(len(pixels), cls.hidden.unique_id)
        for image, face in zip(pixels, anchors, strict=True):
            result = rescue_picture(
                image, face, identity, meters, seed, cap=blend, threshold=threshold, engine=engine,
                healing=None if engine is None else healing, lora=weights,
            )  # fmt: skip
            rescued.append(result)
            path = log.write_next(result.rescue.image, prefix, result.record)
            images += [*live.previews(sockets.image_batch([image]), identity.id), places.entry(path)]
            bar(len(rescued), len(pixels))
        scored = rescues_scored(rescued)
        notes = [*rescue_notes(rescued), f"Written: {log.folder}"]
        report = drift_summary(scored, identity, threshold, notes)
        return io.NodeOutput(
            sockets.image_batch([result.rescue.image for result in rescued]),
            max(result.rescue.before.value for result in rescued),
            max(result.rescue.after.value for result in rescued),
            sockets.mask_batch([result.rescue.mask for result in rescued]),
            report,
            ui=live.shown(cls.hidden.unique_id, live.drifts(scored, threshold, report), images),
        )


def _engine(model: Any, clip: Any, vae: Any) -> Any:
    wired = [part is not None for part in (model, clip, vae)]
    if not any(wired):
        return None
    if not all(wired):
        raise RenderError("Healing needs all of model, clip and vae; wire in the missing ones, or none of the three.")
    from ..engines.comfy import ComfyEngine

    return ComfyEngine(model, clip, vae, progress=True)
