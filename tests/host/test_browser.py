"""The pack in the real front end, in headless Chromium, under both of its node renderers.

Screenshots are kept in out/browser/<renderer>/.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from identity_lock.tests.host.chromium import BrowserMissing, Chromium, Visit, find_chromium

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = ROOT / "workflows"
OUT = ROOT / "out" / "browser"
NAMES = [
    "full_pipeline", "train_only", "seed_search", "three_pass", "two_pass_stylize", "rescue_any_image", "batch_verify",
    "scene_continuity",
]  # fmt: skip
SHORT = {
    "PhasedLoRATrainer.plan": "demo base, quick",
    "PhasedLoRATrainer.steps_coarse": 16,
    "PhasedLoRATrainer.steps_mid": 8,
    "PhasedLoRATrainer.steps_mid_fine": 4,
    "PhasedLoRATrainer.steps_final_fine": 4,
    "PhasedLoRATrainer.jitter_copies": 0,
    "PhasedLoRATrainer.batch": 1,
    "PhasedLoRATrainer.rank": 8,
    "DriftSeedSearch.count": 12,
    "DriftSeedSearch.batch": 2,
    "DriftSeedSearch.control": 12,
    "DriftSeedSearch.steps": 4,
    "ThreePassRender.steps": 4,
}


@pytest.fixture(scope="module")
def chromium() -> Chromium:
    try:
        return find_chromium()
    except BrowserMissing as lacking:
        pytest.skip(str(lacking))


@pytest.fixture(params=["classic", "vue"])
def visit(request, chromium, comfy_server):
    """visit(steps) -> Visit, with screenshots under the renderer's name."""
    vue = request.param == "vue"

    def go(steps: list[dict[str, Any]]) -> Visit:
        return chromium.visit(comfy_server.url, steps, OUT / request.param, Comfy_VueNodes_Enabled=vue)

    go.renderer = request.param
    return go


def workflow(name: str) -> dict[str, Any]:
    return json.loads((WORKFLOWS / f"{name}.json").read_text())


def test_every_workflow_opens_whole(visit):
    steps: list[dict[str, Any]] = []
    for name in NAMES:
        steps += [{"do": "open", "graph": workflow(name), "name": name}, {"do": "shot", "name": f"{name}_open"}]
    seen = visit(steps)
    for name, nodes in zip(NAMES, seen.results[::2], strict=True):
        assert nodes and [node["type"] for node in nodes if not node["known"]] == [], name
        assert [node["type"] for node in nodes if node["red"]] == [], name
    assert seen.errors == []


def test_a_run_draws_as_it_goes_and_its_charts_outlive_a_reload(visit, comfy_server):
    """The full pipeline in a few steps: before, while it runs, after, and after a reload of the page."""
    charts = ["PhasedLoRATrainer", "DriftSeedSearch"]
    # other seeds for each renderer, or ComfyUI would answer from its cache
    seed, first = 1000 + len(visit.renderer), 5000 + 100 * len(visit.renderer)
    seen = visit(
        [
            {"do": "open", "graph": workflow("full_pipeline"), "name": "full_pipeline"},
            {"do": "set", "changes": SHORT | {"PhasedLoRATrainer.seed": seed, "DriftSeedSearch.first_seed": first}},
            {"do": "shot", "name": "full_pipeline_before"},
            *({"do": "widgets", "type": chart} for chart in charts),
            {"do": "run", "watch": {charts[0]: "full_pipeline_trains", charts[1]: "full_pipeline_searches"}},
            {"do": "shot", "name": "full_pipeline_after"},
            *({"do": "shows", "type": chart} for chart in charts),
            *({"do": "shot", "name": f"full_pipeline_{chart}", "type": chart} for chart in charts),
            {"do": "click", "selector": ".il-face"},
            {"do": "wait", "seconds": 0.5},
            {"do": "clipboard"},
            {"do": "reload"},
            *({"do": "shows", "type": chart} for chart in charts),
            {"do": "shot", "name": "full_pipeline_reloaded"},
        ]
    )
    before, run = seen.results[3:5], seen.results[5]
    after, copied, reloaded = seen.results[7:9], seen.results[13], seen.results[15:17]
    assert seen.results[1] == [], "the graph lacks these widgets"
    assert run["kind"] == "execution_success", run["detail"]
    for chart, was, now, again in zip(charts, before, after, reloaded, strict=True):
        assert run["looks"][chart] >= 4, f"{chart} moved {run['looks'][chart]} times"
        assert any(widget["filled"] and widget["onPage"] for widget in now), f"{chart} shows nothing after the run"
        assert now != was
        assert any(widget["filled"] and widget["onPage"] for widget in again), f"{chart} lost its chart in a reload"
        assert [widget["text"] for widget in again] == [widget["text"] for widget in now]
    assert first <= int(copied) < first + 12, "a click on a face copies its seed"
    assert seen.errors == []


def test_the_templates_browser_lists_our_graphs(visit, comfy_server):
    listed = comfy_server.get("/workflow_templates")
    assert set(NAMES) <= set(listed["identity_lock"])
    seen = visit(
        [
            {"do": "command", "command": "Comfy.BrowseTemplates"},
            {"do": "shot", "name": "templates", "fit": False},
            {"do": "text"},
        ]
    )
    page = seen.results[-1].lower()
    missed = [name for name in NAMES if name.replace("_", " ") not in page and name not in page]
    assert missed == [], page[-1500:]
    assert seen.errors == []
