"""The ground the other host tests stand on: the server runs, stock graphs run on it, failures are told."""

from __future__ import annotations

import pytest

from identity_lock.tests.host.client import Client, PromptError


def stock_render(client: Client, checkpoint: str, *, seed: int = 7, size: int = 128):
    graph = client.graph()
    loader = graph.add("CheckpointLoaderSimple", ckpt_name=checkpoint)
    words = graph.add("CLIPTextEncode", clip=loader[1], text="a garden")
    empty = graph.add("EmptyLatentImage", width=size, height=size, batch_size=1)
    sampled = graph.add(
        "KSampler", model=loader[0], positive=words[0], negative=words[0], latent_image=empty[0], seed=seed, steps=2
    )
    decoded = graph.add("VAEDecode", samples=sampled[0], vae=loader[2])
    return graph, graph.add("PreviewImage", images=decoded[0])


def test_the_server_is_the_version_that_was_asked_for(comfy, comfy_server):
    assert comfy_server.get("/system_stats")["system"]["comfyui_version"] == comfy.version
    assert "--cpu" in comfy_server.command


@pytest.mark.parametrize("layout", ["sd15", "sdxl"])
def test_stock_nodes_run_the_generated_checkpoint(client, layout, request):
    graph, shown = stock_render(client, request.getfixturevalue(layout).name)
    entry = client.prompt(graph)
    (picture,) = client.pictures(entry, shown)
    assert picture.shape == (128, 128, 3) and picture.std() > 5
    assert any(kind == "executing" for kind, _ in client.events)


def test_a_graph_that_comfyui_refuses_raises_its_message(client):
    graph, _ = stock_render(client, "no_such_file.safetensors")
    with pytest.raises(PromptError, match="no_such_file") as told:
        client.prompt(graph)
    assert told.value.kind == "value_not_in_list"


def test_a_node_that_fails_raises_its_message(client, comfy_server):
    (comfy_server.base / "input" / "empty.png").write_bytes(b"no picture")
    graph = client.graph()
    graph.add("PreviewImage", images=graph.add("LoadImage", image="empty.png")[0])
    with pytest.raises(PromptError) as told:
        client.prompt(graph)
    assert told.value.node == "LoadImage" and told.value.traceback


def test_scripts_run_inside_comfyuis_python(inside):
    assert inside("where", "a", 2) == {"arguments": ["a", "2"], "comfy": True, "pack": "identity_lock", "device": "cpu"}
    with pytest.raises(AssertionError, match="where.py ended with 1:[\\s\\S]*asked to fail"):
        inside("where", "fail")
