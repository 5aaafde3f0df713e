"""Engines and meters that several folders' tests share; all real, all small."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """tell("a sentence with numbers"): shown at the end of the whole run, whichever process measured it."""
    return lambda text: record_property("told", text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    told = [text for report in reports for name, text in report.user_properties if name == "told"]
    if told:
        terminalreporter.section("measured in this run")
        for text in dict.fromkeys(map(str, told)):
            terminalreporter.write_line(text)


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory) -> Iterator[Path]:
    """The index of what the tests make is theirs, and goes with them: never this user's."""
    from identity_lock.safety.index import HOME_VARIABLE

    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("identity-lock-home")
        patch.setenv(HOME_VARIABLE, str(folder))
        yield folder


@pytest.fixture(scope="session")
def meters():
    """Selection (SFace) and reporting (dlib) meters of one real photo."""
    from identity_lock.identity import build_identity, read_photo
    from identity_lock.tests.fixtures.tiny_engine import CONSENT, HOPPER

    identity = build_identity([read_photo(HOPPER)], name="Grace", consent=CONSENT)
    return identity.meters()


@pytest.fixture(scope="session")
def meter(meters):
    return meters[0]


@pytest.fixture
def engine():
    """A fresh tiny engine: tests may do what they like with it."""
    from identity_lock.tests.fixtures.tiny_engine import tiny_engine

    return tiny_engine()


@pytest.fixture
def data(engine):
    from identity_lock.tests.fixtures.tiny_engine import tiny_data

    return tiny_data(engine)


@pytest.fixture(scope="session")
def checkpoint_files(tmp_path_factory) -> Iterator[dict[str, Path]]:
    """A single-file SD1.5 and SDXL checkpoint of some 100 to 250 MB, removed at the end."""
    from identity_lock.tests.fixtures import tiny_checkpoint as tiny

    folder = tmp_path_factory.mktemp("tiny-checkpoints")
    yield {
        "sd15": tiny.write_sd15(folder / "tiny sd15.safetensors", levels=(1, 1), attention=(0, 1), clip_layers=1),
        "sdxl": tiny.write_sdxl(
            folder / "tiny xl.safetensors",
            levels=(1, 1), attention=(0, 1), blocks_per_level=1, middle_depth=1, clip_layers=1, bigg_layers=1,
        ),
    }  # fmt: skip
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def sd15_engine(checkpoint_files):
    from identity_lock.engines.diffusers import open_checkpoint

    return open_checkpoint(checkpoint_files["sd15"], device="cpu")


@pytest.fixture(scope="session")
def sdxl_engine(checkpoint_files):
    from identity_lock.engines.diffusers import open_checkpoint

    return open_checkpoint(checkpoint_files["sdxl"], device="cpu")
