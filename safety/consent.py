"""The statement of consent that every identity carries, and every record made from it repeats."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from ..errors import IdentityLockError

MIN_LENGTH = 20
MIN_WORDS = 4
MAX_LENGTH = 2000

_PLACEHOLDERS = re.compile(
    r"lorem ipsum|(?:^|\b(?:this is|just|only) (?:an? )?)test(?:ing)?\b"
    r"|\b(?:asdf|qwerty|todo|tbd|xxx|placeholder|consent statement here|statement goes here)\b"
    r"|\[(?:name|date)[^\]]*\]|<[^>]+>|\{[^}]+\}|_{3,}",
    re.IGNORECASE,
)
_ADVICE = (
    "Say who agreed, to what, and when, for example: "
    "'The person in these photos agreed on 3 May 2025 to synthetic portraits for our archive.'"
)


class ConsentError(IdentityLockError):
    """The statement of consent is missing, or says nothing."""


@dataclass(frozen=True)
class ConsentRecord:
    """What the user stated, word for word, and when it was recorded (UTC, ISO 8601, to the second)."""

    statement: str
    recorded_at: str


def require_consent(statement: str, *, now: datetime | None = None) -> ConsentRecord:
    """A record of `statement`, or ConsentError where it is empty, a placeholder or too short to say who agreed to what.

    The pack cannot know whether a statement is true; it makes sure that somebody wrote one, and keeps it with every
    result. At least 20 characters and 4 different words, so "yes", "n/a" or "I consent" do not pass.
    """
    text = " ".join(statement.split()) if isinstance(statement, str) else ""
    words = {word.lower() for word in re.findall(r"\w+", text)}
    if not text:
        raise ConsentError(f"The consent statement is empty. {_ADVICE}")
    if _PLACEHOLDERS.search(text):
        raise ConsentError(f"The consent statement is a placeholder. {_ADVICE}")
    # Scripts without spaces say a sentence in one "word" and in fewer characters.
    dense = sum(ord(character) >= 0x2E80 for character in text)
    if len(text) + dense < MIN_LENGTH or (len(words) < MIN_WORDS and dense < MIN_LENGTH // 2):
        raise ConsentError(f"The consent statement is too short to say who agreed to what. {_ADVICE}")
    if len(text) > MAX_LENGTH:
        raise ConsentError(f"The consent statement has {len(text)} characters; keep it to {MAX_LENGTH}.")
    moment = (now or datetime.now(UTC)).astimezone(UTC)
    return ConsentRecord(text, moment.isoformat(timespec="seconds"))
