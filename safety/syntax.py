"""Finding prompt syntax that brings in words from elsewhere: tags, embeddings, wildcard files, template variables."""

from __future__ import annotations

import re
from functools import cache
from itertools import chain

from .readings import letters_together
from .rulebook import Rule, rule

TAGS, PLACEHOLDERS, FILES = "hidden.tags", "hidden.placeholders", "hidden.files"

_LEET = str.maketrans("013457$@", "oieastsa")
_ANY_TAG = re.compile(
    r"<\s?/?(?:[a-z]|[a-z0-9] )[^<>\n]{0,200}>|<[\w\s-]{1,40}:|<<|<!|\[\[\s?\w{1,40}\s?:", re.IGNORECASE
)
_CALL = re.compile(r"(?<![\w$@!|])([\w$@!|]{2,24}(?:\s\w{1,20})?)\s{0,3}[:=/]")
_WILDCARD = re.compile(r"_\s?_\s?[\w*./~ -]{1,80}?_\s?_|\*\*?/[\w*]", re.IGNORECASE)
_VARIABLE = re.compile(
    r"\$[{(\[]|\{%|\{\s?\{[^{}\n]{1,120}\}\s?\}|<%|#\{|@\{|(?<![\w$])\$[a-z_][a-z_0-9]{2,40}\b|%\([a-z_]{1,40}\)s|"
    r"%[a-z_]{2,40}(?:\.[a-z_]{1,40})?%|\[\s?(?:call|file|get|include|eval)\s[^\]\n]{0,80}[/_][^\]\n]{0,80}\]|"
    r"\bwith\s?(?:lora|lycoris|embedding)s?\s?\(|(?<!\w)@@\w+|(?<!\w)#[a-z_]{3,40}#|~[a-z_]{3,40}~|\bargs\[",
    re.IGNORECASE,
)
_BRACED = re.compile(r"[{\[]\s?([a-z][\w .-]{0,40}?)\s?[}\]]", re.IGNORECASE)
_SNAKE = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)+", re.IGNORECASE)


def hidden_content(folded: str) -> tuple[Rule, str] | None:
    """(rule, as written) of the first thing in a folded text that stands for words which are not in it."""
    found = _ANY_TAG.search(folded) or _WILDCARD.search(folded)
    if found:
        return rule(TAGS), found[0].strip()
    for call in chain(_CALL.finditer(folded), _CALL.finditer(letters_together(folded))):
        words = [re.sub(r"[^a-z]", "", word.lower().translate(_LEET)) for word in call[1].split()]
        if not {"".join(words), words[-1]}.isdisjoint(_names(TAGS, "folders" if call[0].endswith("/") else "tags")):
            return rule(TAGS), call[0].strip()
    variable = _VARIABLE.search(folded)
    if variable:
        return rule(PLACEHOLDERS), variable[0].strip()
    for braced in _BRACED.finditer(folded):
        name = braced[1].lower()
        curly = braced[0].startswith("{")
        known = name in _names(PLACEHOLDERS, "placeholders")
        if (known and (curly or name not in _names(PLACEHOLDERS, "weighted"))) or (curly and _SNAKE.fullmatch(name)):
            return rule(PLACEHOLDERS), braced[0]
    file = _file_ending().search(folded)
    if file:
        return rule(FILES), file[0]
    return None


@cache
def _names(rule_id: str, kind: str) -> frozenset[str]:
    return frozenset(rule(rule_id).lists[kind])


@cache
def _file_ending() -> re.Pattern[str]:
    endings = "|".join(rule(FILES).lists["endings"])
    return re.compile(rf"(?<!\w)[\w/\\-]{{1,80}}\.(?:{endings})\b", re.IGNORECASE)
