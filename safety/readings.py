"""Every way in which a text encoder, a wildcard expander or a reader may read one prompt.

The prompt guard compares words; this module makes them. `fold` undoes Unicode disguises, `expansions` undoes prompt
syntax (weights, alternatives, comments), and `tokens` undoes spelling (leetspeak, masks, repeated letters).
"""

from __future__ import annotations

import html
import re
import unicodedata
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product

MAX_EXPANSIONS = 400
MAX_EXPANDED_CHARACTERS = 200_000
_DEEPEST_NESTING = 40

# Look-alikes that Unicode does not fold by itself. Letters of other scripts that are not here make a text unreadable.
_LOOKALIKES = str.maketrans(
    dict(
        zip(
            "аАвВгеЕёЁіІїЇјЈкКмМнНоОпрРсСтТуУхХѕЅһԁԛԝьзЗ",
            "aabbreeeeiiiijjkkmmhhoonppccttyyxxsshdqwb33",
            strict=True,
        )
    )
    | dict(zip("αΑβΒγεΕζΖηΗιΙκΚλμΜνΝοΟρΡσςτΤυΥχΧωΩ", "aabbyeezznhiikklumvnooppsottuyxxwo", strict=True))
)
_LATIN_BY_NAME = re.compile(
    r"LATIN (?:SMALL |CAPITAL |LETTER |LIGATURE )*(?:SCRIPT |OPEN |TURNED |REVERSED |CLOSED )*([A-Z]{1,2})"
    r"(?: WITH .*)?$"
)
_LATIN_NAMED = {
    **{"DOTLESS I": "i", "ALPHA": "a", "TURNED ALPHA": "a", "ENG": "n", "ESH": "s", "EZH": "z"},
    **{"SHARP S": "ss", "THORN": "th", "ETH": "d"},
}
_ENCLOSED = ((0x1F150, 26), (0x1F170, 26), (0x1F1E6, 26))
_BLANK_BUT_NOT_SPACE = {0x115F, 0x1160, 0x3164, 0xFFA0, 0x2800}

_LEET = str.maketrans("034578926@$+€£¢", "oeastbgzbastelc")
_I_OR_L = "1!|"
_SYMBOLS_IN_WORDS = "@$!|+€£¢*#"
_NUMBERED = re.compile(r"[a-z]{1,2}\d{3,}|\d{2,}[a-z]{1,2}")  # a model or a measure ("f3900", "105mm"), no word
_APART = re.compile(r"(?<![^\W_])[^\W_](?:[ ._-]{1,3}[^\W_]){3,}(?![^\W_])")
_CHUNK = re.compile(r"[a-z0-9@$!|+€£¢*#']+")
# A full stop after a short word may end an abbreviation ("Mr. Dick") or part letters ("n. u. d. e").
_ENDS_CLAUSE = re.compile(r"[,;?]\s")
_SHORTEST_LAST_WORD = 4


_ALTERNATIVES = re.compile(r"[{(\[]([^{}()\[\]|]*\|[^{}()\[\]]*)[)\]}]")
_SCHEDULE = re.compile(r"\[([^{}()\[\]:]*:[^{}()\[\]:]*)\]")
_ESCAPE = re.compile(
    r"%([46][1-9A-F]|[57][0-9A])|\\(?:u\{?0{0,6}|U0{0,6}|x)([46][1-9A-F]|[57][0-9A])\}?", re.IGNORECASE
)
_UPSIDE_DOWN = str.maketrans(
    "ɐɔǝɟƃᵷɥıᴉɾʞןꞁɯɹʇʌʍʎqpbdunmw∀Ɔ◖ƎℲ⅁ſ⅂ԀᴚꓤꓕΛ⅄", "acefgghiijkllmrtvwybdqpnuwmacdefgjlprrtvy"
)
_ONLY_UPSIDE_DOWN = frozenset("ɐɔǝɟƃᵷɥᴉɾʞןꞁɯɹʇʌʍʎ∀ƆƎℲ⅁⅂ᴚꓤꓕ⅄")


def upright(text: str) -> list[str]:
    """What a text in upside-down letters ("pǝʞɐu") says, from either end; nothing if it holds none."""
    if _ONLY_UPSIDE_DOWN.isdisjoint(text):
        return []
    turned = text.translate(_UPSIDE_DOWN)
    return [turned[::-1], turned]


def fold(text: str) -> str:
    """`text` with the Unicode disguises taken off: entities, escapes, width and font variants, accents, look-alikes.

    Zero-width and other invisible characters vanish. Capitals stay, because camelCase parts words. Letters that are
    still outside a to z after this are left for `unreadable` to name.
    """
    # Text encoders' own cleaning may unescape twice.
    text = html.unescape(html.unescape(text))
    text = _ESCAPE.sub(lambda escape: chr(int(escape[1] or escape[2], 16)), text)
    text = unicodedata.normalize("NFKC", text).translate(_LOOKALIKES)
    text = "".join(_folded(character) for character in unicodedata.normalize("NFKD", text))
    return re.sub(r"[^\S\n]+", " ", text)


@cache
def _folded(character: str) -> str:
    point, category = ord(character), unicodedata.category(character)
    if point < 128:
        return character if character.isprintable() or character.isspace() else ""
    if category in {"Mn", "Me", "Cf", "Cc", "Cn", "Co", "Lm"} or point in _BLANK_BUT_NOT_SPACE:
        return ""
    for start, length in _ENCLOSED:
        if start <= point < start + length:
            return chr(ord("a") + point - start)
    if category.startswith("Z"):
        return " "
    if category.startswith("L"):
        name = unicodedata.name(character, "")
        for ending, letter in _LATIN_NAMED.items():
            if name.startswith("LATIN") and name.endswith(" " + ending):
                return letter
        found = _LATIN_BY_NAME.match(name)
        if found:
            return found[1].lower()
        return character.lower() if character.isupper() else character
    if category == "Nd":
        return str(unicodedata.digit(character))
    return {"’": "'", "‘": "'", "´": "'", "×": "x"}.get(character, character)


def unreadable(text: str) -> str | None:
    """The first word of `text` with letters that are not Latin, or None. A lone Greek letter (a symbol) is let pass."""
    for word in re.findall(r"\w+", unicodedata.normalize("NFKC", text)):
        word = word.removeprefix("\N{GREEK SMALL LETTER MU}")  # micrometres
        letters = [c for c in word if c.isalpha() and unicodedata.category(c) != "Lm"]
        # A look-alike is no reason to pass: only a letter named LATIN is one that the guard reads.
        foreign = [c for c in letters if not unicodedata.name(c, "").startswith("LATIN")]
        lone_symbol = len(letters) == 1 and foreign and unicodedata.name(foreign[0], "").startswith("GREEK")
        if foreign and not lone_symbol:
            return word
        if any(not (c.isascii() or fold(c).isascii()) for c in letters if c not in foreign):
            return word
    return None


def expansions(text: str) -> list[str] | None:
    """Every text that weights, comments and alternatives in `text` can turn into; None if there are too many to check.

    Handles `(word:1.3)`, `nak(ed:1.1)`, `{a|b}`, `[a|b]`, `[from:to:0.5]`, `{2$$a|b}`, `/* */`, `//`, BREAK and escaped
    brackets. Each text comes once with its brackets closed up and once with spaces in their place.
    """
    sources = {text, re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)}
    found: dict[str, None] = {}
    for source in sources:
        source = source.replace("\\", "")
        source = re.sub(r"\b(?:BREAK|AND)\b", " ", source)
        source = re.sub(r"(?<=\{)\s?\d{0,2}(?:-\d{1,2})?\$\$(?:[^{}|$]{0,9}\$\$)?", "", source)
        source = re.sub(r"(?<=[{|])\s?\d{0,3}\.?\d{1,3}::", "", source)
        source = re.sub(r":[ ]?[-+]?\d{0,3}\.?\d{1,9}[ ]?(?=[)\]}>])", "", source)
        choices = _choices(source)
        if choices is None:
            return None
        apart = _ALTERNATIVES.sub(lambda group: group[0].replace("|", " | "), source)
        for choice in [*choices, apart]:
            for brackets in ("", " "):
                found[re.sub(r"[(){}\[\]<>]", brackets, choice)] = None
    return list(found)


def _choices(text: str) -> list[str] | None:
    done: dict[str, None] = {}
    plain_brackets = r"[({\[]([^(){}\[\]|:]*)[)}\]]"
    for _ in range(_DEEPEST_NESTING):
        text, replaced = re.subn(plain_brackets, r"\1", text)
        if not replaced:
            break
    waiting, seen = [text], {text}
    while waiting:
        current = waiting.pop()
        # Innermost brackets first, so nesting needs no parser.
        match = _ALTERNATIVES.search(current) or _SCHEDULE.search(current)
        if match is None:
            done[current] = None
        else:
            options = re.split(r"[|:]", match[1])
            texts = {current[: match.start()] + option + current[match.end() :] for option in options} - seen
            seen |= texts  # each is gone into once: many ways may lead to one text
            waiting.extend(texts)
        count = len(done) + len(waiting)
        if count > MAX_EXPANSIONS or len(seen) > 2 * MAX_EXPANSIONS:
            return None
        if count > 1 and count * len(text) > MAX_EXPANDED_CHARACTERS:
            return None
    return list(done)


@dataclass(frozen=True)
class Token:
    """One word as written, in its clause, and everything it may be read as."""

    written: str
    clause: int
    plain: str
    """Without apostrophes and signs at its ends."""
    forms: frozenset[str]
    joinable: tuple[str, ...]
    """The spellings that count when neighbouring tokens are run together."""


def tokens(text: str) -> list[Token]:
    """The words of a folded text in order, each with its readings and the number of its clause."""
    text = re.sub(r"\b(t)[\s-](shirts?)\b|\b(x)[\s-](rays?)\b", r"\1\2\3\4", text.lower())
    found: list[Token] = []
    clause, end, last = 0, 0, ""
    for match in _CHUNK.finditer(text):
        between = text[end : match.start()]
        stopped = between[:1] == "." and between[1:2].isspace() and len(last) >= _SHORTEST_LAST_WORD
        called = last.endswith("!") and between[:1].isspace()
        clause += bool(stopped or called or _ENDS_CLAUSE.search(between))
        end, last = match.end(), match[0]
        if last.strip("'*#!|+"):
            found.append(Token(last, clause, *_spelt(last)))
    return found


def spacings(text: str) -> list[str]:
    """`text` with other ideas too of where words end: at a capital ("NakedWoman"), at a sign ("woman!naked")."""
    camel = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    return list(dict.fromkeys((text, camel, re.sub(f"[{re.escape(_SYMBOLS_IN_WORDS)}]", " ", text))))


def struck_out(text: str) -> str:
    """`text` with strokes and stops near the start of a word as letters that were struck out ("n_ked" as "n*ked")."""
    return re.sub(r"\b([a-zA-Z]{1,3}[_.]|[a-zA-Z]{1,2}-)(?=[a-zA-Z]{2})", lambda found: f"{found[1][:-1]}*", text)


def letters_together(text: str) -> str:
    """A text in which single letters and figures in a row are one word ("l.o.r.a:" as "lora:")."""
    return _APART.sub(_together, text)


def _together(letters: re.Match[str]) -> str:
    return re.sub(r"[ ._-]", "", letters[0])


def numbers_spelt(text: str) -> list[str]:
    """What a lower-case text may say of numbers: as it is, with figures in words as letters ("f1v3" as "five"), and
    with single letters and figures together, figures first ("a 1 2 y e a r" as "a 12year")."""
    words = re.sub(r"\b(?=\d*[a-z])(?=[a-z]*\d)[a-z\d]+\b", lambda word: _without_figures(word[0])[0], text)
    return [text, words, _APART.sub(lambda found: re.sub(r"(?<=[a-z])(?=\d)", " ", _together(found)), text)]


@lru_cache(maxsize=4096)
def _spelt(written: str) -> tuple[str, frozenset[str], tuple[str, ...]]:
    bare = written.strip("'")
    if not re.search(r"[\d@$!|].*[!]$", bare):
        bare = bare.rstrip("!")  # a call ("yet!"), not a letter ("b1k1n!")
    # "woman's" may be two words, "n'a'k'e'd" is one.
    contracted = re.sub(r"'(?:re|ll|ve|d|m|s)$", "", bare) if bare.count("'") == 1 else bare
    spellings = {contracted.replace("'", ""), bare.replace("'", "")}
    # "naked!" ends in punctuation, "n!pple" holds a letter: read the ends both ways.
    spellings |= {s.strip(_SYMBOLS_IN_WORDS) for s in spellings}
    forms: set[str] = set()
    for spelling in spellings:
        forms |= {spelling, _undoubled(spelling)}
        if re.search(r"[a-z@$!|+€£¢]", spelling) and not _NUMBERED.fullmatch(spelling):
            trimmed = spelling.strip("0123456789")
            forms |= {trimmed, *_without_figures(spelling), *_without_figures(trimmed)}
    forms.discard("")
    plain = contracted.replace("'", "").strip("*#")
    whole = bare.replace("'", "").strip("*#")
    joinable = dict.fromkeys((*_without_figures(plain), *_without_figures(whole), plain, whole))
    return plain.strip(_SYMBOLS_IN_WORDS), frozenset(forms), tuple(j for j in joinable if j)


def _undoubled(spelling: str) -> str:
    """A word with every letter written as often ("nnuuddee", "ffiigguurree") once; any other as it is: no plain word of
    three letters does that."""
    runs = [run[0] for run in re.finditer(r"(.)\1*", spelling)]
    times = min(map(len, runs), default=1)
    return "".join(run[: len(run) // times] for run in runs) if len(runs) > 2 and times > 1 else spelling


def _without_figures(spelling: str) -> list[str]:
    """What leetspeak may mean: figures and signs as letters, each 1 as i or as l."""
    letters = spelling.translate(_LEET)
    places = [place for place, character in enumerate(letters) if character in _I_OR_L]
    if len(places) > 4:
        return [re.sub(f"[{_I_OR_L}]", letter, letters) for letter in "il"]
    found = []
    for choice in product("il", repeat=len(places)):
        characters = list(letters)
        for place, letter in zip(places, choice, strict=True):
            characters[place] = letter
        found.append("".join(characters))
    return found
