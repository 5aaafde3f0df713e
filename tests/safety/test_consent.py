from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from identity_lock.errors import IdentityLockError
from identity_lock.safety.consent import ConsentError, require_consent


@pytest.mark.parametrize(
    "statement",
    [
        "I am the person in these photos and agree to synthetic portraits of me.",
        "Ada Example agreed in writing on 3 May 2025, for the town archive.",
        "Die abgebildete Person hat am 3. Mai schriftlich zugestimmt.",
        "G. H. agreed in writing to the making of a test picture.",
        "照片中的本人于二〇二五年五月三日书面同意制作合成肖像",
    ],
)
def test_a_statement_is_kept_word_for_word(statement: str) -> None:
    record = require_consent(f"  {statement}\n")
    assert record.statement == statement
    assert datetime.fromisoformat(record.recorded_at).utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    "statement",
    [
        *("", "   \n", "yes", "n/a", "none", "ok", "I consent", "I agree.", "........................", "a" * 60),
        *("yes yes yes yes yes yes yes yes", "TODO write the consent statement later"),
        *("[name] agreed on [date] to this", "Lorem ipsum dolor sit amet consectetur", "this is a test of the field"),
        "____ agreed to be shown here",
        "x " * 2000,
    ],
)
def test_nothing_said_is_no_consent(statement: str) -> None:
    with pytest.raises(ConsentError, match="consent statement"):
        require_consent(statement)


def test_the_error_belongs_to_the_family_and_shows_an_example() -> None:
    with pytest.raises(IdentityLockError, match="for example"):
        require_consent("yes")
    with pytest.raises(ConsentError):
        require_consent(None)  # type: ignore[arg-type]


def test_the_time_is_recorded_in_utc() -> None:
    noon = datetime(2025, 5, 3, 12, 0, tzinfo=timezone(timedelta(hours=2)))
    record = require_consent("The person shown agreed to portraits for our archive.", now=noon)
    assert record.recorded_at == "2025-05-03T10:00:00+00:00"
    assert datetime.fromisoformat(record.recorded_at) == noon.astimezone(UTC)
