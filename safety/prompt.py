"""The prompt guard in front of every render (paper section 7: no sexual content, no stylised feature injection).

It is a word list, not a classifier: it stops what is asked for in words, in English first and in plain words of other
European languages, and cannot see the pictures that come out. What it knows are the rules in `rules/*.toml`;
docs/prompt_guard.md says in prose what they are for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

from ..errors import PromptRefused
from . import ages
from .matching import first_hit
from .readings import expansions, fold, numbers_spelt, unreadable, upright
from .rulebook import Rule, rule, rules
from .syntax import hidden_content

MAX_LENGTH = 10_000
"""Characters of a prompt, well above what any text encoder reads."""

TOO_MANY = "hidden.alternatives"
UNREADABLE_LETTERS, UNREADABLE_LENGTH, UNREADABLE_TYPE = "unreadable.letters", "unreadable.length", "unreadable.type"
NEGATIVE_FIELD = "negative prompt (read because cfg is below 1, where the model follows it)"


@dataclass(frozen=True)
class PromptVerdict:
    """What the guard found. `rule`, `term` (as listed) and `written` (as in the prompt) are None if allowed."""

    field: str
    rule: Rule | None = None
    term: str | None = None
    written: str | None = None

    @property
    def allowed(self) -> bool:
        return self.rule is None

    @property
    def message(self) -> str:
        """What is refused, by which rule, for which words, and what to do; empty if allowed."""
        if self.rule is None:
            return ""
        seen = f'"{self.term}"'
        if self.written and self.written != self.term:
            seen += f' (written "{self.written}")'
        return f"The {self.field} is refused by the rule {self.rule.id}: it contains {seen}. {self.rule.reason}"


def require_allowed(text: str, *, field: str = "prompt") -> None:
    """Raise PromptRefused, naming the rule and the words, unless `check_prompt` allows `text`."""
    verdict = check_prompt(text, field=field)
    if not verdict.allowed:
        raise PromptRefused(verdict.message)


def require_renderable(prompt: str, negative: str, cfg: float, *, field: str = "prompt") -> None:
    """Raise PromptRefused unless a picture may be sampled from these two texts at this guidance.

    The result of guidance is negative + cfg * (prompt - negative): from cfg 1 on the negative prompt is what the
    picture moves away from, and is exempt, because it is where unwanted words belong. Below 1 it has a positive weight
    (at 0 it is all that is drawn), so it has to pass the guard as well.
    """
    require_allowed(prompt, field=field)
    if not cfg >= 1.0:  # not a number: refused as the lower side
        require_allowed(negative, field=NEGATIVE_FIELD)


def check_prompt(text: str, *, field: str = "prompt") -> PromptVerdict:
    """The guard's verdict on one positive prompt; `field` names the input in the message.

    A term is found through case, accents, look-alikes, leetspeak, spacing, invisible and repeated letters, weights,
    alternatives and schedules. Negation is not understood: "no nudity" is refused, and belongs into the negative
    prompt. What is not text is refused.
    """
    if not isinstance(text, str):
        return PromptVerdict(field, rule(UNREADABLE_TYPE), type(text).__name__)
    if len(text) > MAX_LENGTH:
        return PromptVerdict(field, rule(UNREADABLE_LENGTH), f"{len(text)} characters")
    found = _check(text)
    return PromptVerdict(field, *found) if found else PromptVerdict(field)


@lru_cache(maxsize=256)
def _check(text: str) -> tuple[Rule, str, str | None] | None:
    """(rule, term, as written): remembered, because one prompt is looked at by every pass that renders it."""
    for listed in rules():
        for symbol in listed.emoji:
            if symbol in text:
                return listed, symbol, None
    folded = fold(text)
    texts = expansions(folded)
    if texts is None:
        return rule(TOO_MANY), "{…|…}", None
    for reading in [*texts, *map(fold, upright(text))]:
        hit = first_hit(reading)
        if hit is not None:
            return hit.rule, hit.term, hit.written
    hidden = hidden_content(folded)
    if hidden is not None:
        return hidden[0], hidden[1], None
    numbers = chain.from_iterable(numbers_spelt(reading.lower()) for reading in (folded, *texts))
    for reading in dict.fromkeys(numbers):
        age = ages.young_age(reading)
        if age is not None:
            return rule(ages.RULE), "an age below 18", age
    foreign = unreadable(text)
    return (rule(UNREADABLE_LETTERS), foreign, None) if foreign else None


