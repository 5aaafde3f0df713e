"""Training on a MODEL that other nodes use too, cut off and gone on with, in one session of a real server."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from identity_lock.tests.host.client import Client, Interrupted
from identity_lock.tests.host.pack import (
    PROMPT,
    SEED,
    difference,
    live,
    lora_tensors,
    person,
    plain_render,
    same_tensors,
    shown,
    tell,
    told,
    trainer,
)

LONG_ENOUGH = (4, 16, 2, 2)  # checkpoints: after each phase, and when it is interrupted
GOES_ON = re.compile(r"resum|went on|goes on|continue", re.IGNORECASE)


def training_graph(client: Client, name: str, **inputs):
    who = person(client)
    node = trainer(who, name=name, steps=LONG_ENOUGH, **inputs)
    return who.graph, node, tell(who.graph, node[1]), tell(who.graph, node[2])


@dataclass(frozen=True)
class Outcome:
    """What a run leaves: its LoRA (the best by identity, so perhaps one of the first steps), and its last state."""

    lora: dict[str, np.ndarray]
    state: dict[str, np.ndarray]

    @classmethod
    def of(cls, comfy_server, file: str) -> Outcome:
        (folder,) = training_folders(comfy_server, file.removesuffix(".safetensors"))
        (checkpoint,) = folder.glob("*.safetensors")
        return cls(lora_tensors(comfy_server.base, file), dict(load_file(checkpoint)))

    def equals(self, other: Outcome) -> bool:
        return same_tensors(self.lora, other.lora) and same_tensors(self.state, other.state)


def training_folders(comfy_server, name: str) -> list[Path]:
    return list((comfy_server.base / "output" / "identity_lock" / "training").glob(f"{name}-*"))


@pytest.fixture(scope="module")
def uninterrupted(comfy_server):
    """What the run gives when nothing happens to it."""
    client = Client(comfy_server)
    graph, _, name, _ = training_graph(client, "uninterrupted")
    entry = client.prompt(graph)
    client.close()
    outcome = Outcome.of(comfy_server, told(entry, name))
    assert all(np.abs(value).max() > 0 for name, value in outcome.state.items() if name.startswith("adapter/"))
    return outcome


def until_step(client: Client, number: str, step: int) -> None:
    client.wait_for_event(
        lambda kind, data: kind == "identity_lock" and data.get("kind") == "training" and data["node"] == number
        and data["step"] >= step
    )  # fmt: skip


@pytest.mark.parametrize("how", ["interrupt", "kill"])
def test_a_run_that_is_cut_off_goes_on_to_the_same_lora(client, comfy_server, uninterrupted, how):
    graph, node, name, report = training_graph(client, f"cut_off_{how}")
    queued = client.queue(graph)
    until_step(client, node.number, 8)
    if how == "interrupt":
        client.interrupt()
        with pytest.raises(Interrupted):
            client.wait(queued)
    else:
        comfy_server.kill9()
    (folder,) = training_folders(comfy_server, f"cut_off_{how}")
    assert list(folder.glob("*.safetensors")), "no checkpoint was kept"
    assert not list((comfy_server.base / "models" / "loras").glob(f"cut_off_{how}*"))
    if how == "kill":
        comfy_server.start()

    entry = client.prompt(graph)
    assert GOES_ON.search(told(entry, report)), told(entry, report)
    assert Outcome.of(comfy_server, told(entry, name)).equals(uninterrupted)
    first, second = live(client.events, "training")[:2]
    assert first["reset"] and second["step"] > 4  # the chart begins anew, with what was done before
    assert second["loss"][0][0] <= 1 and second["loss"][-1][0] >= second["step"] - 1


def test_the_curves_are_told_live_and_kept_in_the_history(client):
    graph, node, _, _ = training_graph(client, "curves", seed=5)
    entry = client.prompt(graph)
    events = live(client.events, "training")
    steps = [data["step"] for data in events]
    assert steps == sorted(steps) and len(set(steps)) > 5
    (final,) = entry["outputs"][node.number]["identity_lock"]
    assert final["final"] and final["kind"] == "training" and final["report"]
    assert final["step"] == final["total"] == sum(LONG_ENOUGH) and final["loss"] and final["probe"] and final["drift"]
    assert [name for name, *_ in final["phases"]] == ["COARSE", "MID", "MID_FINE", "FINAL_FINE"]
    assert [step for step, _ in final["loss"]] == sorted(step for step, _ in final["loss"])


def test_train_sample_train_in_one_session_and_the_model_is_as_before(client):
    """Inference tensors, left-over adapters, changed weights: each of them shows in one of these runs."""
    who = person(client)
    picture = plain_render(who, who.base[0], SEED)
    entry = client.prompt(who.graph)
    before = client.pictures(entry, picture)[0]

    who = person(client)
    first = trainer(who, name="first", seed=11)
    tell(who.graph, first[2])
    client.prompt(who.graph)

    who = person(client)
    first = trainer(who, name="first", seed=11)
    # strength 0 gives the MODEL as it is; without this node ComfyUI would show the picture that it remembers
    native = who.graph.add("LoraModelLoader", model=who.base[0], lora=first[0], strength_model=0.0)
    same = plain_render(who, native[0], SEED)
    second = trainer(who, name="second", seed=12)
    plot = shown(who.graph, second[3])
    entry = client.prompt(who.graph)
    assert difference(client.pictures(entry, same)[0], before) == 0
    assert client.pictures(entry, plot)[0].std() > 5


def test_a_training_that_was_done_before_is_not_done_again(client, comfy_server, uninterrupted):
    """The same run asked for again: its finished checkpoint answers, and the file keeps its name."""
    files = set((comfy_server.base / "models" / "loras").iterdir())
    client.free()
    graph, _, name, _ = training_graph(client, "uninterrupted")
    entry = client.prompt(graph)
    assert told(entry, name) == "uninterrupted.safetensors"
    assert set((comfy_server.base / "models" / "loras").iterdir()) == files
    assert same_tensors(lora_tensors(comfy_server.base, told(entry, name)), uninterrupted.lora)


def test_another_training_under_a_used_name_gets_a_name_of_its_own(client, comfy_server, uninterrupted):
    who = person(client)
    node = trainer(who, name="uninterrupted", seed=77, caption=PROMPT)
    name = tell(who.graph, node[1])
    assert told(client.prompt(who.graph), name) == "uninterrupted_2.safetensors"
