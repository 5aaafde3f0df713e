"""DemoModelLoader: the shipped demo base as native MODEL, CLIP and VAE."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .packages import guarded
from .schema import given, schema, told


class DemoModelLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return schema(
            "DemoModelLoader",
            display_name="Demo Model Loader",
            description="A small face model that comes with this pack, so that its graphs run on a machine with no "
            "checkpoint at all. For pictures of your own, wire in a checkpoint loader instead.",
            search_aliases=["example model", "test checkpoint", "tiny model"],
            inputs=[
                given(
                    io.Combo, "look", "'studio' is the base itself; 'film' is its second look, for Two-Pass Stylize.",
                    options=["studio", "film"], default="studio",
                )
            ],
            outputs=[
                told(io.Model, "model", "A 128 px face model; use sampler ddim, scheduler simple, 8 steps, cfg 1.5."),
                told(io.Clip, "clip", "Its text encoder, which knows a closed list of words."),
                told(io.Vae, "vae", "Its VAE."),
            ],
        )  # fmt: skip

    @classmethod
    @guarded
    def execute(cls, look: str) -> Any:
        from ..engines.comfy_demo import load_demo

        return io.NodeOutput(*load_demo(look))
