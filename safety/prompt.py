"""The prompt guard in front of every render (paper section 7: no sexual content, no stylised feature injection).

It reads the text that makes the picture. Negative prompts are exempt, because they are where unwanted words belong:
there is no call for them. The guard compares words with a list, so it stops what is asked for in words, in English and
a little of some other languages; it does not look at the pictures that come out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from ..errors import PromptRefused
from . import terms
from .readings import Token, expansions, fold, spacings, tokens, unreadable

MAX_LENGTH = 10_000

_TAG = re.compile(r"<[\w -]{1,40}:")
_EMBEDDING = re.compile(r"\bembeddings?\s{0,3}:", re.IGNORECASE)
_WILDCARD = re.compile(r"__[\w*./~ -]{1,80}?__|\$\{|\{%|%[a-z_]{1,40}\.[a-z_]{1,40}%", re.IGNORECASE)
_NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_NUMBERS += ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen"]
# Not the end of a larger number: 115, 1.5, twenty-five, a hundred and five.
_NUMBER = r"(?<![\d.])(?<!ty)(?<!ty[\s-])(?<!and )\b(?P<age>\d{1,3}|" + "|".join(_NUMBERS) + ")"
_AFTER = r"[\s-]*(?P<after>(?:[a-z]+[\s-]+){0,2}[a-z]*)"
_AGE_PATTERNS = (
    re.compile(_NUMBER + r"[\s-]*(?:years?|yrs?|y)[\s./-]*(?:old|o|of age|young)\b\.?" + _AFTER),
    re.compile(_NUMBER + r"[\s-]*(?:yo|yos|yrs)\b" + _AFTER),
    re.compile(r"(?P<after>\b[a-z]+\b)?[\s,]{0,3}\b(?:aged?|age of|ages)[\s:]*" + _NUMBER + r"\b"),
    re.compile(r"\b(?:turn|turns|turning)\s+" + _NUMBER + r"\b(?!\s*\w)"),
    re.compile(r"\b(?P<age>\d{1,2}|a|" + "|".join(_NUMBERS) + r")[\s-]*(?:day|week|month)s?[\s-]*old\b" + _AFTER),
)
_END_OF_NOUN = frozenset(
    {"with", "in", "on", "at", "and", "by", "near", "holding", "wearing", "who", "from", "of"}
)


@dataclass(frozen=True)
class PromptVerdict:
    """What the guard found. `rule`, `term` (as listed) and `written` (as in the prompt) are None if allowed."""

    allowed: bool
    field: str
    rule: str | None = None
    term: str | None = None
    written: str | None = None
    reason: str = ""

    @property
    def message(self) -> str:
        """One sentence or two for the user; empty if allowed."""
        if self.allowed:
            return ""
        seen = f'"{self.term}"'
        if self.written and self.written != self.term:
            seen += f' (written "{self.written}")'
        return f"The {self.field} is refused by the rule on {self.rule}: it contains {seen}. {self.reason}"


def require_allowed(text: str, *, field: str = "prompt") -> None:
    """Raise PromptRefused, naming the rule and the word, unless `check_prompt` allows `text`."""
    verdict = check_prompt(text, field=field)
    if not verdict.allowed:
        raise PromptRefused(verdict.message)


def check_prompt(text: str, *, field: str = "prompt") -> PromptVerdict:
    """The guard's verdict on one positive prompt; `field` names the input in the message.

    Refused: sexual content, minors, styles that distort a face (`terms.STYLE_VERDICTS`), tags and wildcards that bring
    in words from elsewhere (LoRA tags, `embedding:`, `__wildcard__`), and letters that the guard cannot read. A word is
    found through case, accents, look-alikes, leetspeak, spacing, invisible characters, weights and alternatives.
    Negation is not understood: "no nudity" is refused, and belongs into the negative prompt.
    """
    if len(text) > MAX_LENGTH:
        return _refused(field, terms.UNREADABLE_TEXT, f"{len(text)} characters", None, f"Keep it below {MAX_LENGTH}.")
    for symbol, rule in terms.EMOJI.items():
        if symbol in text:
            return _refused(field, rule, symbol)
    folded = fold(text)
    texts = expansions(folded)
    if texts is None:
        return _refused(
            field, terms.HIDDEN_CONTENT, "{…|…}", None, "There are too many alternatives to check each: use fewer."
        )
    for reading in texts:
        hit = _first_hit(reading)
        if hit is not None:
            rule, term, written = hit
            style = terms.STYLE_VERDICTS.get(term)
            reason = f"This style {style.reason}. {terms.RULES[rule]}" if style else None
            return _refused(field, rule, term, written, reason)
    hidden = _TAG.search(folded) or _EMBEDDING.search(folded) or _WILDCARD.search(folded)
    if hidden:
        return _refused(field, terms.HIDDEN_CONTENT, hidden[0].strip())
    foreign = unreadable(text)
    if foreign:
        return _refused(field, terms.UNREADABLE_TEXT, foreign)
    return PromptVerdict(True, field)


def _refused(field: str, rule: str, term: str, written: str | None = None, reason: str | None = None) -> PromptVerdict:
    return PromptVerdict(False, field, rule, term, written, reason or terms.RULES[rule])


def _first_hit(text: str) -> tuple[str, str, str] | None:
    """(rule, term, as written) of the first refused thing in one reading of the prompt."""
    for reading in spacings(text):
        words = tokens(reading)
        hit = _phrase_hit(words) or _joined_hit(words)
        if hit is not None:
            return hit
    return _age_hit(text.lower())


@cache
def _lexicon() -> tuple[dict[str, list[tuple[tuple[str, ...], str]]], dict[str, tuple[str, str]], int]:
    """Phrases by first word; terms run together; the length of the longest of those."""
    rules = [(term, terms.SEXUAL_CONTENT) for term in terms.SEXUAL_TERMS]
    rules += [(term, terms.MINORS) for term in terms.MINOR_TERMS]
    rules += [(t, terms.STYLISED_DISTORTION) for t, verdict in terms.STYLE_VERDICTS.items() if not verdict.allowed]
    phrases: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    joined: dict[str, tuple[str, str]] = {}
    for term, rule in rules:
        words = tuple(fold(term).lower().split())
        phrases.setdefault(words[0], []).append((words, rule))
        joined.setdefault("".join(words), (rule, " ".join(words)))
    return phrases, joined, max(map(len, joined))


@cache
def _harmless() -> dict[str, list[tuple[str, ...]]]:
    by_word: dict[str, list[tuple[str, ...]]] = {}
    for phrase in terms.HARMLESS_PHRASES:
        words = tuple(phrase.split())
        for word in words:
            by_word.setdefault(word, []).append(words)
    return by_word


def _phrase_hit(words: list[Token]) -> tuple[str, str, str] | None:
    phrases, _, _ = _lexicon()
    for start, word in enumerate(words):
        if word.written in terms.ORDINARY_WORDS:
            continue
        for form in sorted(word.forms):
            for phrase, rule in phrases.get(form, ()):
                if not _stands_at(words, start, phrase) or _is_harmless(words, start, phrase):
                    continue
                after = words[start + len(phrase)].forms if start + len(phrase) < len(words) else frozenset()
                if rule == terms.STYLISED_DISTORTION and not after.isdisjoint(terms.STYLED_OBJECTS):
                    continue
                return rule, " ".join(phrase), " ".join(w.written for w in words[start : start + len(phrase)])
            hit = _compound_hit(form) or (_masked_hit(form) if "*" in form or "#" in form else None)
            if hit is not None:
                return (*hit, word.written)
    return None


def _stands_at(words: list[Token], start: int, phrase: tuple[str, ...]) -> bool:
    if start < 0 or start + len(phrase) > len(words):
        return False
    return all(part in words[start + i].forms for i, part in enumerate(phrase))


def _is_harmless(words: list[Token], start: int, phrase: tuple[str, ...]) -> bool:
    """Whether the refused `phrase` at `start` lies inside one of the listed harmless phrases."""
    for harmless in _harmless().get(phrase[0], ()):
        for offset in range(len(harmless) - len(phrase) + 1):
            if harmless[offset : offset + len(phrase)] == phrase and _stands_at(words, start - offset, harmless):
                return True
    return False


def _compound_hit(form: str) -> tuple[str, str] | None:
    """A refused word written together with a companion or with another refused word ("nudeportrait")."""
    _, joined, _ = _lexicon()
    for cut in range(3, len(form) - 2):
        head, tail = form[:cut], form[cut:]
        for term, other in ((head, tail), (tail, head)):
            known = other in terms.COMPANIONS or (len(other) >= 4 and other in joined)
            if known and len(term) >= 4 and term in joined:
                rule, name = joined[term]
                return rule, name
    return None


def _masked_hit(form: str) -> tuple[str, str] | None:
    """A refused word with letters struck out ("n*ked", "n*a*k*e*d")."""
    if len(form) > 40 or not re.fullmatch(r"[a-z0-9][a-z0-9*#]*[*#][a-z0-9*#]*[a-z0-9]", form):
        return None
    pattern = re.compile(re.sub(r"[*#]+", "[a-z]{0,2}", form))
    _, joined, _ = _lexicon()
    for term, hit in joined.items():
        if pattern.fullmatch(term):
            return hit
    return None


def _joined_hit(words: list[Token]) -> tuple[str, str, str] | None:
    """A refused word in pieces: "n a k e d", "na-ked", "nak ed"."""
    _, joined, longest = _lexicon()
    for start in range(len(words)):
        runs: list[str] = [""]
        for end in range(start, len(words)):
            runs = [run + piece for run in runs[:16] for piece in words[end].joinable]
            runs = [run for run in dict.fromkeys(runs) if len(run) <= longest]
            if not runs:
                break
            if end == start:
                continue
            written = "".join(word.written for word in words[start : end + 1])
            if 2 * sum(map(str.isalpha, written)) < len(written):
                continue  # figures beside each other ("f/4 55") are figures
            pieces = tuple(word.written for word in words[start : end + 1])
            if pieces in terms.ORDINARY_SPLITS:
                continue
            for run in runs:
                if run in joined and not _is_listed_phrase(words, start, joined[run][1]):
                    rule, name = joined[run]
                    return rule, name, " ".join(word.written for word in words[start : end + 1])
    return None


def _is_listed_phrase(words: list[Token], start: int, name: str) -> bool:
    """A term of several words, plainly written, was already judged (and perhaps found harmless) as a phrase."""
    phrase = tuple(name.split())
    return len(phrase) > 1 and _stands_at(words, start, phrase)


def _age_hit(text: str) -> tuple[str, str, str] | None:
    """An age below 18, in figures or words, that is not the age of a thing ("a 12 year old whisky")."""
    for pattern in _AGE_PATTERNS:
        for match in pattern.finditer(text):
            age = match["age"]
            years = int(age) if age.isdigit() else _NUMBERS.index(age) if age in _NUMBERS else 0
            if years < 18 and not _names_a_thing(match.groupdict().get("after") or ""):
                written = match[0].removesuffix(match.groupdict().get("after") or "").strip()
                return terms.MINORS, "an age below 18", written or match[0]
    return None


def _names_a_thing(words: str) -> bool:
    for word in re.findall("[a-z]+", words):
        if word in terms.AGED_THINGS:
            return True
        if word in _END_OF_NOUN:
            return False
    return False
