"""Two real people in the public domain, the real detector and recognisers, and no folders of whoever runs the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from identity_lock.identity import Photo, default_detector, get_recogniser, photo_from_array, read_photo
from identity_lock.identity.recognisers import store


@pytest.fixture(scope="session")
def hopper_path() -> Path:
    from matplotlib import cbook

    return Path(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))


@pytest.fixture(scope="session")
def hopper(hopper_path: Path) -> Photo:
    """Grace Hopper, 512 x 600, one face of about 170 px."""
    return read_photo(hopper_path)


@pytest.fixture(scope="session")
def stranger() -> Photo:
    """Eileen Collins, 512 x 512, one face of about 90 px."""
    from skimage import data

    return photo_from_array(data.astronaut(), "astronaut.png")


@pytest.fixture(scope="session")
def faceless() -> Photo:
    from skimage import data

    return photo_from_array(data.coffee(), "coffee.png")


@pytest.fixture(scope="session")
def detector():
    return default_detector()


@pytest.fixture(scope="session")
def sface():
    return get_recogniser("sface")


@pytest.fixture(scope="session")
def dlib():
    return get_recogniser("dlib")


@pytest.fixture(autouse=True)
def only_our_folders(tmp_path_factory, monkeypatch) -> Iterator[None]:
    """No model folder of this machine's user takes part."""
    monkeypatch.delenv(store.ENVIRONMENT_VARIABLE, raising=False)
    for variable in ("U2NET_HOME", "REMBG_HOME"):
        monkeypatch.delenv(variable, raising=False)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setattr(store, "home_folder", lambda: home / ".identity-lock" / "models")
    monkeypatch.setattr(store, "_registered", [])
    yield


@pytest.fixture
def no_packages(monkeypatch) -> None:
    """As on a machine where no Python package carries model files."""
    monkeypatch.setattr(store, "package_folder", lambda package: None)


@pytest.fixture
def darker(hopper: Photo) -> Photo:
    """The same person at half the light."""
    return Photo("darker.jpg", (hopper.pixels * 0.5).astype(np.uint8))
