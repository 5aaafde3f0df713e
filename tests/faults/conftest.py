"""One nursery and one undisturbed run for all the faults."""

from __future__ import annotations

import os

import pytest

from identity_lock.tests.faults.kills import PRELOAD, Undisturbed, undisturbed
from identity_lock.tests.fixtures.nursery import Nursery


@pytest.fixture(scope="session")
def nursery(own_home):
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork, which the nursery lives on")
    made = Nursery(PRELOAD)
    yield made
    made.close()


@pytest.fixture(scope="session")
def identity():
    from identity_lock.identity import build_identity, read_photo
    from identity_lock.tests.fixtures.tiny_engine import CONSENT, HOPPER

    return build_identity([read_photo(HOPPER)], name="Grace", consent=CONSENT)


@pytest.fixture(scope="session")
def whole(nursery, tmp_path_factory) -> Undisturbed:
    """What a run leaves that nothing happens to."""
    return undisturbed(nursery, tmp_path_factory.mktemp("undisturbed"))
