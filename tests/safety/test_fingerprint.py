"""What work depends on, and how a refusal names what was swapped."""

from __future__ import annotations

import pytest

from identity_lock.safety.fingerprint import fingerprint, swapped, without

BEFORE = dict(version="1", photos="a", person="b", recogniser="c", base="d", lora="e", settings="f")


def change(**parts: str) -> str:
    return swapped(fingerprint(**BEFORE), fingerprint(**BEFORE | parts))


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({}, ""),
        ({"lora": "x"}, "the LoRA"),
        ({"lora": ""}, "the LoRA"),
        ({"style": "x"}, "the second base model"),
        ({"base": "x", "lora": "x", "settings": "x"}, "the base model, the LoRA and the settings"),
        ({"base": "x", "photos": "x"}, "the base model"),  # its latents are other ones, the photos need not be
        ({"recogniser": "x", "person": "x"}, "the face recogniser"),
        ({"photos": "x", "person": "x"}, "the photos or their captions and the identity"),
    ],
)
def test_the_parts_that_differ_are_named(parts, told):
    assert change(**parts) == told


def test_what_an_older_version_wrote_is_of_another_version():
    for before in ("", "None", "abcdef0123456789", "plan-photos-model"):
        assert swapped(before, fingerprint(**BEFORE)) == "the version of this pack"


def test_a_part_can_be_left_out_and_no_value_is_in_it():
    told = fingerprint(**BEFORE)
    assert swapped(without(told, "lora"), without(fingerprint(**BEFORE | {"lora": "x"}), "lora")) == ""
    secret = fingerprint(person="a face in numbers")
    assert "face" not in secret and len(secret) == len("person:") + 16
