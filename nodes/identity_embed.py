"""IdentityEmbed: one to three references and a consent statement in, an identity out (paper section 3.2)."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from . import live, places, sockets
from .packages import guarded
from .schema import Identity, given, prompt_input, report_output, schema, told


class IdentityEmbed(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return schema(
            "IdentityEmbed",
            display_name="Identity Embed",
            description="Makes one identity of one to three references of one consenting person: what every drift is "
            "measured against. An identity is biometric data: it stays on this machine.",
            search_aliases=["face embedding", "face id", "arcface", "insightface", "sface", "consent"],
            inputs=[
                given(io.Image, "references", "One to three pictures of one person: Face Prep's references."),
                given(io.String, "name", "A name for records and messages.", default="person"),
                prompt_input(
                    "consent", "Who agreed, to what, and when, in a sentence. It is kept in every record that is made "
                    "from this identity; without one the node refuses.",
                ),
                given(
                    io.Combo, "recogniser", "The face model that chooses seeds and blends; another one only reports. "
                    "'auto' takes arcface where its weights are in models/insightface (mostly for non-commercial use "
                    "only), else sface.", options=["auto", "arcface", "sface"], default="auto",
                ),
            ],
            outputs=[
                told(Identity, "identity", "For every node that measures drift, and for Save Identity."),
                report_output(),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
        )  # fmt: skip

    @classmethod
    @guarded
    def execute(cls, references: Any, name: str, consent: str, recogniser: str) -> Any:
        from ..identity.drift import LOCK_THRESHOLD
        from ..identity.identity import build_identity
        from ..identity.photo import photo_from_array

        pixels = sockets.pictures(references, "references")
        photos = [photo_from_array(image, f"reference {number}") for number, image in enumerate(pixels, 1)]
        chosen = None if recogniser == "auto" else recogniser
        identity = build_identity(photos, name=name.strip() or "person", consent=consent, selection=chosen)
        places.introduce(identity, places.loaded_files(cls.hidden.prompt, cls.hidden.unique_id, "references"))
        report = identity.summary()
        names = [f"{photo.name}, weight {photo.weight:.2f}" for photo in identity.photos]
        data = live.labels(names, LOCK_THRESHOLD, report)
        images = live.previews(sockets.image_batch(pixels), identity.id)
        return io.NodeOutput(identity, report, ui=live.shown(cls.hidden.unique_id, data, images))
