"""What a graph leaves of a person in ComfyUI's folders, `identity-lock forget` finds and removes; and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from identity_lock.demo.subjects import PHOTOS
from identity_lock.tests.host.client import Client
from identity_lock.tests.host.pack import Person, person, search, shown, three_pass, trainer
from identity_lock.tests.host.server import Server

KEPT = ("input", "output", "models/loras", "models/identities", "temp")


def files(base: Path) -> set[str]:
    return {str(path.relative_to(base)) for top in KEPT for path in (base / top).rglob("*") if path.is_file()}


def whole_graph(who: Person, name: str) -> Person:
    """Everything that leaves a file, the stock nodes that save and preview among it."""
    who.identity.inputs["name"] = name
    lora = trainer(who, name=f"lora of {name}")
    found = search(who, lora=lora[0], count=2, batch=2, control=2, steps=4)
    render = three_pass(who, lora=lora[0], seed=found[0], steps=4)
    who.graph.add("SaveIdentity", identity=who.identity[0], file_name=name)
    who.graph.add("SaveImage", images=render[0], filename_prefix="stock")
    shown(who.graph, found[3])  # the contact sheet
    shown(who.graph, who.faces[0])  # the crops
    return who


def command(*words: object) -> str:
    told = [sys.executable, "-m", "identity_lock.cli", *map(str, words)]
    return subprocess.run(told, capture_output=True, text=True, check=True).stdout


def test_a_person_is_forgotten_and_the_others_stay(client: Client, comfy_server: Server, tmp_path: Path) -> None:
    """One graph is queued by the browser's way, the other by `identity-lock queue`, which fetches the results."""
    client.prompt(whole_graph(person(client), "somebody else").graph)
    before = files(comfy_server.base)
    photo = client.upload(PHOTOS / "grace_hopper.jpg", "a photo of grace.jpg")
    grace = whole_graph(person(client, photo=photo), "grace host test")
    (tmp_path / "graph.json").write_text(json.dumps(grace.graph.prompt))
    command("queue", tmp_path / "graph.json", "--server", comfy_server.url, "--out", tmp_path / "out")
    assert len(list(tmp_path.glob("out/*/*.png"))) >= 2 and "done" in (tmp_path / "out" / "queue.jsonl").read_text()
    left = files(comfy_server.base) - before
    assert {name.split("/")[0] for name in left} == {"input", "output", "models", "temp"}
    assert len([name for name in left if name.startswith("output/stock")]) == 1

    told = command("forget", "grace host test", "--dry-run")
    assert files(comfy_server.base) == before | left
    assert all(str(comfy_server.base / name) in told for name in left), told

    told = command("forget", "grace host test")
    assert files(comfy_server.base) == before, told
    logged = (comfy_server.base / "output/identity_lock/renders/renders.jsonl").read_text()
    assert "somebody else" in logged and "grace host test" not in logged
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"queue.jsonl", ".queue.lock"}
    assert len((tmp_path / "out" / "queue.jsonl").read_text().splitlines()) == 1  # of which graph the folder is
    assert (PHOTOS / "grace_hopper.jpg").exists()
