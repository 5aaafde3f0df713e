"""ThreePassRender: anchor the identity, style the scene, rescue the drift (paper section 5.1)."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

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
    size_inputs,
    strength_input,
    threshold_input,
    told,
)


class ThreePassRender(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return schema(
            "ThreePassRender",
            display_name="Three-Pass Render",
            description="Pass 1 anchors the identity, pass 2 restyles the scene from a prompt, pass 3 brings back just "
            f"enough of the anchor's face. {DRIFT} A picture that misses the lock is shown with its drift.",
            search_aliases=["identity render", "anchor style rescue", "face consistency", "scene"],
            inputs=[
                *model_inputs(),
                identity_input(),
                seed_input("seed", "The locked seed, from Drift Seed Search; it is the seed of every pass."),
                prompt_input("anchor_prompt", "The prompt that the seed was locked with."),
                prompt_input("scene_prompt", "The scene, in plain words, with the person's words from the caption."),
                negative_input(),
                *size_inputs(),
                *sampling_inputs(),
                lora_input("The person's LoRA."),
                strength_input("anchor_strength", "LoRA strength in pass 1.", 1.0),
                cfg_input("anchor_cfg", "Guidance in pass 1.", 5.8),
                strength_input("style_strength", "LoRA strength in pass 2.", 0.85),
                cfg_input("style_cfg", "Guidance in pass 2.", 6.3),
                denoise_input("style_denoise", "How far pass 2 may leave the anchor off the face; 1 is freely.", 1.0),
                denoise_input(
                    "style_face_denoise", "The same on the face: lower keeps the face, higher follows the scene.", 0.55
                ),
                strength_input("rescue_strength", "LoRA strength in pass 3.", 0.90),
                cfg_input("rescue_cfg", "Guidance in pass 3.", 6.8),
                denoise_input("rescue_denoise", "How far pass 3 renders again to heal the seam; lower is less.", 0.25),
                blend_input(),
                threshold_input(advanced=True),
                prefix_input("three_pass"),
                given(
                    io.Image, "anchor", "A first pass rendered before, of the same seed and size, to spare its time.",
                    optional=True,
                ),
            ],
            outputs=[
                told(io.Image, "image", "The result of pass 3; also written to output/identity_lock/renders."),
                told(io.Image, "anchor", "Pass 1; wire it into the next scene's anchor."),
                told(io.Image, "styled", "Pass 2, before the rescue."),
                told(io.Float, "drift", "Drift of the result, by the recogniser that chooses; lower is more alike."),
                told(io.Boolean, "locked", "Whether that is at the threshold or below."),
                report_output(),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )  # fmt: skip

    @classmethod
    @guarded
    def execute(
        cls, model: Any, clip: Any, vae: Any, identity: Any, seed: int, anchor_prompt: str, scene_prompt: str,
        negative: str, width: int, height: int, steps: int, sampler: str, scheduler: str, anchor_strength: float,
        anchor_cfg: float, style_strength: float, style_cfg: float, style_denoise: float, style_face_denoise: float,
        rescue_strength: float, rescue_cfg: float, rescue_denoise: float, blend: float, threshold: float,
        file_prefix: str, lora: Any = None, anchor: Any = None,
    ) -> Any:  # fmt: skip
        from ..engines.comfy import ComfyEngine
        from ..rendering.log import Meters
        from ..rendering.passes import PassSpec
        from ..rendering.summary import drift_summary, passes_scored
        from ..rendering.three_pass import ThreePassSpec, render_three_pass

        sampling: dict[str, Any] = dict(negative=negative, steps=steps, sampler=sampler, scheduler=scheduler)
        spec = ThreePassSpec(
            anchor=PassSpec(anchor_prompt, strength=anchor_strength, cfg=anchor_cfg, **sampling),
            style=PassSpec(
                scene_prompt, strength=style_strength, cfg=style_cfg, denoise=style_denoise,
                face_denoise=style_face_denoise, **sampling,
            ),
            rescue=PassSpec(
                scene_prompt, strength=rescue_strength, cfg=rescue_cfg, denoise=rescue_denoise, **sampling
            ),
            blend=blend,
            threshold=threshold,
        )  # fmt: skip
        log, prefix = places.render_log(file_prefix, live.graph_text(cls.hidden))
        meters = Meters.of(identity)
        result = render_three_pass(
            ComfyEngine(model, clip, vae, progress=True), sockets.lora_weights(lora), identity, meters, seed, spec,
            (width, height), anchor=None if anchor is None else sockets.pictures(anchor, "anchor")[0],
        )  # fmt: skip
        path = log.write_next(result.final, prefix, result.record)
        scored = passes_scored(result, meters)
        report = drift_summary(scored, identity, threshold, [result.rescue.note, f"Written: {path}"])
        before = sockets.image_batch([result.anchor, result.styled])
        images = [*live.previews(before, identity.id), places.entry(path)]
        return io.NodeOutput(
            sockets.image_batch([result.final]),
            before[:1],
            before[1:],
            result.drift.value,
            result.locked,
            report,
            ui=live.shown(cls.hidden.unique_id, live.drifts(scored, threshold, report), images),
        )
