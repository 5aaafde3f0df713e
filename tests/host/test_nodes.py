"""What the host knows of the pack once it has started."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from identity_lock.tests.host.pack import CONSENT, NODE_IDS, PROMPT, person, shown, tell, told

ROOT = Path(__file__).resolve().parents[2]


def test_every_node_is_there_and_the_start_is_clean(comfy_server, client):
    ours = {name for name, node in client.schema.items() if node["category"].startswith("Identity Lock")}
    assert ours == NODE_IDS
    log = comfy_server.log_text()
    assert "IMPORT FAILED" not in "\n".join(line for line in log.splitlines() if "identity_lock" in line)


def test_every_node_has_a_help_page_and_tooltips(comfy_server, client):
    for name in sorted(NODE_IDS):
        node = client.schema[name]
        assert node["description"], name
        page = comfy_server.base / "custom_nodes" / "identity_lock" / "web" / "docs" / f"{name}.md"
        assert page.is_file() and len(page.read_text()) > 200, name
        inputs = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
        silent = [key for key, spec in inputs.items() if len(spec) < 2 or not spec[1].get("tooltip")]
        assert silent == [], name


def test_the_schema_snapshot_is_true(comfy, comfy_server, client):
    """tests/nodes/ checks every workflow against the snapshot where there is no ComfyUI; here it is checked itself."""
    tool = pytest.importorskip("identity_lock.tools.schema")
    if comfy.release < (0, 18):
        pytest.skip(f"the snapshot is of 0.18.2; ComfyUI {comfy.version} words its schema differently")
    kept = json.loads((ROOT / "tests" / "nodes" / "schema.json").read_text())
    assert tool.snapshot(client.schema) == kept, "python -m identity_lock.tools.schema writes it anew"


def test_an_identity_is_saved_and_loaded(client, comfy_server):
    who = person(client)
    saved = who.graph.add("SaveIdentity", identity=who.identity[0], file_name="host_test")
    name = tell(who.graph, saved[0])
    entry = client.prompt(who.graph)
    file = told(entry, name)
    assert (comfy_server.base / "models" / "identities" / file).is_file()

    graph = client.graph()
    loaded = graph.add("LoadIdentity", file=file)
    photo = graph.add("LoadImage", image="identity_lock_sample_2.png")
    score = graph.add("DriftScore", images=photo[0], identity=loaded[0])
    drift, report = tell(graph, score[0]), tell(graph, loaded[1])
    entry = client.prompt(graph)
    assert 0.0 < float(told(entry, drift)) < 0.6  # another view of the same head
    assert CONSENT[:30] in told(entry, report) or "sample" in told(entry, report)


def test_a_batch_is_parted_into_accepted_and_rejected(client):
    """The same photo passes, a picture of nobody does not, and an empty part stops only what hangs on it."""
    who = person(client)
    nobody = who.graph.add("EmptyImage", width=256, height=256)
    face = who.graph.add("ImageScale", image=who.photo[0], width=256, height=256)
    both = who.graph.add("ImageBatch", image1=face[0], image2=nobody[0])
    score = who.graph.add("DriftScore", images=both[0], identity=who.identity[0], threshold=0.3)
    drift, accepted, rejected = tell(who.graph, score[0]), shown(who.graph, score[1]), shown(who.graph, score[2])
    alone = who.graph.add("DriftScore", images=nobody[0], identity=who.identity[0])
    none = shown(who.graph, alone[1])
    entry = client.prompt(who.graph)
    assert float(told(entry, drift)) == 1.0
    assert len(client.pictures(entry, accepted)) == 1 and client.pictures(entry, accepted)[0].std() > 5
    assert len(client.pictures(entry, rejected)) == 1 and client.pictures(entry, rejected)[0].std() == 0
    assert none.number not in entry["outputs"]


def test_what_a_node_shows_reaches_the_history(client):
    """Charts and sheets come back from there after a reload."""
    who = person(client)
    tell(who.graph, who.identity[1])
    search = who.graph.add(
        "DriftSeedSearch", **who.model, identity=who.identity[0], prompt=PROMPT, width=128, height=128, steps=2,
        sampler="ddim", scheduler="simple", cfg=1.5, count=2, batch=2, control=2,
    )  # fmt: skip
    tell(who.graph, search[4])
    entry = client.prompt(who.graph)
    (found,) = entry["outputs"][search.number]["identity_lock"]
    assert found["kind"] == "search" and found["final"] and found["done"] == found["total"] == 2
    assert {result["seed"] for result in found["results"]} == {1187891159, 1187891160}
    for result in found["results"]:
        assert client.picture(result["file"]).shape == (128, 128, 3)
    assert sum(found["histogram"]) == 2
