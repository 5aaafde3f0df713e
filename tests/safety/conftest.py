"""A proxy that the environment may name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from identity_lock.tests.fixtures.watched import Proxy


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    proxy = Proxy()
    yield proxy
    proxy.close()
