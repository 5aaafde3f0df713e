"""DriftScore: the drift of any pictures against an identity (paper section 4)."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from . import live, sockets
from .packages import guarded
from .schema import DRIFT, given, identity_input, report_output, schema, threshold_input, told


class DriftScore(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return schema(
            "DriftScore",
            display_name="Drift Score",
            description=f"Measures any pictures against an identity and sorts them. {DRIFT} A picture without a face "
            "has drift 1.0 and is rejected.",
            search_aliases=["face similarity", "compare faces", "verify", "face distance", "identity check", "gate"],
            inputs=[
                given(io.Image, "images", "The pictures to measure, each by its largest face."),
                identity_input(),
                threshold_input(),
            ],
            outputs=[
                told(io.Float, "drift", "The highest drift of the batch; lower is more alike."),
                told(io.Image, "accepted", "Pictures at the threshold or below, in their order; nothing runs after "
                     "this output when there are none."),
                told(io.Image, "rejected", "The other pictures, in their order; nothing runs after this output when "
                     "there are none."),
                report_output(),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    @guarded
    def execute(cls, images: Any, identity: Any, threshold: float) -> Any:
        from ..rendering.log import Meters
        from ..rendering.summary import drift_summary, score

        pixels, node_id = sockets.pictures(images, "images"), cls.hidden.unique_id
        scored = score(pixels, Meters.of(identity), live.Bar(len(pixels), node_id))
        report = drift_summary(scored, identity, threshold)
        accepted = [row.drift.locked(threshold) for row in scored]
        return io.NodeOutput(
            max(row.drift.value for row in scored),
            _of(images, accepted),
            _of(images, [not kept for kept in accepted]),
            report,
            ui=live.shown(
                node_id,
                live.drifts(scored, threshold, report),
                live.previews(sockets.image_batch(pixels), identity.id),
            ),
        )


def _of(images: Any, wanted: list[bool]) -> Any:
    from comfy_execution.graph_utils import ExecutionBlocker

    return images[wanted] if any(wanted) else ExecutionBlocker(None)
