"""The sockets are ComfyUI's own: our outputs go into stock nodes, stock outputs into ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from identity_lock.tests.host.pack import (
    PROMPT,
    SEED,
    difference,
    lora_tensors,
    person,
    plain_render,
    search,
    shown,
    tell,
    three_pass,
    told,
    trainer,
)

UNMATCHED = "lora key not loaded"
LORA: dict[str, Any] = dict(name="rewire", steps=(12, 2, 2, 2))  # one training, which ComfyUI's cache keeps for all
ROUNDING = 2  # levels of 255: batches and single runs add up in another order


@pytest.fixture(scope="module")
def lora_file(comfy_server):
    """A LoRA that a trainer of the pack made and saved: the name by which the stock loaders list it."""
    from identity_lock.tests.host.client import Client

    client = Client(comfy_server)
    who = person(client)
    training = trainer(who, **LORA)
    name = tell(who.graph, training[1])
    entry = client.prompt(who.graph)
    client.close()
    return told(entry, name)


def test_our_lora_in_the_native_loader_and_our_seed_in_ksampler(client, comfy_server):
    """One graph: train, search with the LORA_MODEL, and render the locked seed by stock nodes alone."""
    since = comfy_server.log_mark()
    who = person(client)
    training = trainer(who, **LORA)
    found = search(who, lora=training[0], strength=0.9)
    best = shown(who.graph, found[2])
    native = who.graph.add("LoraModelLoader", model=who.base[0], lora=training[0], strength_model=0.9)
    plain = plain_render(who, native[0], found[0])
    base = plain_render(who, who.base[0], found[0])
    seed = tell(who.graph, found[0])
    entry = client.prompt(who.graph)
    assert SEED <= int(told(entry, seed)) < SEED + 4
    assert difference(client.pictures(entry, best)[0], client.pictures(entry, plain)[0]) <= ROUNDING
    assert difference(client.pictures(entry, best)[0], client.pictures(entry, base)[0]) > 10
    assert UNMATCHED not in comfy_server.log_text(since)


def test_the_saved_lora_loads_in_the_stock_loader_without_an_unmatched_key(client, comfy_server, lora_file):
    since = comfy_server.log_mark()
    who = person(client)
    file = who.graph.add("LoraLoaderModelOnly", model=who.base[0], lora_name=lora_file, strength_model=1.0)
    plain, base = plain_render(who, file[0], SEED), plain_render(who, who.base[0], SEED)
    entry = client.prompt(who.graph)
    assert UNMATCHED not in comfy_server.log_text(since)
    assert difference(client.pictures(entry, plain)[0], client.pictures(entry, base)[0]) > 10  # and it does something
    tensors = lora_tensors(comfy_server.base, lora_file)
    assert all(np.isfinite(value).all() for value in tensors.values()) and len(tensors) > 20


def test_the_file_the_socket_and_our_engine_make_the_same_picture(client, lora_file):
    """LoraLoaderModelOnly's file, patched on a MODEL that our search takes, equals the LORA_MODEL given to it."""
    who = person(client)
    training = trainer(who, **LORA)
    ours = search(who, lora=training[0], count=1, batch=1, control=1)
    native = who.graph.add("LoraLoaderModelOnly", model=who.base[0], lora_name=lora_file, strength_model=1.0)
    patched = search(who, model=native[0], count=1, batch=1, control=1)
    one, other = shown(who.graph, ours[2]), shown(who.graph, patched[2])
    entry = client.prompt(who.graph)
    assert difference(client.pictures(entry, one)[0], client.pictures(entry, other)[0]) <= ROUNDING


def test_a_native_lora_goes_into_our_render(client, comfy_server):
    """TrainLoraNode's LORA_MODEL, a few steps on the demo base, in our three passes."""
    if "TrainLoraNode" not in client.schema:
        pytest.skip("this ComfyUI trains no LoRA of its own")
    since = comfy_server.log_mark()
    who = person(client)
    small = who.graph.add("ImageScale", image=who.photo[0], width=128, height=128)
    latents = who.graph.add("VAEEncode", pixels=small[0], vae=who.base[2])
    words = who.graph.add("CLIPTextEncode", clip=who.base[1], text=PROMPT)
    wanted = dict(
        steps=3, rank=4, learning_rate=1e-3, training_dtype="fp32", lora_dtype="fp32", gradient_checkpointing=False,
        seed=1,
    )  # fmt: skip
    known = {**client.schema["TrainLoraNode"]["input"]["required"]}
    native = who.graph.add(
        "TrainLoraNode", model=who.base[0], latents=latents[0], positive=words[0],
        **{name: value for name, value in wanted.items() if name in known},
    )  # fmt: skip
    # 0.18.2 gives the LORA_MODEL first; older versions gave the patched model before it
    output = client.schema["TrainLoraNode"]["output"].index("LORA_MODEL")
    render = three_pass(who, lora=native[output])
    plain = three_pass(who)
    one, other = shown(who.graph, render[1]), shown(who.graph, plain[1])
    entry = client.prompt(who.graph)
    with_lora, without = client.pictures(entry, one)[0], client.pictures(entry, other)[0]
    assert difference(with_lora, without) > 0
    assert UNMATCHED not in comfy_server.log_text(since)


def test_the_rescue_takes_pictures_of_any_origin(client):
    """A photo in, no model wired: RescueBlend works on pixels alone."""
    who = person(client)
    other = who.graph.add("LoadImage", image="identity_lock_sample_2.png")
    rescued = who.graph.add("RescueBlend", styled=other[0], anchor=who.photo[0], identity=who.identity[0])
    result, mask = shown(who.graph, rescued[0]), who.graph.add("MaskToImage", mask=rescued[3])
    before, after = tell(who.graph, rescued[1]), tell(who.graph, rescued[2])
    seen = shown(who.graph, mask[0])
    entry = client.prompt(who.graph)
    assert float(told(entry, after)) <= float(told(entry, before)) + 1e-6
    assert client.pictures(entry, result)[0].shape == client.pictures(entry, seen)[0].shape


@pytest.mark.parametrize("layout", ["sd15", "sdxl"])
def test_an_ordinary_checkpoint_trains_searches_and_renders(client, comfy_server, layout, request):
    """The demo base replaced by a stock checkpoint loader, as the notes in the shipped graphs say."""
    since = comfy_server.log_mark()
    who = person(client)
    graph = who.graph
    loader = graph.add("CheckpointLoaderSimple", ckpt_name=request.getfixturevalue(layout).name)
    wired = dict(model=loader[0], clip=loader[1], vae=loader[2])
    training = trainer(
        who, name=f"host_{layout}", steps=(2, 1, 1, 1), resolution=64, rank=4,
        layers="attention", **wired,
    )  # fmt: skip
    few = dict(steps=1, width=64, height=64, sampler="euler", scheduler="normal")
    found = search(who, lora=training[0], count=2, batch=2, control=2, **few, **wired)
    native = graph.add("LoraModelLoader", model=loader[0], lora=training[0], strength_model=1.0)
    empty = graph.add("EmptyLatentImage", width=64, height=64)
    words = graph.add("CLIPTextEncode", clip=loader[1], text=PROMPT)
    none = graph.add("CLIPTextEncode", clip=loader[1], text="")
    sampled = graph.add(
        "KSampler", model=native[0], positive=words[0], negative=none[0], latent_image=empty[0], seed=found[0],
        steps=1, cfg=1.5, sampler_name="euler", scheduler="normal",
    )  # fmt: skip
    plain = shown(graph, graph.add("VAEDecode", samples=sampled[0], vae=loader[2])[0])
    best = shown(graph, found[2])
    entry = client.prompt(graph, timeout=600)
    assert difference(client.pictures(entry, plain)[0], client.pictures(entry, best)[0]) <= ROUNDING
    assert UNMATCHED not in comfy_server.log_text(since)
