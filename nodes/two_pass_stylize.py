"""TwoPassStylize: the identity from one base, the realism of another (paper section 5.2)."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from . import live, places, sockets
from .packages import guarded
from .schema import (
    DRIFT,
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
    size_inputs,
    strength_input,
    threshold_input,
    told,
)


class TwoPassStylize(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return schema(
            "TwoPassStylize",
            display_name="Two-Pass Stylize",
            description="Pass 1 anchors the identity with the LoRA; pass 2 renders on a second model, of any "
            f"architecture, from the anchor's pixels. {DRIFT}",
            search_aliases=["second model", "img2img identity", "realism pass", "refine face"],
            inputs=[
                *model_inputs(),
                given(io.Model, "style_model", "The second diffusion model, whose look the picture gets."),
                given(io.Clip, "style_clip", "The text encoder of the second model."),
                given(io.Vae, "style_vae", "The VAE of the second model."),
                identity_input(),
                seed_input("seed", "The locked seed, from Drift Seed Search; it is the seed of both passes."),
                prompt_input("anchor_prompt", "The prompt that the seed was locked with."),
                prompt_input("scene_prompt", "The scene, in plain words."),
                negative_input(),
                *size_inputs(),
                given(
                    io.Int, "style_width", "Width of the second pass, px; 0 is the anchor's.",
                    default=0, min=0, max=4096, step=8,
                ),
                given(
                    io.Int, "style_height", "Height of the second pass, px; 0 is the anchor's.",
                    default=0, min=0, max=4096, step=8,
                ),
                *sampling_inputs(),
                lora_input("The person's LoRA, for pass 1 only."),
                strength_input("anchor_strength", "LoRA strength in pass 1.", 1.0),
                cfg_input("anchor_cfg", "Guidance in pass 1.", 5.8),
                cfg_input("style_cfg", "Guidance in pass 2.", 6.3),
                denoise_input("style_denoise", "How far pass 2 may leave the anchor off the face; 1 is freely.", 0.55),
                denoise_input(
                    "style_face_denoise", "The same on the face: lower keeps the face, higher follows the look.", 0.30
                ),
                threshold_input(advanced=True),
                prefix_input("two_pass"),
                given(io.Image, "anchor", "A first pass rendered before, to spare its time.", optional=True),
            ],
            outputs=[
                told(io.Image, "image", "The result; also written to output/identity_lock/renders."),
                told(io.Float, "drift", "Its drift, by the recogniser that chooses; lower is more alike."),
                told(io.Boolean, "locked", "Whether that is at the threshold or below."),
                report_output(),
                told(io.Image, "anchor", "Pass 1; wire it into the next scene's anchor."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )  # fmt: skip

    @classmethod
    @guarded
    def execute(
        cls, model: Any, clip: Any, vae: Any, style_model: Any, style_clip: Any, style_vae: Any, identity: Any,
        seed: int, anchor_prompt: str, scene_prompt: str, negative: str, width: int, height: int, style_width: int,
        style_height: int, steps: int, sampler: str, scheduler: str, anchor_strength: float, anchor_cfg: float,
        style_cfg: float, style_denoise: float, style_face_denoise: float, threshold: float, file_prefix: str,
        lora: Any = None, anchor: Any = None,
    ) -> Any:  # fmt: skip
        from ..engines.comfy import ComfyEngine
        from ..rendering.log import Meters
        from ..rendering.passes import PassSpec
        from ..rendering.summary import drift_summary, two_passes_scored
        from ..rendering.two_pass import TwoPassSpec, render_two_pass

        sampling: dict[str, Any] = dict(negative=negative, steps=steps, sampler=sampler, scheduler=scheduler)
        spec = TwoPassSpec(
            anchor=PassSpec(anchor_prompt, strength=anchor_strength, cfg=anchor_cfg, **sampling),
            style=PassSpec(
                scene_prompt, cfg=style_cfg, denoise=style_denoise, face_denoise=style_face_denoise, **sampling
            ),
            threshold=threshold,
        )
        given_anchor = None if anchor is None else sockets.pictures(anchor, "anchor")[0]
        own = (width, height) if given_anchor is None else (given_anchor.shape[1], given_anchor.shape[0])
        log, prefix = places.render_log(file_prefix, live.graph_text(cls.hidden))
        meters = Meters.of(identity)
        result = render_two_pass(
            ComfyEngine(model, clip, vae, progress=True),
            ComfyEngine(style_model, style_clip, style_vae, progress=True),
            sockets.lora_weights(lora), identity, meters, seed, spec, (width, height),
            (style_width or own[0], style_height or own[1]), anchor=given_anchor,
        )  # fmt: skip
        path = log.write_next(result.image, prefix, result.record)
        scored = two_passes_scored(result, meters)
        report = drift_summary(scored, identity, threshold, [f"Written: {path}"])
        first = sockets.image_batch([result.anchor])
        return io.NodeOutput(
            sockets.image_batch([result.image]),
            result.drift.value,
            result.locked,
            report,
            first,
            ui=live.shown(
                cls.hidden.unique_id,
                live.drifts(scored, threshold, report),
                [*live.previews(first, identity.id), places.entry(path)],
            ),
        )
