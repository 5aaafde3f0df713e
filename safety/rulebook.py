"""The prompt guard's rules, read from `rules/*.toml`: everything that a reviewer must know is there, not here.

A term is one pattern in plain lower case. Its elements are parted by spaces: `word`; `one|other`; `@class`, any word of
that class in `rules/words.toml`; `...`, up to three words of any kind; `..`, up to three that describe, none of which
joins another thing on ("with", "beside"); a `?` at the end of an element makes it optional.
Matching is by whole words of one clause, after the text has been normalised by `readings`; where a pattern has a `/`, a
clause may end ("Bra, Piedmont"), and where it has a `.`, it has to; a `.` in front is where one has to begin.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from .readings import fold

RULES_FOLDER = Path(__file__).resolve().parent / "rules"
WORDS_FILE = "words.toml"
CATEGORIES = ("sexual", "minors", "style", "hidden", "unreadable")
GAP = 3  # words that `...` and `..` may stand for
MOST_WRITINGS = 64


@dataclass(frozen=True)
class Element:
    """words: any of these, or none in a gap, where a clause may end and where it has to."""

    words: frozenset[str]
    optional: bool = False
    mark: str = ""

    @property
    def gap(self) -> bool:
        return self.mark in ("...", "..")


@dataclass(frozen=True)
class Pattern:
    """text: as it stands in the data. begins: a clause has to begin with it."""

    text: str
    elements: tuple[Element, ...]
    begins: bool = False

    def writings(self) -> Iterator[str]:
        """The plain texts of the pattern, one for each word of each element; nothing in place of gaps and options."""
        needed = [sorted(e.words) for e in self.elements if e.words and not e.optional]
        if _size(needed) <= MOST_WRITINGS:
            yield from (" ".join(words) for words in product(*needed))
            return
        for place, words in enumerate(needed):  # too many to mix: each word once, the first of the others beside it
            for word in words:
                yield " ".join([*(w[0] for w in needed[:place]), word, *(w[0] for w in needed[place + 1 :])])


@dataclass(frozen=True)
class Beside:
    """Words, and cues that decide about them up to `within` words away, on either side."""

    words: tuple[Pattern, ...]
    cues: tuple[Pattern, ...]
    within: int


@dataclass(frozen=True, eq=False)
class Rule:
    """reason: what the user is told.
    foreign: terms that are matched as plain words only, in no other disguise than accents and look-alikes.
    harmless: uses of the terms that are let pass. of_things: those that are not, right behind a person ("naked wall").
    near: words that are refused only with a cue.
    unless: terms that pass with a cue in the same clause; they count for the whole category, as what is harmless does.
    lists: what a rule that is more than its terms goes by (`things` that have an age, names of `tags`).
    refused, allowed: examples, each of them tested."""

    id: str
    category: str
    reason: str = field(repr=False)
    terms: tuple[Pattern, ...] = field(repr=False)
    foreign: tuple[Pattern, ...] = field(repr=False)
    harmless: tuple[Pattern, ...] = field(repr=False)
    of_things: tuple[Pattern, ...] = field(repr=False)
    near: tuple[Beside, ...] = field(repr=False)
    unless: tuple[Beside, ...] = field(repr=False)
    emoji: tuple[str, ...] = field(repr=False)
    refused: tuple[str, ...] = field(repr=False)
    allowed: tuple[str, ...] = field(repr=False)
    lists: dict[str, tuple[str, ...]] = field(repr=False, hash=False)


@dataclass(frozen=True)
class Passing:
    """Words of style that were thought about and are let pass, with the reason. They are listed to say so."""

    category: str
    reason: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Vocabulary:
    """companions: words that get written together with a refused one. ordinary: words that a disguise would turn into a
    refused one. splits: neighbouring plain words that only by chance spell a refused one together. joining: words that
    `..` may not stand for."""

    classes: dict[str, frozenset[str]]
    companions: frozenset[str]
    ordinary: frozenset[str]
    splits: frozenset[tuple[str, ...]]
    joining: frozenset[str]


@cache
def rules() -> tuple[Rule, ...]:
    """Every rule, by the order of the files and in them."""
    found = []
    for path in _rule_files():
        data = _read(path)
        found += [_rule(data["category"], table) for table in data["rule"]]
    return tuple(found)


@cache
def passing() -> tuple[Passing, ...]:
    return tuple(
        Passing(data["category"], table["reason"], _entries(table["words"]))
        for data in map(_read, _rule_files())
        for table in data.get("passes", ())
    )


@cache
def vocabulary() -> Vocabulary:
    data = _read(RULES_FOLDER / WORDS_FILE)
    classes: dict[str, frozenset[str]] = {}
    for name, entries in data["classes"].items():
        words: set[str] = set()
        for word in _entries(entries):
            words |= classes[word[1:]] if word.startswith("@") else {word}
        classes[name] = frozenset(words)
    return Vocabulary(
        classes,
        frozenset(_entries(data["companions"])),
        frozenset(_entries(data["ordinary"])),
        frozenset(tuple(entry.split()) for entry in _entries(data["splits"])),
        frozenset(_entries(data["joining"])),
    )


def rule(rule_id: str) -> Rule:
    return _by_id()[rule_id]


@cache
def _by_id() -> dict[str, Rule]:
    return {found.id: found for found in rules()}


def _rule_files() -> list[Path]:
    return [RULES_FOLDER / f"{category}.toml" for category in CATEGORIES]


def _read(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _rule(category: str, table: dict[str, Any]) -> Rule:
    return Rule(
        id=table["id"],
        category=category,
        reason=table["reason"],
        terms=_patterns(table.get("terms", [])),
        foreign=_patterns(table.get("foreign", [])),
        harmless=_patterns(table.get("harmless", [])),
        of_things=_patterns(table.get("of_things", [])),
        near=_beside(table.get("near", [])),
        unless=_beside(table.get("unless", [])),
        emoji=tuple(table.get("emoji", [])),
        refused=tuple(table["refused"]),
        allowed=tuple(table["allowed"]),
        lists={name: _entries(entries) for name, entries in table.get("lists", {}).items()},
    )


def _beside(tables: list[dict[str, Any]]) -> tuple[Beside, ...]:
    return tuple(Beside(_patterns(t["words"]), _patterns(t["cues"]), t["within"]) for t in tables)


def _entries(lines: list[str]) -> tuple[str, ...]:
    """Each line of the data is a list parted by commas, so that comments can stand between lines."""
    return tuple(entry.strip() for line in lines for entry in line.split(",") if entry.strip())


def _patterns(lines: list[str]) -> tuple[Pattern, ...]:
    return tuple(_pattern(entry) for entry in _entries(lines))


def _pattern(text: str) -> Pattern:
    bare = text.removeprefix(". ")
    return Pattern(text, tuple(_element(part) for part in bare.split()), begins=bare != text)


def _element(text: str) -> Element:
    if text in ("...", "..", "/", "."):
        return Element(frozenset(), mark=text)
    words: set[str] = set()
    for word in text.removesuffix("?").split("|"):
        words |= vocabulary().classes[word[1:]] if word.startswith("@") else {word}
    return Element(frozenset(re.sub(r"[^a-z0-9]", "", fold(word).lower()) for word in words), text.endswith("?"))


def _size(lists: list[list[str]]) -> int:
    size = 1
    for entries in lists:
        size *= len(entries)
    return size
