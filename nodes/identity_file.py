"""SaveIdentity and LoadIdentity: an identity as a local file in ComfyUI's models/identities."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from . import live, places
from .packages import guarded
from .schema import Identity, given, identity_input, report_output, schema, told


class SaveIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return schema(
            "SaveIdentity",
            display_name="Save Identity",
            description="Writes an identity into models/identities: embeddings and the consent statement, never a "
            "photo. It is biometric data: readable by you alone, and yours to keep safe.",
            search_aliases=["store face", "export identity"],
            inputs=[
                identity_input(),
                given(
                    io.String, "file_name", "Name of the file, without its ending. An identity of the same photos "
                    "replaces its file; another one gets _2, _3, ... after the name.", default="person",
                ),
            ],
            outputs=[told(io.String, "file_name", "The file's name as Load Identity lists it.")],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    @guarded
    def execute(cls, identity: Any, file_name: str) -> Any:
        from ..identity.drift import LOCK_THRESHOLD

        name = places.save_identity(identity, file_name)
        report = f"Saved as {name} in models/{places.IDENTITIES}. It is biometric data: keep it to yourself."
        return io.NodeOutput(name, ui=live.shown(cls.hidden.unique_id, live.labels((), LOCK_THRESHOLD, report)))


class LoadIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return schema(
            "LoadIdentity",
            display_name="Load Identity",
            description="Reads an identity that Save Identity wrote into models/identities.",
            search_aliases=["open identity", "import identity", "load face"],
            inputs=[
                given(
                    io.Combo, "file", "A file of models/identities (safetensors only). Press R on the page to see new "
                    "files.", options=places.identity_files(),
                )
            ],
            outputs=[told(Identity, "identity", "For every node that measures drift."), report_output()],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, file: str | None = None) -> bool | str:
        if not file or places.identity_file(file) is None:
            return (
                f"There is no identity file '{file or ''}' in models/{places.IDENTITIES}; "
                "make one with Save Identity, or choose another."
            )
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str) -> str:
        from ..identity.recognisers.store import file_sha256

        path = places.identity_file(file)
        return "" if path is None else file_sha256(path)

    @classmethod
    @guarded
    def execute(cls, file: str) -> Any:
        from ..identity.drift import LOCK_THRESHOLD
        from ..identity.identity import load_identity

        identity = load_identity(places.identity_file(file) or file)
        places.introduce(identity)
        report = identity.summary()
        data = live.labels((), LOCK_THRESHOLD, report)
        return io.NodeOutput(identity, report, ui=live.shown(cls.hidden.unique_id, data))
