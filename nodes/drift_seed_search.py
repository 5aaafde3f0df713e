"""DriftSeedSearch: render many seeds, measure each, give the best (paper section 4)."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from . import live, places, sockets
from .packages import guarded
from .schema import (
    DRIFT,
    cfg_input,
    given,
    identity_input,
    lora_input,
    model_inputs,
    negative_input,
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


class DriftSeedSearch(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return schema(
            "DriftSeedSearch",
            display_name="Drift Seed Search",
            description="Renders many seeds of one prompt, measures the drift of each face, and gives the best. "
            f"{DRIFT} Each seed gives the same picture in a plain KSampler. Cancelling keeps what is finished.",
            search_aliases=["find seed", "best seed", "seed lock", "face similarity", "batch seeds"],
            inputs=[
                *model_inputs(),
                identity_input(),
                prompt_input("prompt", "What to render; use the words of the training's caption for the person."),
                negative_input(),
                *size_inputs(),
                *_steps_and_cfg(),
                seed_input("first_seed", "The search looks at this seed and the ones after it."),
                given(io.Int, "count", "How many seeds to look at.", default=64, min=1, max=100000),
                lora_input("The person's LoRA."),
                strength_input("strength", "Strength of the LoRA.", 1.0),
                given(
                    io.Int, "stop_after_locked", "End as soon as so many seeds are locked; 0 looks at all of them.",
                    default=0, min=0, max=100000,
                ),
                given(
                    io.Int, "batch", "Seeds rendered at a time; higher is faster and needs more memory.",
                    default=4, min=1, max=64, advanced=True,
                ),
                given(
                    io.Int, "control", "Seeds that are always rendered in full, first of all: they show the honest "
                    "distribution, and whether previews can be trusted.", default=8, min=0, max=100000, advanced=True,
                ),
                given(
                    io.Boolean, "prune", "End seeds early whose previews drift; off renders each in full.",
                    default=True, advanced=True,
                ),
                given(
                    io.String, "rungs", "When previews are measured, and the share of them that goes on: 0.25:0.30 is "
                    "after a quarter of the steps, the best 30 %.", default="0.25:0.30, 0.50:0.40", advanced=True,
                ),
                given(
                    io.Float, "min_correlation", "Rank correlation between preview and final drift, measured in this "
                    "very run, below which nothing is pruned. Higher is more careful.",
                    default=0.4, min=-1.0, max=1.0, step=0.05, advanced=True,
                ),
                threshold_input(advanced=True),
            ],
            outputs=[
                told(io.Int, "seed", "The seed with the lowest drift: the locked seed of every later pass."),
                told(io.Float, "drift", "Its drift, by the recogniser that chooses; lower is more alike."),
                told(io.Image, "best", "Its picture."),
                told(io.Image, "contact_sheet", "The finished seeds, best first, with drifts; locked ones in green."),
                report_output(),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    @guarded
    def execute(
        cls, model: Any, clip: Any, vae: Any, identity: Any, prompt: str, negative: str, width: int, height: int,
        steps: int, cfg: float, sampler: str, scheduler: str, first_seed: int, count: int, strength: float,
        stop_after_locked: int, batch: int, control: int, prune: bool, rungs: str, min_correlation: float,
        threshold: float, lora: Any = None,
    ) -> Any:  # fmt: skip
        from ..engines.comfy import ComfyEngine
        from ..rendering.log import Meters
        from ..rendering.passes import PassSpec
        from ..rendering.search import SearchSpec, parse_rungs, search_fingerprint, search_seeds
        from ..rendering.sheet import search_sheet
        from ..rendering.summary import search_summary
        from ..safety.c2pa_signing import signer_from_environment

        signer = signer_from_environment()
        spec = SearchSpec(
            render=PassSpec(
                prompt, negative, strength=strength, cfg=cfg, steps=steps, sampler=sampler, scheduler=scheduler
            ),
            first_seed=first_seed,
            count=count,
            batch=batch,
            control=control,
            rungs=parse_rungs(rungs) if prune else (),
            min_correlation=min_correlation,
            stop_after_locked=stop_after_locked or None,
            threshold=threshold,
        )
        engine, weights, size = ComfyEngine(model, clip, vae), sockets.lora_weights(lora), (width, height)
        meters = Meters.of(identity)
        folder = places.search_folder(search_fingerprint(engine, weights, meters, spec, size))
        node_id = cls.hidden.unique_id
        feed = live.SearchFeed(live.sender(node_id), live.Bar(count, node_id, saving=True), folder, count, threshold)
        with live.keeping_work(feed):
            found = search_seeds(
                engine, weights, identity, meters, spec, size, folder, on_progress=feed,
                should_stop=live.interrupted, signer=signer,
            )  # fmt: skip
        best, report = found.best, search_summary(found, identity, threshold)
        return io.NodeOutput(
            best.seed,
            best.drift,
            sockets.image_batch([found.picture(best)]),
            sockets.image_batch([search_sheet(found, threshold=threshold)]),
            report,
            ui=live.shown(node_id, live.search_output(found, threshold, report)),
        )


def _steps_and_cfg() -> list[Any]:
    steps, *choices = sampling_inputs()
    return [steps, cfg_input("cfg", "Guidance of the prompt.", 5.8), *choices]
