"""Two servers that share their output and their LoRAs, as two on one network folder do."""

from __future__ import annotations

import pytest

from identity_lock.tests.host.client import Client, PromptError
from identity_lock.tests.host.pack import person, sentence, shown, tell, three_pass, told, trainer
from identity_lock.tests.host.server import Server

STEPS = (4, 12, 2, 2)


@pytest.fixture
def neighbour(comfy, comfy_server, checkpoint_folder, tmp_path):
    """A client of a second server, with folders of its own but for what both write."""
    for shared in ("output", "models/loras"):
        link = tmp_path / "comfyui" / shared
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(comfy_server.base / shared, target_is_directory=True)
    server = Server(comfy, tmp_path / "comfyui", checkpoints=checkpoint_folder)
    try:
        client = Client(server.start())
        yield client
        client.close()
    finally:
        server.stop()


def training(client: Client, **inputs):
    who = person(client)
    node = trainer(who, name="shared", steps=STEPS, **inputs)
    return who.graph, node, tell(who.graph, node[1])


def rendering(client: Client, seed: int):
    who = person(client)
    node = three_pass(who, seed=seed, file_prefix="together")
    shown(who.graph, node[0])
    return who.graph


def test_the_same_training_runs_once_and_names_are_taken_once(client, neighbour, comfy_server):
    graph, node, name = training(client)
    queued = client.queue(graph)
    client.wait_for_event(
        lambda kind, data: kind == "identity_lock" and data.get("kind") == "training" and data["node"] == node.number
        and data["step"] >= 1
    )  # fmt: skip
    same, _, _ = training(neighbour)
    with pytest.raises(PromptError) as refused:
        neighbour.prompt(same)
    message = str(refused.value)
    assert sentence(message) and "Another trainer (process" in message and "is at work in" in message
    other, _, other_name = training(neighbour, seed=77)  # another training may go on beside it
    second = told(neighbour.prompt(other), other_name)
    first = told(client.wait(queued), name)
    assert {first, second} == {"shared.safetensors", "shared_2.safetensors"}
    assert all((comfy_server.base / "models" / "loras" / file).is_file() for file in (first, second))


def test_renders_of_both_get_numbers_of_their_own(client, neighbour, comfy_server):
    queued = [(each, each.queue(rendering(each, seed))) for seed, each in enumerate((client, neighbour))]
    for each, number in queued:
        each.wait(number)
    folder = comfy_server.base / "output" / "identity_lock" / "renders"
    assert sorted(path.name for path in folder.glob("together_*.png")) == ["together_00001.png", "together_00002.png"]
    lines = (folder / "renders.jsonl").read_text()
    assert all(lines.count(f'"file": "together_0000{number}.png"') == 1 for number in (1, 2))
    assert not list(folder.glob(".*"))
