"""A model that is not here is refused by us, with the path it should have, before a library is asked to find it.

One process asks for everything, with hubs allowed by its environment, a proxy named in it, and huggingface_hub imported
before anything of ours; fixtures/missing_models.py has the cases and fixtures/downloads.py the recorders.
"""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from identity_lock.identity.background import LOCAL_MODELS
from identity_lock.tests.fixtures.watched import Proxy, hostile, read_attempts, watched

CASES = [
    "no unet", "no vae", "no text_encoder", "no weights", "no tokenizer", "no scheduler", "no config of the model",
    "a shard is missing", "an adapter of a hub's model", "no arcface pack", "a pack without its recogniser",
    "a nested antelopev2", "arcface for an identity", *(f"no {name}" for name in LOCAL_MODELS), "no u2net for a photo",
    "a hub id", "a hub id as --checkpoint", "a hub id as --style-checkpoint",
]  # fmt: skip
HUB = ("hf_hub_download", "snapshot_download", "Client.send", "Session.request")  # which first, releases differ in
# Each library, and the recorder that it reaches first when it is asked past us.
DOORS = {
    "hf_hub_download": "hf_hub_download",
    "snapshot_download": "snapshot_download",
    "the hub's session": HUB,
    "transformers": HUB,
    "a tokenizer": HUB,
    "diffusers": HUB,
    "a pipeline": HUB,
    "insightface's zoo": "download_onnx",
    "insightface's pack": "ensure_available",
    "rembg": "pooch.core.retrieve",
    "pooch": "pooch.core.retrieve",
    "torch.hub": "torch.hub.load_state_dict_from_url",
    "urllib": "urlretrieve",
    "requests": "Session.request",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    for package in ("insightface", "rembg", "pooch"):
        pytest.importorskip(package)
    folder, proxy = tmp_path_factory.mktemp("missing models"), Proxy()
    (folder / "home").mkdir()
    environment = hostile(proxy.port) | watched(folder / "attempts.jsonl", *sys.path)
    environment |= {"HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    environment |= {"NUMBA_DISABLE_JIT": "1"}  # importing rembg compiles pymatting, for a minute
    done = subprocess.run(
        [sys.executable, "-m", "identity_lock.tests.fixtures.missing_models", str(folder)],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    proxy.close()
    assert done.returncode == 0, done.stderr[-3000:]
    return SimpleNamespace(
        **json.loads(done.stdout.splitlines()[-1]), attempts=read_attempts(folder / "attempts.jsonl"), proxy=proxy
    )


def test_the_switch_of_the_hub_was_off(found):
    """So it is our own care that the cases below show, not an environment that happened to be set."""
    assert found.hub_offline is False


def test_the_cases_are_the_ones_that_are_listed(found):
    assert sorted(found.refused) == sorted(["a folder that is whole", *CASES])


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_by_us_first_with_the_path_it_should_have(found, case):
    told, calls, expected = found.refused[case]
    assert calls == []
    assert expected and all(words in told for words in expected), told
    assert told.startswith(("CheckpointError", "RecogniserError", "RuntimeError: identity-lock: "))


def test_a_folder_that_is_whole_is_opened_without_a_question(found):
    assert found.refused["a folder that is whole"][:2] == ["", []]


@pytest.mark.parametrize("library", DOORS)
def test_asked_past_us_the_library_would_have_downloaded(found, library):
    calls = found.asked[library]
    assert calls and calls[0].endswith(DOORS[library])


def test_no_socket_was_opened(found):
    assert found.attempts == [] and found.proxy.taken == 0
