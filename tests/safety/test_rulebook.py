"""The rules as data: each one explains itself, does what its examples say, and holds no term twice or in vain."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from identity_lock.safety.prompt import MAX_LENGTH, check_prompt
from identity_lock.safety.rulebook import CATEGORIES, RULES_FOLDER, Pattern, Rule, passing, rules, vocabulary

ROOT = Path(__file__).resolve().parents[2]
PROGRAMMED = {"unreadable.length": ["a" * (MAX_LENGTH + 1), "soft light, " * 1000], "unreadable.type": [["a"], None]}
"""Rules whose refused examples are no texts that fit into a file of rules."""

by_id = pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.id)


def patterns(rule: Rule) -> list[Pattern]:
    return [*rule.terms, *rule.foreign]


@by_id
def test_a_rule_says_what_it_is_and_what_to_do(rule: Rule) -> None:
    assert re.fullmatch(r"[a-z]+\.[a-z]+", rule.id) and rule.category == rule.id.split(".")[0]
    assert rule.category in CATEGORIES
    assert len(rule.reason) > 30 and rule.reason.endswith(".")
    assert len(rule.refused or PROGRAMMED[rule.id]) >= 2 and len(rule.allowed) >= 2


@by_id
def test_its_refused_examples_fire_it_and_its_allowed_ones_pass(rule: Rule) -> None:
    for text in rule.refused or PROGRAMMED[rule.id]:
        verdict = check_prompt(text)  # type: ignore[arg-type]
        assert verdict.rule is rule, (text, verdict)
        assert rule.id in verdict.message and rule.reason in verdict.message
    for text in rule.allowed:
        assert check_prompt(text).allowed, (text, check_prompt(text).message)


@by_id
def test_each_of_its_terms_is_refused_when_written_plainly(rule: Rule) -> None:
    for pattern in patterns(rule):
        for written in pattern.writings():
            verdict = check_prompt(f"portrait, {written}, light")
            assert not verdict.allowed, (pattern.text, written)
    for near in rule.near:
        cue = next(near.cues[0].writings())
        for pattern in near.words:
            for written in pattern.writings():
                assert not check_prompt(f"portrait, {written} {cue}, light").allowed, (pattern.text, cue)
    for symbol in rule.emoji:
        assert check_prompt(f"portrait {symbol}").rule is rule


@by_id
def test_each_of_its_harmless_phrases_passes_it(rule: Rule) -> None:
    for pattern in rule.harmless:
        for written in pattern.writings():
            verdict = check_prompt(f"portrait, {written.replace(' / ', ', ')}, light")
            assert verdict.rule is not rule, (pattern.text, written, verdict.term)


@by_id
def test_what_is_harmless_of_things_is_not_right_behind_a_person(rule: Rule) -> None:
    for pattern in rule.of_things:
        for written in pattern.writings():
            assert check_prompt(f"portrait, {written}, light").rule is not rule, (pattern.text, written)
            assert not check_prompt(f"portrait of a woman {written}, light").allowed, (pattern.text, written)


@by_id
def test_its_patterns_begin_and_end_with_a_word(rule: Rule) -> None:
    """A gap or an option there would say nothing, or make a pattern of what was meant as its last word."""
    cues = [pattern for near in rule.near for pattern in (*near.words, *near.cues)]
    for pattern in (*patterns(rule), *rule.harmless, *cues):
        first, last = pattern.elements[0], [e for e in pattern.elements if e.mark != "."][-1]
        assert first.words and last.words and not first.optional and not last.optional, pattern.text
        assert all("?" not in part[:-1] for part in pattern.text.split()), pattern.text


@by_id
def test_a_cue_excuses_a_word_in_its_own_clause_and_nowhere_else(rule: Rule) -> None:
    category = [listed for listed in rules() if listed.category == rule.category]
    own = {word for listed in category for pattern in listed.terms for word in pattern.writings()}
    for excused in rule.unless:
        cue = next(excused.cues[0].writings())
        for word in (written for pattern in excused.words for written in pattern.writings()):
            if word not in own:
                continue  # refused by phrases alone
            assert check_prompt(f"portrait, the {word} {cue}, light").allowed, (word, cue)
            assert not check_prompt(f"portrait, the {word}, {cue}, light").allowed, (word, cue)


@pytest.mark.parametrize(
    "text",
    [
        "sks woman as a doll on a shelf", "sks man, cartoon style, printed on a mug", "a cartoon sks man on a poster",
        "sks woman turned into a barbie in a museum", "sks man as a vampire carved in stone", "a vampire at the museum",
        "puppet version of sks woman in the workshop", "an anime woman at the festival",
    ],
)  # fmt: skip
def test_a_cue_does_not_excuse_what_is_made_of_the_person(text: str) -> None:
    assert not check_prompt(text).allowed


def test_nothing_stands_twice_in_one_place_and_no_class_is_unused() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(RULES_FOLDER.glob("*.toml")))
    for found in re.findall(r"[^\s\",]*\|[^\s\",]*", text):
        options = found.removesuffix("?").split("|")
        assert len(options) == len(set(options)), found
    assert set(vocabulary().classes) <= set(re.findall(r"@(\w+)", text))


def test_ids_are_used_once_and_no_term_stands_in_two_rules() -> None:
    assert max(Counter(rule.id for rule in rules()).values()) == 1
    owners: dict[str, set[str]] = {}
    for rule in rules():
        for pattern in patterns(rule):
            for written in pattern.writings():
                owners.setdefault(written, set()).add(rule.id)
    assert {term: ids for term, ids in owners.items() if len(ids) > 1} == {}


def test_every_category_has_a_file_and_a_chapter_in_the_documentation() -> None:
    files = {path.stem for path in RULES_FOLDER.glob("*.toml")}
    assert files == {*CATEGORIES, "words"}
    documentation = (ROOT / "docs" / "prompt_guard.md").read_text(encoding="utf-8")
    for category in CATEGORIES:
        assert f"`{category}`" in documentation, category
    for rule in rules():
        assert f"`{rule.id}`" in documentation, rule.id
    assert "not a classifier" in documentation


def test_every_style_word_that_was_thought_about_has_the_verdict_that_is_listed() -> None:
    for listed in passing():
        assert listed.reason.endswith(".")
        for word in listed.words:
            assert check_prompt(f"portrait of a woman, {word}, soft light").allowed, word
    passed = {word for listed in passing() for word in listed.words}
    assert {"oil painting", "black and white", "double exposure"} <= passed
    for word in ("caricature", "cartoon", "cubist", "fisheye"):
        verdict = check_prompt(f"portrait of a woman, {word}, soft light")
        assert verdict.rule is not None and verdict.rule.category == "style" and word not in passed


def test_an_installed_package_has_the_rules() -> None:
    import tomllib

    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "rules/*.toml" in packaged["identity_lock.safety"]
