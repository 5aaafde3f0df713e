"""Captions: what a picture shows, in short phrases from a closed vocabulary."""

from __future__ import annotations

from tools.people import hair
from tools.people.palette import COLOURS
from tools.people.person import AGES, SEXES, Person
from tools.people.view import BRIGHTNESSES, EXPRESSIONS, SIDES, TONES, View

SUBJECT = "photo of a person"
SCENE_PHRASES = {
    "indoor": "indoor room",
    "field": "golden hour field",
    "rooftop": "rooftop at dusk",
    "garden": "spa garden",
}
# Yaw in degrees from which a head counts as turned, and below which it counts as straight.
TURNED, STRAIGHT = 15.0, 8.0


def caption_phrases(person: Person, view: View) -> list[str]:
    """Everything a caption says, one phrase each, the subject first."""
    phrases = [SUBJECT, person.sex, person.age_group, _hair_phrase(person)]
    if person.bearded:
        phrases.append("beard")
    phrases.append("neutral expression" if view.expression == "neutral" else view.expression)
    if abs(view.yaw) > TURNED:
        phrases.append("looking right" if view.yaw > 0 else "looking left")
    elif abs(view.yaw) < STRAIGHT:
        phrases.append("facing forward")
    phrases += [f"{view.light_tone} light", f"light from {view.light_side}"]
    if view.brightness != "normal":
        phrases.append(f"{view.brightness} light")
    phrases.append(SCENE_PHRASES.get(view.scene, f"{view.background} background"))
    phrases.append(f"{view.shirt} shirt")
    return phrases


def caption(person: Person, view: View) -> str:
    """The whole caption, such as "photo of a person, woman, young, long brown hair, smiling, ..."."""
    return ", ".join(caption_phrases(person, view))


def _hair_phrase(person: Person) -> str:
    return "bald" if person.hair_length == "bald" else f"{person.hair_length} {person.hair.colour_name} hair"


def _vocabulary() -> tuple[str, ...]:
    phrases = [SUBJECT, "bald short long hair beard expression looking facing forward light from background shirt"]
    phrases += [*SCENE_PHRASES.values(), *SEXES, *AGES, *hair.COLOURS, *EXPRESSIONS, *TONES, *SIDES, *COLOURS]
    phrases += [brightness for brightness in BRIGHTNESSES if brightness != "normal"]
    return tuple(sorted({word for phrase in phrases for word in phrase.split()}))


VOCABULARY: tuple[str, ...] = _vocabulary()
