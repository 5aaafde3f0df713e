"""What the pack leaves in ComfyUI's output folder says what it is; what it shows in passing is in the temporary one."""

from __future__ import annotations

from pathlib import Path

from identity_lock.safety.provenance import COMPOSITE, GENERATED, read_label
from identity_lock.safety.statement import read_statement
from identity_lock.tests.host.pack import SEED, person, search, shown, tell, three_pass


def test_every_picture_that_the_pack_writes_says_what_it_is(client, comfy_server):
    who = person(client)
    found = search(who, count=2, control=2, first_seed=SEED + 400)
    render = three_pass(who, seed=found[0], file_prefix="outputs/three_pass")
    second = who.graph.add(
        "TwoPassStylize", **who.model, style_model=who.base[0], style_clip=who.base[1], style_vae=who.base[2],
        identity=who.identity[0], seed=found[0], anchor_prompt=render.inputs["anchor_prompt"],
        scene_prompt=render.inputs["scene_prompt"], width=128, height=128, steps=4, sampler="ddim", scheduler="simple",
        file_prefix="outputs/two_pass",
    )  # fmt: skip
    rescued = who.graph.add(
        "RescueBlend", styled=render[2], anchor=render[1], identity=who.identity[0], file_prefix="outputs/rescue"
    )
    for node in (render, second, rescued):
        shown(who.graph, node[0])
    tell(who.graph, found[4])
    entry = client.prompt(who.graph)

    ours = comfy_server.base / "output" / "identity_lock"  # a stock Save Image may write there too, in other folders
    written = [path for folder in ("renders", "seeds") for path in (ours / folder).rglob("*.png")]
    assert {path.name.rpartition("_")[0] for path in written} >= {"three_pass", "two_pass", "rescue", "seed"}
    for path in written:
        label = read_label(path)
        assert label.source_type in (GENERATED, COMPOSITE) and label.creator == "Identity Lock", path
        statement = read_statement(path)
        assert statement.sound, (path, statement.problems)
        assert len(statement.record["recogniser_sha256"]) == 64 == len(statement.record["report_recogniser_sha256"])

    told = [file for output in entry["outputs"].values() for file in output.get("images", [])]
    lasting = [file for file in told if file["type"] != "temp"]
    assert len(told) > len(lasting) >= 3  # previews are among them, and ComfyUI empties their folder when it starts
    for file in lasting:
        assert Path(file["subfolder"]).parts[0] == "identity_lock"
