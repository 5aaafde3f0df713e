"""Finding an age below 18 in a prompt, in figures or words, that is not the age of a thing ("a 12 year old whisky").

The words that it goes by (things that have an age, people, numbers and years in other languages) are lists of the rule
`minors.age`; here is only how an age is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from .rulebook import rule, vocabulary

RULE = "minors.age"
_OF_AGE = 18
_LOOKED_AT = 4  # words before or after an age in which its thing may be named
_LOOKED_BACK = 60  # characters

_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_WORDS += ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen"]
_ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh"]
_ORDINALS += ["twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth"]
_ROMAN = ["i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x", "xi", "xii", "xiii", "xiv", "xv", "xvi", "xvii"]


def young_age(text: str) -> str | None:
    """The first age below 18 of a person in a folded, lower-case text, as written."""
    return next(_young_ages(_MASKED.sub(_unmasked, text)), None)


def _unmasked(word: re.Match[str]) -> str:
    """The word of an age that has letters struck out ("thr*e", "m*nth"); any other as it is."""
    written = re.compile(re.sub(r"[*#]+", "[a-z]{1,2}", word[0]))
    return next(filter(written.fullmatch, _OF_AGES), word[0])


def _one_of(words: Iterable[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


# Not the end of a larger number: 115, 1,500, 1.5, twenty-five, a hundred and five. "1 4" is a disguise of 14.
_START = r"(?<![\d.])(?<!\d,)(?<!ty)(?<!ty[\s-])(?<!hundred )(?<!hundred and )\b"
_APART = r"(?<!\d )\d \d(?!\s?\d)"
_FIGURES = rf"{_APART}|\d{{1,2}}\.\d(?!\d)|\d{{1,3}}(?![.,]?\d)"
_NUMBER = f"{_START}(?P<age>{_FIGURES}|{_one_of(_WORDS)})"
_NUMBER_OR_ROMAN = f"{_START}(?P<age>{_FIGURES}|{_one_of(_WORDS + _ROMAN)})"
_WHOLE = rf"{_START}(?P<age>{_APART}|\d{{1,2}}(?![.,]?\d)|{_one_of(_WORDS[2:])})"
_TEEN = rf"(?P<age>1[3-7](?![.,]?\d)|{_one_of(_WORDS[13:])})"
_OF_AGES = [*_WORDS[2:], *_ORDINALS, "year", "years", "month", "months", "week", "weeks", "old", "aged", "birthday"]
_MASKED = re.compile(r"\b[a-z]+[*#]+[a-z]+\b")
_HALF = r"(?:[\s-]?(?:and[\s-]a[\s-]half|1/2|ish))?"
_YEARS = r"(?:years?|yrs?\.?|y|summers|winters)"
_ENDS = r"[,.;)|\]\n]|$"
_CLAUSE_ENDS = rf"(?=\s?(?:{_ENDS}))"
_ENDS_OR_GOES_ON = rf"(?=\s?(?:{_ENDS}|(?:and|but|who|now|today)\b))"
_ABOUT = r"(?:(?:to be|like|as if|about|around|roughly|maybe|only|barely|just|between|from|no older than) ?){0,3}"
_UNITS = "degrees|percent|meter|metre|feet|foot|inch|minute|second|hour|mph|euro|dollar|pound|cm|mm|km|kg|mile|people"
_NO_MEASURE = rf"(?!\s?(?:°|%|-?(?:{_UNITS}|years of|o'clock)))"
_NOT_A_SPAN = r"(?!\.?\s?(?:of|exp|experience|ago|later|warranty|in|at|as|on|with)\b)"
_SIDES = "team|squad|match|league|players?|side|girls|boys|cup|final|tournament|trials|football|soccer|rugby|hockey"
_SIDES += "|cricket|netball|basketball|volleyball|tennis|swimm|athletics|lacrosse|handball|gymnast|baseball|judo"
_OF_ANYTHING = (
    rf"{_NUMBER_OR_ROMAN}{_HALF}[\s-]?{_YEARS}[\s./-]*(?:olds?|o|of age|young)\b",
    rf"{_NUMBER}{_HALF}[\s-]?years?[\s-]?old(?=daughter|son|child|girl|boy|kid|niece|nephew|self|version|sister|brother)",
    rf"{_NUMBER}{_HALF}[\s-]?(?:yo|yos|y\.o)\b",
    rf"{_NUMBER}[\s-]?yrs\b{_NOT_A_SPAN}",
    rf"\b(?:aged?|ages|age of|age is)\b[\s:=]*{_ABOUT}{_NUMBER}\b(?!\s?groups?\b)",
    rf"{_START}(?P<age>\d{{1,2}}|an?|{_one_of(_WORDS)})[\s-]?(?:minute|hour|day|week|month)s?[\s-]?old\b",
    r"\b(?P<age>)(?:minutes|hours|days|weeks|months)[\s-]old\b",
)
_OF_A_PERSON = (
    rf"\b(?:turn|turns|turned|turning) {_WHOLE}{_CLAUSE_ENDS}",
    rf"\b(?:looks?|looking|appears?|seems?|appearing) {_ABOUT}{_WHOLE}{_CLAUSE_ENDS}",
    rf"\bwhen (?:she|he|they|i) (?:was|were|turned) {_ABOUT}{_WHOLE}\b{_NO_MEASURE}",
    rf"\b(?:like|as if|as though) (?:she|he|they|i|we) (?:was|were|is|am) {_ABOUT}{_WHOLE}(?: again)?{_CLAUSE_ENDS}",
    rf"\b(?:as|the way|how) (?:she|he|they) (?:was|were|looked) (?:at|when|aged|about) {_ABOUT}{_WHOLE}{_CLAUSE_ENDS}",
    rf"\bat (?:the )?(?:tender |young )?(?:age (?:of )?)?{_TEEN}(?: again)?{_CLAUSE_ENDS}",
    rf"\b(?:myself|herself|himself|themselves) (?:at|aged|when) {_WHOLE}(?: again)?{_CLAUSE_ENDS}",
    rf"{_WHOLE} going on (?:\d{{1,2}}|{_one_of([*_WORDS[3:], 'eighteen'])})\b",
    rf"(?<!ty)(?P<age>1[0-7]|{_one_of(_WORDS[2:])})years?old",  # in words run together
    rf"^[^,;\n]{{3,120}}[,;]\s?(?P<age>\d{{1,2}}|{_one_of(_WORDS[2:])})\s?(?:[,;]|$)",  # "sks woman, seventeen"
)
_BIRTHDAY = rf"(?<!\d)(?<!ty[\s-])\b(?P<age>\d{{1,2}}(?:st|nd|rd|th)|{_one_of(_ORDINALS)})[\s-]birthday\b"
_LIMIT = (
    rf"\b(?:under|below|younger than|not yet) (?:the age of )?(?:1[0-8]|eighteen|{_one_of(_WORDS[10:])})\b"
    rf"{_NO_MEASURE}{_CLAUSE_ENDS}"
)
_AGE_GROUP = rf"\b(?:the (?:under|u)[\s-]|(?:under|u)-)(?:[5-9]|1[0-8]|{_one_of([*_WORDS[5:], 'eighteen'])})'?e?s\b"
_LOW = f"(?:[2-9]|1[0-8]|{_one_of([*_WORDS[2:], 'eighteen'])})"
_AGE_CLASS = rf"\b(?:u|under)[\s-]?(?:\d|1[0-8])s?\b[\s-](?:[a-z']+ )?(?:{_SIDES})"
_NOBODY_OVER = rf"\b(?:none|nobody|no one)(?: of (?:them|whom))? (?:over|older than|above) {_LOW}{_CLAUSE_ENDS}"
_BORN = r"\bborn (?:in |on )?(?:[a-z]{3,9} )?(?:\d{1,2},? )?20(?:1[1-9]|[2-9]\d)\b"
_BETWEEN = frozenset(["that", "which", "is", "was", "are", "were", "now", "over", "nearly", "almost", "about"])
_END_OF_NOUN = frozenset(["with", "in", "on", "at", "and", "by", "near", "holding", "wearing", "who", "from", "of"])


@dataclass(frozen=True)
class _Ages:
    """of_anything: of a person, unless a thing is named beside the age. birthday: unless it is a thing's.
    plain: no number to compare."""

    of_anything: tuple[re.Pattern[str], ...]
    of_a_person: tuple[re.Pattern[str], ...]
    birthday: re.Pattern[str]
    plain: tuple[re.Pattern[str], ...]
    people: frozenset[str]
    things: frozenset[str]
    measures: frozenset[str]


@cache
def _ages() -> _Ages:
    lists = rule(RULE).lists
    elsewhere = (
        rf"(?<![\d.-])(?<!vingt )(?<!trente )\b(?P<age>\d{{1,2}}|{_one_of(lists['foreign_numbers'])})"
        rf"[\s-]?(?:{_one_of(lists['foreign_years'])})\b"
    )
    who = rf"\b(?:{_one_of(lists['people'])})\b"
    person = rf"{who}[\s,(]*(?:age |aged |at |of |is |was )?{_ABOUT}{_WHOLE}{_ENDS_OR_GOES_ON}"
    of_years = rf"{who} of {_ABOUT}{_WHOLE} (?:years|summers)\b"
    return _Ages(
        tuple(map(re.compile, (*_OF_ANYTHING, elsewhere))),
        tuple(map(re.compile, (*_OF_A_PERSON, person, of_years))),
        re.compile(_BIRTHDAY),
        tuple(map(re.compile, (_LIMIT, _AGE_GROUP, _AGE_CLASS, _NOBODY_OVER, _BORN))),
        frozenset(lists["people"]) | vocabulary().classes["who"],
        frozenset(lists["things"]),
        frozenset(lists["measures"]),
    )


def _young_ages(text: str) -> Iterator[str]:
    ages = _ages()
    for pattern in ages.of_anything:
        for match in pattern.finditer(text):
            if _years(match["age"]) < _OF_AGE and not _of_a_thing(text, match):
                yield match[0].strip()
    for pattern in ages.of_a_person:
        for match in pattern.finditer(text):
            if _years(match["age"]) < _OF_AGE:
                yield match[0].strip()
    for match in ages.birthday.finditer(text):
        whose = _words(text[max(0, match.start() - _LOOKED_BACK) : match.start()])[-1:]
        if _years(match["age"]) < _OF_AGE and ages.things.isdisjoint(whose):  # not "the company's 10th birthday"
            yield match[0].strip()
    for pattern in ages.plain:
        for match in pattern.finditer(text):
            yield match[0].strip()


def _years(age: str) -> float:
    figures = re.sub(r" |(?<=\d)(?:st|nd|rd|th)$", "", age)
    if figures.replace(".", "").isdigit():
        return float(figures)
    for words, first in ((_WORDS, 0), (_ORDINALS, 1), (_ROMAN, 1)):
        if age in words:
            return words.index(age) + first
    return 0  # "a week old", and the numbers of other languages, which are all below 18


def _of_a_thing(text: str, age: re.Match[str]) -> bool:
    """Whether a thing is named right after the age, up to a word that ends its noun, or right before it."""
    people, things = _ages().people, _ages().things
    after = _words(re.split(r"[,;\n]", text[age.end() : age.end() + _LOOKED_BACK])[0])[:_LOOKED_AT]
    before = _words(re.split(r"[,;\n]", text[max(0, age.start() - _LOOKED_BACK) : age.start()])[-1])[-_LOOKED_AT:]
    if not people.isdisjoint(before[-1:]):
        return False
    for last, word in zip(["", *after], after, strict=False):
        if word in people:
            return False
        if word in things or f"{last} {word}" in things:
            return True
        if word in _END_OF_NOUN:
            break
    if before[-1:] == ["of"] and before[-2:-1] and before[-2] in _ages().measures:  # "a dram of 16-year-old Lagavulin"
        return True
    while before and before[-1] in _BETWEEN:  # "a bonsai that is 16 years old"
        before.pop()
    aged = age[0].startswith("age") or " of age" in age[0]
    return any(word in things for word in (before if aged else before[-1:]))


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.replace("'s", ""))
