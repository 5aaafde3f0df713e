"""A seed that the search reports is a seed for everybody, and no search loses what it has found."""

from __future__ import annotations

import pytest

from identity_lock.tests.host.client import Interrupted
from identity_lock.tests.host.pack import (
    SEED,
    difference,
    journal,
    live,
    person,
    plain_render,
    search,
    shown,
    tell,
    told,
)


def test_the_locked_seed_gives_the_same_picture_in_ksampler(client):
    """Without any LoRA; test_rewire.py has the same with one."""
    who = person(client)
    found = search(who, count=6, batch=3)
    best, sheet = shown(who.graph, found[2]), shown(who.graph, found[3])
    seed, drift = tell(who.graph, found[0]), tell(who.graph, found[1])
    plain = plain_render(who, who.base[0], found[0])
    entry = client.prompt(who.graph)
    assert difference(client.pictures(entry, best)[0], client.pictures(entry, plain)[0]) <= 2
    (told_results,) = entry["outputs"][found.number]["identity_lock"]
    assert told_results["results"][0]["seed"] == int(told(entry, seed))
    assert told_results["results"][0]["drift"] == pytest.approx(float(told(entry, drift)), abs=1e-6)
    assert min(result["drift"] for result in told_results["results"]) == told_results["results"][0]["drift"]
    height, width, _ = client.pictures(entry, sheet)[0].shape
    assert height > 128 and width > 128


def test_the_faces_arrive_in_the_browser_as_they_are_found(client):
    who = person(client)
    found = search(who, count=6, batch=2, first_seed=SEED + 100)
    tell(who.graph, found[4])
    client.prompt(who.graph)
    events = [data for data in live(client.events, "search") if data["node"] == found.number]
    seeds = [result["seed"] for data in events for result in data["results"]]
    assert len(events) >= 3 and events[0]["reset"] and set(seeds) >= set(range(SEED + 100, SEED + 106))
    assert [data["done"] for data in events] == sorted(data["done"] for data in events)
    file = events[0]["results"][0]["file"] if events[0]["results"] else events[1]["results"][0]["file"]
    assert client.picture(file).shape == (128, 128, 3)


def slow_search(client, first_seed: int, count: int = 24):
    who = person(client)
    found = search(who, count=count, batch=2, control=count, first_seed=first_seed)
    return who, found, tell(who.graph, found[0]), tell(who.graph, found[4])


def some_found(client, number: str, least: int = 4) -> None:
    client.wait_for_event(
        lambda kind, data: kind == "identity_lock" and data.get("kind") == "search" and data["node"] == number
        and data["done"] >= least
    )  # fmt: skip


@pytest.mark.parametrize("how", ["interrupt", "kill"])
def test_a_search_goes_on_where_it_was_cut_off(client, comfy_server, how):
    first = SEED + (1000 if how == "interrupt" else 2000)
    who, found, seed, report = slow_search(client, first)
    queued = client.queue(who.graph)
    some_found(client, found.number)
    if how == "interrupt":
        client.interrupt()
        with pytest.raises(Interrupted):
            client.wait(queued)
    else:
        comfy_server.kill9()
    before = journal(comfy_server.base)[-1]
    kept = [line for line in before if line.get("seed", -1) >= first]
    assert 0 < len(kept) < 24
    pictures = {
        file: file.stat().st_mtime_ns for file in (comfy_server.base / "output/identity_lock/seeds").rglob("*.png")
    }
    if how == "kill":
        comfy_server.start()

    entry = client.prompt(who.graph)
    after = journal(comfy_server.base)[-1]
    assert after[: len(before)] == before
    done = [line["seed"] for line in after if line.get("seed", -1) >= first]
    assert sorted(done) == list(range(first, first + 24))  # each once: nothing lost, nothing repeated
    assert all(file.stat().st_mtime_ns == moment for file, moment in pictures.items())
    assert first <= int(told(entry, seed)) < first + 24 and told(entry, report)
