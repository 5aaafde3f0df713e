"""What a result depends on, as text: a hash for each part, so that a refusal can name the part that was swapped.

"base:1a2b... lora:3c4d..." are the fingerprints of a training, a search and a render. Work is gone on with only where
they are equal.
"""

from __future__ import annotations

import hashlib

PARTS = {
    "version": "the version of this pack",
    "photos": "the photos or their captions",
    "person": "the identity",
    "recogniser": "the face recogniser",
    "reporting": "the reporting recogniser",
    "detector": "the face detector",
    "base": "the base model",
    "style": "the second base model",
    "lora": "the LoRA",
    "settings": "the settings",
    "size": "the size",
}

_FOLLOWS = {"photos": "base", "person": "recogniser"}  # latents change with the base, embeddings with the recogniser


def fingerprint(**parts: str) -> str:
    """One hash for each part that is not empty, in the order of PARTS. No value can be had back."""
    unknown = set(parts) - set(PARTS)
    assert not unknown, unknown
    return " ".join(f"{name}:{_short(parts[name])}" for name in PARTS if parts.get(name))


def swapped(before: str, now: str) -> str:
    """The parts in which two fingerprints differ, in words: "the base model and the LoRA"; empty where they agree."""
    if before == now:
        return ""
    old, new = _read(before), _read(now)
    changed = {name for name in PARTS if old.get(name) != new.get(name)}
    names = [words for name, words in PARTS.items() if name in changed and _FOLLOWS.get(name) not in changed]
    if not names or not old:
        return PARTS["version"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def without(text: str, *names: str) -> str:
    """A fingerprint with these parts left out."""
    return " ".join(part for part in text.split(" ") if part.partition(":")[0] not in names)


def _read(text: str) -> dict[str, str]:
    return {name: value for name, found, value in (part.partition(":") for part in text.split(" ")) if found}


def _short(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()[:16]
