"""`identity-lock queue` against the real server, with stock nodes only: files, uploads, kills of either side, words."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

COLOURS: dict[str, Any] = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 2048, "height": 2048, "batch_size": 1, "color": 0},
        "_meta": {"title": "Colour"},
    },
    "2": {  # takes a second or two, so that a kill comes midway
        "class_type": "ImageScale",
        "inputs": {"image": ["1", 0], "upscale_method": "lanczos", "width": 4096, "height": 4096, "crop": "disabled"},
        "_meta": {"title": "Enlarge"},
    },
    "3": {
        "class_type": "ImageScale",
        "inputs": {"image": ["2", 0], "upscale_method": "lanczos", "width": 64, "height": 64, "crop": "disabled"},
    },
    "4": {
        "class_type": "SaveImage",
        "inputs": {"images": ["3", 0], "filename_prefix": "queue/colour"},
        "_meta": {"title": "Keep"},
    },
}
PHOTO: dict[str, Any] = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "{{PHOTO: a picture}}"}, "_meta": {"title": "Photo"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "queue/photo"}},
}
REDS = [200, 40, 90, 10]
EACH = ("--each", f"Colour.color={','.join(str(red << 16) for red in REDS)}")
QUICK = ("--set", "Enlarge.width=128", "--set", "Enlarge.height=128")


class Run:
    """The command in a process of its own."""

    def __init__(self, url: str, graph: Path, out: Path, *options: str) -> None:
        words = ["queue", str(graph), "--server", url, "--out", str(out), *options]
        self.out = out
        self.process = subprocess.Popen(
            [sys.executable, "-m", "identity_lock.cli", *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def wait(self) -> tuple[int, str, str]:
        told, said = self.process.communicate(timeout=300)
        assert "Traceback" not in said, said
        return self.process.returncode, told, said

    def events(self, kind: str) -> list[dict[str, Any]]:
        path = self.out / "queue.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [line for line in map(json.loads, lines) if line["event"] == kind]

    def until(self, kind: str, count: int) -> None:
        deadline = time.monotonic() + 120
        while len(self.events(kind)) < count:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, f"no {count} jobs {kind}"
            time.sleep(0.05)


@pytest.fixture
def graph(tmp_path):
    def write(nodes: dict[str, Any]) -> Path:
        path = tmp_path / "graph.json"
        path.write_text(json.dumps(nodes))
        return path

    return write


def reds(out: Path) -> list[int]:
    """The colour of each job's one picture, in the order of the jobs."""
    pictures = sorted(out.glob("*/*.png"))
    return [int(np.asarray(Image.open(path).convert("RGB"))[0, 0, 0]) for path in pictures]


def test_jobs_run_and_their_files_are_the_servers(comfy_server, graph, tmp_path):
    code, told, said = Run(comfy_server.url, graph(COLOURS), tmp_path / "out", *EACH, *QUICK).wait()
    assert code == 0, said
    assert reds(tmp_path / "out") == REDS and told.count("done") == len(REDS)
    assert "Enlarge" in said and "Keep" in said
    for path in (tmp_path / "out").glob("*/*.png"):
        assert path.read_bytes() == (comfy_server.base / "output" / "queue" / path.name).read_bytes()


def test_a_photo_is_uploaded(comfy_server, graph, tmp_path):
    pixels = np.random.default_rng(5).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a photo.png")
    code, _, said = Run(
        comfy_server.url, graph(PHOTO), tmp_path / "out", "--set", f"Photo.image={tmp_path / 'a photo.png'}"
    ).wait()
    assert code == 0, said
    (result,) = (tmp_path / "out").glob("*/*.png")
    assert np.array_equal(np.asarray(Image.open(result).convert("RGB")), pixels)
    assert list((comfy_server.base / "input" / "identity_lock").glob("a_photo_*.png"))


def test_a_server_killed_midway_gets_the_rest_again(comfy_server, graph, tmp_path):
    run = Run(comfy_server.url, graph(COLOURS), tmp_path / "out", *EACH, "--reconnect", "200")
    run.until("done", 1)
    comfy_server.kill9()
    done = {line["job"] for line in run.events("done")}
    assert len(done) < len(REDS)
    comfy_server.start()
    code, told, said = run.wait()
    assert code == 0, said
    assert reds(tmp_path / "out") == REDS and "does not answer; waiting" in said and "queued again" in said
    queued = [line["job"] for line in run.events("queued")]
    assert all(queued.count(job) == 1 for job in done) and len(run.events("done")) == len(REDS)


@pytest.mark.parametrize("server_too", [False, True], ids=["client", "both"])
def test_a_client_killed_midway_goes_on(comfy_server, graph, tmp_path, server_too):
    first = Run(comfy_server.url, graph(COLOURS), tmp_path / "out", *EACH)
    first.until("queued", len(REDS))
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.communicate()
    before = len(first.events("done"))
    if server_too:
        comfy_server.kill9()
        comfy_server.start()
    second = Run(comfy_server.url, graph(COLOURS), tmp_path / "out", *EACH)
    code, _, said = second.wait()
    assert code == 0, said
    assert reds(tmp_path / "out") == REDS
    expected = 2 * len(REDS) - before if server_too else len(REDS)
    assert len(second.events("queued")) == expected
    code, told, _ = Run(comfy_server.url, graph(COLOURS), tmp_path / "out", *EACH).wait()
    assert code == 0 and told.count("done before") == len(REDS) and len(second.events("queued")) == expected


def test_what_the_server_refuses_is_told_in_words(comfy_server, graph, tmp_path):
    nodes = json.loads(json.dumps(COLOURS))
    nodes["2"]["inputs"] |= {"upscale_method": "lanczoz", "width": 99_999_999}
    code, _, said = Run(comfy_server.url, graph(nodes), tmp_path / "out").wait()
    assert code == 1
    assert 'Node 2 "Enlarge", input upscale_method: "lanczoz" is not on the server\'s list; nearest: lanczos' in said
    assert 'Node 2 "Enlarge", input width: 99999999 is above the maximum of 16384' in said
    nodes["1"]["class_type"] = "NoSuchNode"
    code, _, said = Run(comfy_server.url, graph(nodes), tmp_path / "out").wait()
    assert code == 1 and 'no node type NoSuchNode (node 1, "Colour"); install the node pack' in said
    code, _, said = Run(
        comfy_server.url, graph(PHOTO), tmp_path / "out", "--set", "Photo.image=no_such_picture.png"
    ).wait()
    assert code == 1 and 'input image: "no_such_picture.png" is neither a file here nor' in said


def test_a_node_that_fails_is_named_with_its_message(comfy_server, graph, tmp_path):
    (comfy_server.base / "input" / "empty.png").write_bytes(b"no picture")
    code, told, said = Run(
        comfy_server.url, graph(PHOTO), tmp_path / "out", "--set", "Photo.image=empty.png [input]"
    ).wait()
    assert code == 1 and "failed" in told
    assert 'Node 1 "Photo" failed: cannot identify image file' in said
