"""Every graph that is shipped runs as it is, on a server that may not reach another machine and does not try.

With fewer steps here, so that all of them take minutes, not an hour.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from identity_lock.tests.host.client import Client
from identity_lock.tests.host.pack import CONSENT, SAMPLE

GRAPHS = Path(__file__).resolve().parents[2] / "workflows" / "api"
NAMES = [
    "full_pipeline", "train_only", "seed_search", "three_pass", "two_pass_stylize", "rescue_any_image", "batch_verify",
    "scene_continuity",
]  # fmt: skip
# By node id of the pack: what a short run needs. Only inputs that a graph sets or leaves at their default are touched.
FEWER: dict[str, dict[str, Any]] = {
    "PhasedLoRATrainer": dict(
        steps_coarse=2, steps_mid=2, steps_mid_fine=2, steps_final_fine=2, jitter_copies=0, rank=8, batch=1,
        plan="demo base, quick",
    ),
    "DriftSeedSearch": dict(count=4, batch=4, control=4, steps=4),
    "ThreePassRender": dict(steps=4),
    "TwoPassStylize": dict(steps=4),
    "RescueBlend": dict(steps=4),
    "KSampler": dict(steps=4),
}


# What the placeholders of workflows/api stand for here; the pack puts the sample photos into ComfyUI's input folder.
FILLED = {"photo_1": SAMPLE, "photo_2": SAMPLE.replace("_1", "_2"), "consent": CONSENT}
PLACEHOLDER = re.compile(r"\{\{\s*(\w+)")


def reduced(prompt: dict[str, Any]) -> dict[str, Any]:
    """The graph with its placeholders filled, and fewer steps. Inputs that are wired stay wired."""
    small = json.loads(json.dumps(prompt))
    for node in small.values():
        inputs = node["inputs"]
        for name, value in inputs.items():
            if isinstance(value, str) and (match := PLACEHOLDER.match(value)):
                inputs[name] = FILLED[match[1]]
        for name, value in FEWER.get(node["class_type"], {}).items():
            if not isinstance(inputs.get(name), list):
                inputs[name] = value
    return small


def test_the_shipped_graphs_are_the_ones_that_are_tested():
    assert sorted(path.stem for path in GRAPHS.glob("*.json")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_graph_runs(client: Client, comfy_server, name):
    prompt = json.loads((GRAPHS / f"{name}.json").read_text())
    since, tried = comfy_server.log_mark(), comfy_server.attempts_mark()
    entry = client.prompt(reduced(prompt), timeout=400)
    outputs = entry["outputs"]
    pictures = [file for shown in outputs.values() for file in shown.get("images", [])]
    if name != "train_only":
        assert pictures
    assert all(client.picture(file).std() > 2 for file in pictures[:3])
    assert "lora key not loaded" not in comfy_server.log_text(since)
    ours = {number: node["class_type"] for number, node in prompt.items()}
    if "PhasedLoRATrainer" in ours.values():
        assert any((comfy_server.base / "models" / "loras").iterdir())
    told = [shown["identity_lock"][0] for shown in outputs.values() if "identity_lock" in shown]
    assert told, "no node of the pack showed anything"
    assert comfy_server.attempts(tried) == []
