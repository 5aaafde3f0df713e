"""Who the demo shows, with which photos, captions and consent; and the twenty others that it compares them with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ..identity.photo import Photo, read_photo

ASSETS = Path(__file__).resolve().parent.parent / "assets"
PHOTOS = ASSETS / "photos"
BASE, LOOK = ASSETS / "demo_base.safetensors", ASSETS / "demo_look.safetensors"
SUBJECT_WORD = "sks"  # the word without a meaning of its own that the LoRA ties to the person


@dataclass(frozen=True)
class Subject:
    """photos: file name -> training caption. held_out: a photo that is only ever measured against, or None.
    description: how prompts speak of the person. effort: its share of the demo plan's steps."""

    name: str
    title: str
    photos: dict[str, str]
    held_out: str | None
    description: str
    consent: str
    note: str
    effort: float = 1.0

    def read(self) -> list[Photo]:
        return [read_photo(PHOTOS / file) for file in self.photos]

    def prompt(self, *phrases: str) -> str:
        return ", ".join(filter(None, (f"photo of {SUBJECT_WORD} person", self.description, *phrases)))


def _captions() -> dict[str, str]:
    """As tools/demo_photos.py wrote them, about the subject, and without a word that the base does not know."""
    told: dict[str, str] = json.loads((PHOTOS / "captions.json").read_text())
    subject = f"photo of {SUBJECT_WORD} person"
    return {
        file: text.replace("photo of a person", subject).replace("middle-aged, ", "") for file, text in told.items()
    }


def synthetic() -> Subject:
    captions = _captions()
    return Subject(
        name="synthetic",
        title="A synthetic person (two views to learn from, one held out)",
        photos={file: captions[file] for file in ("synthetic_1.png", "synthetic_2.png")},
        held_out="synthetic_held_out.png",
        description="man, short brown hair, beard",
        consent="Nobody is depicted: this person was rendered from shape data, so nobody's consent is needed.",
        note="Rendered by tools/demo_photos.py from CC0 MakeHuman data; not among the people the base was trained on.",
    )


def grace_hopper() -> Subject:
    description = "woman, old, short gray hair"
    return Subject(
        name="grace_hopper",
        title="One real photograph: Grace Hopper",
        photos={
            "grace_hopper.jpg": f"photo of {SUBJECT_WORD} person, {description}, neutral expression, facing forward, "
            "neutral light, light from front, blue background, black shirt"
        },
        held_out=None,
        description=description,
        consent="Historical public figure (1906-1992); an official US Navy portrait in the public domain, used for "
        "tests.",
        effort=1.9,  # a real photograph lies further from the base's people than one of their kind
        note="Rear Admiral Grace M. Hopper, United States Navy portrait, public domain; matplotlib's sample data.",
    )


def others() -> list[Photo]:
    return [read_photo(path) for path in sorted((PHOTOS / "others").glob("*.jpg"))]
