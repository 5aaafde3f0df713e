"""FacePrep: one to three photos in, square crops of the face out (paper section 3.1)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..identity.background import LOCAL_MODELS, NO_REMOVAL
from . import live, sockets
from .packages import guarded
from .schema import given, report_output, schema, told


class FacePrep(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return schema(
            "FacePrep",
            display_name="Face Prep",
            description="Finds the one face of each photo and cuts a square around it: plain crops to make an identity "
            "of, and training pictures with their masks.",
            search_aliases=["face crop", "face detect", "prepare photos", "dataset", "augment", "remove background"],
            inputs=[
                given(io.Image, "photo_1", "A photo of the person. Of a batch the first picture is used."),
                given(
                    io.Image, "photo_2", "A second photo of the same person. Each photo has its own input because a "
                    "batch would crop them to one size.", optional=True,
                ),
                given(io.Image, "photo_3", "A third photo of the same person.", optional=True),
                given(
                    io.Combo, "background", "Background model for the training pictures, run by rembg from a local "
                    "file in models/rembg; 'none' keeps the background. References always keep theirs.",
                    options=[NO_REMOVAL, *LOCAL_MODELS], default=NO_REMOVAL,
                ),
                given(
                    io.Float, "padding", "Margin on each side of the face, as a share of its larger side: 0.45 makes "
                    "the face about half of the picture. Higher shows more around it.",
                    default=0.45, min=0.0, max=2.0, step=0.05,
                ),
                given(io.Int, "size", "Side of the square results, px.", default=768, min=128, max=2048, step=64),
                given(
                    io.Boolean, "rotations", "Add each photo turned by +10 and -10 degrees to the training pictures.",
                    default=False, advanced=True,
                ),
                given(
                    io.Boolean, "centre_crops", "Add the central 80 % and 60 % of each crop, enlarged, to the training "
                    "pictures.", default=False, advanced=True,
                ),
            ],
            outputs=[
                told(io.Image, "references", "One plain square a photo, background kept: for Identity Embed."),
                told(io.Image, "training_images", "Photo by photo, each with its augmentations: for the trainer."),
                told(io.Mask, "face_masks", "1 on the face, softly 0 around it; one for each training picture."),
                told(io.Mask, "valid_masks", "0 where a crop or a rotation reached beyond the photo, else 1."),
                report_output(),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    @guarded
    def execute(
        cls, photo_1: Any, background: str, padding: float, size: int, rotations: bool, centre_crops: bool,
        photo_2: Any = None, photo_3: Any = None,
    ) -> Any:  # fmt: skip
        from ..identity.drift import LOCK_THRESHOLD
        from ..identity.faces import default_detector
        from ..identity.identity import fingerprint
        from ..identity.prepare import PrepSettings, prepare_both
        from ..safety.index import PHOTO_PREFIX

        wired = {"photo_1": photo_1, "photo_2": photo_2, "photo_3": photo_3}
        photos = [_photo(tensor, name) for name, tensor in wired.items() if tensor is not None]
        settings = PrepSettings(
            size=size, padding=padding, background_model=background, rotations=rotations, center_crops=centre_crops
        )
        made = prepare_both(photos, default_detector(), settings)
        training = sockets.image_batch([face.pixels for face in made.training])
        report = made.summary()
        names = [f"{face.source} {face.transform}" for face in made.training]
        prints = [PHOTO_PREFIX + fingerprint(face.pixels) for face in made.references]
        images = live.previews(training, *prints)
        return io.NodeOutput(
            sockets.image_batch([face.pixels for face in made.references]),
            training,
            sockets.mask_batch([face.face_mask for face in made.training]),
            sockets.mask_batch([face.valid_mask for face in made.training]),
            report,
            ui=live.shown(cls.hidden.unique_id, live.labels(names, LOCK_THRESHOLD, report), images),
        )


def _photo(tensor: Any, name: str) -> Any:
    from ..identity.photo import photo_from_array

    pixels = sockets.pictures(tensor[:1], name)[0]
    photo = photo_from_array(pixels, name)
    if len(tensor) == 1:
        return photo
    return replace(photo, warnings=(f"{name}: holds {len(tensor)} pictures; the first one is used.",))
