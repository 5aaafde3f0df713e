"""The nodes, one a file, each thin: unpack, call one function of the rooms below, pack. All that knows ComfyUI is here
and in engines/comfy*.py; importing this package alone needs no ComfyUI."""

from __future__ import annotations

from typing import Any


def extension() -> Any:
    """The pack as ComfyUI's V3 loader takes it. Needs ComfyUI."""
    from comfy_api.latest import ComfyExtension

    from ..safety.offline import no_telemetry
    from . import places
    from .demo_model_loader import DemoModelLoader
    from .drift_score import DriftScore
    from .drift_seed_search import DriftSeedSearch
    from .face_prep import FacePrep
    from .identity_embed import IdentityEmbed
    from .identity_file import LoadIdentity, SaveIdentity
    from .phased_lora_trainer import PhasedLoRATrainer
    from .rescue_blend import RescueBlend
    from .three_pass_render import ThreePassRender
    from .two_pass_stylize import TwoPassStylize

    no_telemetry()  # now, because another pack may be the first to import what reports
    places.set_up()  # not in on_load, which ComfyUI before 0.18 calls after it has asked for the nodes, if at all

    class IdentityLock(ComfyExtension):
        async def get_node_list(self) -> list[Any]:
            return [
                FacePrep, IdentityEmbed, PhasedLoRATrainer, DriftSeedSearch, ThreePassRender, RescueBlend,
                TwoPassStylize, SaveIdentity, LoadIdentity, DriftScore, DemoModelLoader,
            ]  # fmt: skip

    return IdentityLock()
