"""The pack in a ComfyUI without a network; test_workflows.py runs the same graphs with every connection refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from identity_lock.tests.fixtures.unplugged import counted, unplugged, why_not
from identity_lock.tests.host.client import Client, PromptError
from identity_lock.tests.host.comfyui import ROOT
from identity_lock.tests.host.pack import CONSENT, SAMPLE
from identity_lock.tests.host.server import Server
from identity_lock.tests.host.test_workflows import NAMES

FAR = "203.0.113.7"  # TEST-NET-3: nobody's address
ANOTHER_PACK = f"""
import threading, time, urllib.request

class PhonesHome:
    RETURN_TYPES, FUNCTION, OUTPUT_NODE, CATEGORY = (), "run", True, "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {{"required": {{}}}}

    def run(self):
        try:
            urllib.request.urlopen("http://{FAR}/", timeout=1)
        except OSError:
            pass  # as many libraries do
        return {{"ui": {{}}}}

NODE_CLASS_MAPPINGS = {{"PhonesHome": PhonesHome}}
"""


@pytest.fixture(scope="module")
def beside_another_pack(comfy, tmp_path_factory) -> Iterator[Server]:
    base = tmp_path_factory.mktemp("beside")
    (base / "custom_nodes" / "another").mkdir(parents=True)
    (base / "custom_nodes" / "another" / "__init__.py").write_text(ANOTHER_PACK)
    server = Server(comfy, base)
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def visitor(beside_another_pack) -> Iterator[Client]:
    client = Client(beside_another_pack)
    yield client
    client.close()


def test_starting_with_the_pack_tries_nothing(beside_another_pack):
    tried = beside_another_pack.attempts()
    print([(one["event"], one["host"], one["stack"][:3]) for one in tried])
    assert [one for one in tried if any("identity_lock" in line for line in one["stack"])] == []


def test_what_the_servers_process_tries_is_seen_although_it_is_swallowed(beside_another_pack, visitor):
    since = beside_another_pack.attempts_mark()
    graph = visitor.graph()
    graph.add("PhonesHome")
    visitor.prompt(graph)
    (tried,) = beside_another_pack.attempts(since)
    assert tried["host"] == FAR and any("another" in line for line in tried["stack"])


@pytest.mark.parametrize(
    ("node", "choice", "expected"),
    [
        ("FacePrep", {"background": "birefnet-portrait"}, "birefnet-portrait.onnx"),
        ("IdentityEmbed", {"recogniser": "arcface"}, "insightface/models/buffalo_l/w600k_r50.onnx"),
    ],
)
def test_a_model_that_is_chosen_and_not_here_is_named_with_its_path(
    beside_another_pack, visitor, node, choice, expected
):
    since = beside_another_pack.attempts_mark()
    graph = visitor.graph()
    photo = graph.add("LoadImage", image=SAMPLE)
    if node == "FacePrep":
        graph.add("PreviewImage", images=graph.add("FacePrep", photo_1=photo[0], **choice)[0])
    else:
        graph.add("PreviewAny", source=graph.add("IdentityEmbed", references=photo[0], consent=CONSENT, **choice)[1])
    with pytest.raises(PromptError) as refused:
        visitor.prompt(graph)
    assert refused.value.node == node and str(beside_another_pack.base / "models" / expected) in str(refused.value)
    assert beside_another_pack.attempts(since) == []


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "-")
def test_every_bundled_graph_runs_where_there_is_no_network(comfy, tmp_path):
    """Server and client both in the namespace: pytest runs there. The kernel counts what native code tries as well."""
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "PYTEST_CURRENT_TEST")}
    tests = [str(Path(__file__).with_name("test_workflows.py")), "-q", "-p", "no:cacheprovider"]
    pytest_there = [sys.executable, "-m", "pytest", *tests, "--basetemp", str(tmp_path / "there")]
    done = subprocess.run(
        unplugged(tmp_path / "counts.json", *pytest_there),
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0 and f"{len(NAMES) + 1} passed" in done.stdout, done.stdout[-4000:]
    assert counted(tmp_path / "counts.json", "opened") == {}  # opened: client and server talk over loopback
