"""Finding the rules' patterns in the words of one reading of a prompt. It knows no word itself: those are data.

The work is bounded by the length of the text: patterns are found by their first word, gaps and words in pieces look a
few words ahead, and what can be said of one word alone is remembered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from .readings import Token, spacings, struck_out, tokens
from .rulebook import GAP, Beside, Pattern, Rule, rules, vocabulary

_SHORTEST_COMPOUND = 4
_SHORTEST_INSIDE = 7
_SHORTEST_RUN_TOGETHER = 10  # of several words, with their spaces ("see through dress"); a shorter one may be a word
_LONG_ENOUGH = 4  # a term of more letters is no accident
_LONGEST_WORD = 200  # characters of one word that are looked into for others
_WAYS = 16  # spellings of one run of pieces


@dataclass(frozen=True)
class Hit:
    """rule: that fired. term: as in the data, in plain words. written: as in the prompt."""

    rule: Rule
    term: str
    written: str


@dataclass(frozen=True)
class _Entry:
    pattern: Pattern
    rule: Rule
    plain: bool = False
    """Only as a plain word, in no disguise."""
    of_thing: bool = False
    """Not right behind a person."""


@dataclass(frozen=True)
class _Lexicon:
    """phrases, harmless, near: by each word that may stand first. unless: by category and term.
    joined: terms of letters only, written together.
    spelt: words that need a cue, but none when they are spelt letter by letter: who does that hides them.
    skeletons: those again, each letter once; their repeats tell a stretched word from another one.
    in_phrases: words of phrases, by the same. beginnings: of what may stand in pieces, from one letter on."""

    phrases: dict[str, list[_Entry]]
    harmless: dict[str, list[_Entry]]
    near: dict[str, list[tuple[_Entry, Beside]]]
    unless: dict[tuple[str, str], Beside]
    joined: dict[str, tuple[Rule, str]]
    spelt: dict[str, tuple[Rule, str]]
    skeletons: dict[str, list[str]]
    in_phrases: dict[str, set[str]]
    by_initial: dict[str, list[str]]
    beginnings: frozenset[str]
    longest: int


@dataclass(frozen=True)
class _Word:
    token: Token
    forms: frozenset[str]


def first_hit(text: str) -> Hit | None:
    """The first refused thing in one reading of the prompt, folded and without prompt syntax."""
    for spaced in spacings(text):
        words = [_word(token) for token in tokens(spaced)]
        passed = _Passed(words)
        hit = _phrase_hit(words, passed) or _joined_hit(words, passed)
        if hit is not None:
            return hit
    for token in tokens(struck_out(text)):
        judged = "*" not in token.written or token.written.replace("*", "") in _lexicon().joined  # as a term in pieces
        hidden = None if judged else _inside(token.forms)
        if hidden is not None:
            return Hit(*hidden, token.written)
    return None


@cache
def _lexicon() -> _Lexicon:
    phrases: dict[str, list[_Entry]] = {}
    harmless: dict[str, list[_Entry]] = {}
    near: dict[str, list[tuple[_Entry, Beside]]] = {}
    unless: dict[tuple[str, str], Beside] = {}
    joined: dict[str, tuple[Rule, str]] = {}
    spelt: dict[str, tuple[Rule, str]] = {}
    for rule in rules():
        entries = [_Entry(p, rule) for p in rule.terms] + [_Entry(p, rule, plain=True) for p in rule.foreign]
        for entry in entries:
            _index(phrases, entry)
        for pattern in rule.harmless:
            _index(harmless, _Entry(pattern, rule))
        for pattern in rule.of_things:
            _index(harmless, _Entry(pattern, rule, of_thing=True))
        for found in rule.near:
            for pattern in found.words:
                spelt |= {word: (rule, word) for word in pattern.writings() if " " not in word and len(word) > 4}
                for word in pattern.elements[0].words:
                    near.setdefault(word, []).append((_Entry(pattern, rule), found))
        for excused in rule.unless:
            unless |= {(rule.category, term): excused for pattern in excused.words for term in pattern.writings()}
        for pattern in rule.terms:
            if not any(element.mark for element in pattern.elements):
                for writing in pattern.writings():
                    joined.setdefault(writing.replace(" ", ""), (rule, writing))
    skeletons: dict[str, list[str]] = {}
    by_initial: dict[str, list[str]] = {}
    in_phrases: dict[str, set[str]] = {}
    for word in _words_of(phrases):
        in_phrases.setdefault(_skeleton(word), set()).add(word)
    for term in joined:
        if " " not in joined[term][1]:
            skeletons.setdefault(_skeleton(term), []).append(term)
        by_initial.setdefault(term[0], []).append(term)
    beginnings = frozenset(term[:end] for term in (*joined, *spelt) for end in range(1, len(term) + 1))
    return _Lexicon(
        phrases, harmless, near, unless, joined, spelt, skeletons, in_phrases, by_initial, beginnings,
        max(map(len, joined)),
    )  # fmt: skip


def _words_of(entries: dict[str, list[_Entry]]) -> set[str]:
    patterns = {entry.pattern for found in entries.values() for entry in found}
    return {word for pattern in patterns for element in pattern.elements for word in element.words}


def _index(by_word: dict[str, list[_Entry]], entry: _Entry) -> None:
    for word in entry.pattern.elements[0].words:
        by_word.setdefault(word, []).append(entry)


# ---- words and phrases ----------------------------------------------------------------------------------------------


def _word(token: Token) -> _Word:
    if _is_ordinary(token):
        return _Word(token, frozenset({token.plain}))
    return _Word(token, token.forms | _stretched(token.forms))


def _is_ordinary(token: Token) -> bool:
    return token.plain in vocabulary().ordinary or token.written in vocabulary().ordinary


@lru_cache(maxsize=4096)
def _stretched(forms: frozenset[str]) -> frozenset[str]:
    """Terms that a word spells with letters repeated ("nuuude"), each at least as often as the term has them."""
    found = set()
    for form in forms:
        for term in _lexicon().skeletons.get(_skeleton(form), ()):
            runs, needed = _runs(form), _runs(term)
            enough = all(has >= wants for has, wants in zip(runs, needed, strict=True))
            if enough and (len(term) > 3 or max(runs) > 2):
                found.add(term)
        if max(_runs(form), default=0) > 2:  # no plain word has a letter three times in a row
            found |= _lexicon().in_phrases.get(_skeleton(form), set())
    return frozenset(found)


def _skeleton(word: str) -> str:
    return re.sub(r"(.)\1+", r"\1", word)


def _runs(word: str) -> list[int]:
    return [len(run[0]) for run in re.finditer(r"(.)\1*", word)]


def _phrase_hit(words: Sequence[_Word], passed: _Passed) -> Hit | None:
    lexicon = _lexicon()
    for start, word in enumerate(words):
        for form in sorted(word.forms):
            for entry in lexicon.phrases.get(form, ()):
                if entry.plain and form != word.token.plain:
                    continue
                places = _match(words, start, entry.pattern)
                if places is None or passed.holds(entry.rule, places) or _excused(words, places, entry, form):
                    continue
                return _hit(entry.rule, words, places, entry.pattern)
            for entry, near in lexicon.near.get(form, ()):
                places = _match(words, start, entry.pattern)
                if places is not None and _has_cue(words, places, near) and not passed.holds(entry.rule, places):
                    return _hit(entry.rule, words, places, entry.pattern)
        hidden = None if _is_ordinary(word.token) else _inside(word.forms)
        if hidden is not None and not passed.holds(hidden[0], (start,)):
            return Hit(*hidden, word.token.written)
    return None


def _hit(rule: Rule, words: Sequence[_Word], places: Sequence[int], pattern: Pattern) -> Hit:
    """In the words that the pattern names; in one of them, if that is a term of the rule by itself."""
    term, at = [], 0
    for place in places:
        while not (pattern.elements[at].words & words[place].forms):
            at += 1
        name = min(pattern.elements[at].words & words[place].forms)
        if _lexicon().joined.get(name) == (rule, name):
            return Hit(rule, name, words[place].token.written)
        term.append(name)
        at += 1
    return Hit(rule, " ".join(term), " ".join(words[place].token.written for place in places))


def _match(words: Sequence[_Word], start: int, pattern: Pattern) -> tuple[int, ...] | None:
    """The places of the words that `pattern` names, if it stands at `start`, in one clause."""
    clause = words[start].token.clause
    if pattern.begins and start and words[start - 1].token.clause == clause:
        return None
    return _continue(words, start, clause, pattern, 0, ())


def _continue(
    words: Sequence[_Word], at: int, clause: int, pattern: Pattern, index: int, places: tuple[int, ...]
) -> tuple[int, ...] | None:
    if index == len(pattern.elements):
        return places
    element = pattern.elements[index]
    if element.mark == ".":
        ended = at == len(words) or words[at].token.clause != clause
        return _continue(words, at, clause, pattern, index + 1, places) if ended else None
    if element.mark == "/":
        following = clause if at == len(words) else min(words[at].token.clause, clause + 1)
        return _continue(words, at, following, pattern, index + 1, places)
    if element.gap:
        for place in range(at, at + GAP + 1):
            found = _continue(words, place, clause, pattern, index + 1, places)
            if found is not None:
                return found
            if element.mark == ".." and place < len(words) and words[place].token.plain in vocabulary().joining:
                return None
        return None
    fits = at < len(words) and words[at].token.clause == clause and not element.words.isdisjoint(words[at].forms)
    if fits:
        found = _continue(words, at + 1, clause, pattern, index + 1, (*places, at))
        if found is not None:
            return found
    return _continue(words, at, clause, pattern, index + 1, places) if element.optional else None


class _Passed:
    """The places of words that stand in a harmless phrase, by the category that lists it; looked for when something is
    found at all."""

    def __init__(self, words: Sequence[_Word]) -> None:
        self._words = words
        self._places: dict[str, set[int]] | None = None

    def holds(self, rule: Rule, places: Iterable[int]) -> bool:
        if self._places is None:
            self._places = self._found()
        return self._places.get(rule.category, set()).issuperset(places)

    def _found(self) -> dict[str, set[int]]:
        found: dict[str, set[int]] = {}
        for start, word in enumerate(self._words):
            for form in word.forms:
                for entry in _lexicon().harmless.get(form, ()):
                    if entry.of_thing and _follows_a_person(self._words, start):
                        continue
                    found.setdefault(entry.rule.category, set()).update(_match(self._words, start, entry.pattern) or ())
        return found


def _excused(words: Sequence[_Word], places: Sequence[int], entry: _Entry, form: str) -> bool:
    """Whether a term that a table of its category lets pass stands beside one of its cues, and not behind a person."""
    term = form if len(places) == 1 else " ".join(words[place].token.plain for place in places)
    excuse = _lexicon().unless.get((entry.rule.category, term))
    if excuse is None or len(entry.pattern.elements) > len(places) or _follows_a_person(words, places[0]):
        return False
    return _has_cue(words, places, excuse, words[places[0]].token.clause)


def _follows_a_person(words: Sequence[_Word], start: int) -> bool:
    if not start or words[start - 1].token.clause != words[start].token.clause:
        return False
    return words[start - 1].token.plain in vocabulary().classes["who"]


def _has_cue(words: Sequence[_Word], places: Sequence[int], beside: Beside, clause: int | None = None) -> bool:
    """Whether a cue stands beside these places; clause: it has to be in this one."""
    first, last = places[0], places[-1]
    for start in range(max(0, first - beside.within), min(len(words), last + beside.within + 1)):
        if first <= start <= last or clause not in (None, words[start].token.clause):
            continue
        for cue in beside.cues:
            if not cue.elements[0].words.isdisjoint(words[start].forms) and _match(words, start, cue):
                return True
    return False


# ---- one word that hides another ------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _inside(forms: frozenset[str]) -> tuple[Rule, str] | None:
    known = [_lexicon().joined[form] for form in sorted(forms) if form in _lexicon().joined]
    if known:  # a term itself was judged as one: "children's" is no disguise of "children"
        return next((hit for hit in known if " " in hit[1] and len(hit[1]) > _SHORTEST_RUN_TOGETHER), None)
    for form in sorted(forms):
        if len(form) <= _LONGEST_WORD:
            hit = _masked(form) if "*" in form or "#" in form else _run_together(form)
            if hit is not None:
                return hit
    return None


def _run_together(form: str) -> tuple[Rule, str] | None:
    """A term written together with companions or other terms ("nudeportrait"), or a long term inside anything."""
    joined, ordinary = _lexicon().joined, vocabulary().ordinary
    if len(form) <= _SHORTEST_COMPOUND or form in ordinary or not form.isalnum():
        return None
    for start in range(len(form)):
        for end in range(start + _SHORTEST_INSIDE, min(len(form), start + _lexicon().longest) + 1):
            if form[start:end] in joined:
                return joined[form[start:end]]
    # reached[end]: None if companions alone lead there, else the term on the way
    reached: dict[int, tuple[Rule, str] | None] = {0: None}
    for start in range(len(form)):
        if start not in reached:
            continue
        for end in range(start + 1, min(len(form), start + _lexicon().longest) + 1):
            piece = form[start:end]
            term = joined.get(piece) if len(piece) >= _SHORTEST_COMPOUND else None
            if term is not None or piece in vocabulary().companions or piece.isdigit():
                reached[end] = reached.get(end) or reached[start] or term
    return reached.get(len(form))


def _masked(form: str) -> tuple[Rule, str] | None:
    """A term of one word with letters struck out ("n*ked", "n*a*k*e*d")."""
    # A last star alone is a footnote's ("price*"); with another one it strikes a letter out ("b*k*n*").
    if len(form) > 40 or not re.fullmatch(r"[a-z][a-z0-9*#]*[*#][a-z0-9*#]*[a-z0-9][*#]*", form):
        return None
    if len(re.sub(r"[*#]", "", form)) < 2:
        return None
    pattern = re.compile(re.sub(r"[*#]+", "[a-z]{0,2}", form))
    for term in _lexicon().by_initial.get(form[0], ()):
        rule, name = _lexicon().joined[term]
        if " " not in name and pattern.fullmatch(term):  # strokes and hyphens between whole words strike nothing out
            return rule, name
    return None


# ---- words in pieces ------------------------------------------------------------------------------------------------


def _joined_hit(words: Sequence[_Word], passed: _Passed) -> Hit | None:
    """A term in pieces: "n a k e d", "na-ked", "nak ed"."""
    lexicon, splits = _lexicon(), vocabulary().splits
    for start in range(len(words)):
        runs: list[str] = [""]
        for end in range(start, len(words)):
            if _is_ordinary(words[end].token):
                break
            runs = [run + piece for run in runs[:_WAYS] for piece in words[end].token.joinable]
            runs = [run for run in dict.fromkeys(runs) if run in lexicon.beginnings]
            if not runs:
                break
            if end == start:
                continue
            pieces = [word.token.written for word in words[start : end + 1]]
            written = "".join(pieces)
            letters = all(len(word.token.plain) == 1 for word in words[start : end + 1])
            if 2 * sum(map(str.isalpha, written)) < len(written) and not (letters and len(written) > _LONG_ENOUGH):
                continue  # figures beside each other ("f/4 55") are figures
            if tuple(pieces) in splits or any(len(piece) > 1 and piece.isdigit() for piece in pieces):
                continue  # a number of several figures is a number ("aged to 75")
            for run in runs:
                known = lexicon.joined.get(run) or (lexicon.spelt.get(run) if letters else None)
                if known is None:
                    continue
                rule, name = known
                if _in_pieces(run, words[start : end + 1], name) and not passed.holds(rule, range(start, end + 1)):
                    return Hit(rule, name, " ".join(pieces))
    return None


def _in_pieces(run: str, words: Sequence[_Word], name: str) -> bool:
    """Whether it is a term in pieces: not one of several words plainly written, which was judged as a phrase, and not
    short words that by chance spell a shorter one."""
    if name.split() == [word.token.plain for word in words]:
        return False
    lengths = [len(word.token.plain) for word in words]
    if words[0].token.clause != words[-1].token.clause and max(lengths) > 2:
        return False  # "a man, hooded"
    return len(run) > 4 or max(lengths) <= len(run) - 2 or (len(run) == 4 and 1 in lengths)
