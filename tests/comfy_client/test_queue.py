"""The command against a stand-in server: crashes of either side, dropped connections, failures, and nothing twice."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from identity_lock import cli
from identity_lock.comfy_client import follow
from identity_lock.comfy_client.lock import LOCK_NAME, only_client
from identity_lock.comfy_client.refusals import UsageRefused
from identity_lock.safety import atomic
from identity_lock.safety.offline import NetworkRefused
from identity_lock.tests.comfy_client.conftest import COLOURS, PHOTOS

EACH = ("--each", "Colour.color=1,2,3")


def colours_of(prompts) -> list[int]:
    return [prompt["1"]["inputs"]["color"] for prompt in prompts]


def saved(folder) -> dict[str, int]:
    """Colour by the path of each result."""
    return {
        path.relative_to(folder).as_posix(): json.loads(path.read_bytes())["1"]["inputs"]["color"]
        for path in sorted(folder.rglob("*.png"))
    }


# ---- the plain way ---------------------------------------------------------------------------------------------------


def test_one_graph_one_job(queue, stand_in, tmp_path, journal):
    code, told, said = queue("--set", "Colour.color=9")
    assert code == 0
    assert saved(tmp_path / "out") == {"001_graph/picture_00001_.png": 9}
    assert "001_graph" in told and "done" in told and "2.5" in told  # seconds by the server's clock
    assert "001_graph: Colour" in said and "001_graph: Keep" in said  # progress by title, without a terminal
    assert [line["event"] for line in journal()] == ["graph", "planned", "queued", "done"]


def test_a_list_becomes_jobs_in_folders_of_their_own(queue, stand_in, tmp_path):
    code, told, _ = queue(*EACH)
    assert code == 0 and sorted(colours_of(stand_in.ran)) == [1, 2, 3]
    assert sorted(saved(tmp_path / "out").values()) == [1, 2, 3]
    assert {name.split("/")[0] for name in saved(tmp_path / "out")} == {"001_1", "002_2", "003_3"}
    assert told.count("done") == 3


def test_run_again_it_repeats_nothing(queue, stand_in, tmp_path, journal):
    queue(*EACH)
    before, lines = saved(tmp_path / "out"), journal()
    code, told, _ = queue(*EACH)
    assert code == 0 and len(stand_in.ran) == 3 and journal() == lines
    assert told.count("done before") == 3 and saved(tmp_path / "out") == before
    stand_in.stop()  # what is all done needs no server
    assert queue(*EACH)[0] == 0
    stand_in.start()


def test_a_list_that_grew_adds_what_is_new(queue, stand_in, tmp_path):
    queue(*EACH)
    code, told, _ = queue("--each", "Colour.color=4,3,2,1")
    assert code == 0 and colours_of(stand_in.ran) == [1, 2, 3, 4]
    assert saved(tmp_path / "out")["004_4/picture_00004_.png"] == 4 and told.count("done before") == 3


def test_photos_are_uploaded_once_and_named_by_content(queue, stand_in, write_graph, write_picture, tmp_path):
    write_picture("in/a.png", (1, 1, 1)), write_picture("in/b.png", (2, 2, 2))
    graph = write_graph(PHOTOS, "photos.json")
    assert queue("--each", f"Photo 1.image={tmp_path}/in/*.png", graph=graph)[0] == 0
    named = [prompt["1"]["inputs"]["image"] for prompt in stand_in.ran]
    assert sorted(named) == sorted(stand_in.uploads) and all(name.startswith("identity_lock/") for name in named)
    assert (tmp_path / "in" / "a.png").read_bytes() in stand_in.uploads.values()
    write_picture("in/a.png", (3, 3, 3))  # other content is another job
    assert queue("--each", f"Photo 1.image={tmp_path}/in/*.png", graph=graph)[0] == 0
    assert len(stand_in.ran) == 3 and len(stand_in.uploads) == 3


def test_previews_are_fetched_only_when_asked_for(queue, stand_in, write_graph, tmp_path):
    nodes = copy.deepcopy(COLOURS) | {"3": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}
    assert queue(graph=write_graph(nodes))[0] == 0
    assert len(list((tmp_path / "out" / "001_graph").iterdir())) == 1
    assert queue("--all", "--set", "Colour.color=2", "--out", tmp_path / "more", graph=write_graph(nodes))[0] == 0
    assert len(list((tmp_path / "more" / "001_graph").iterdir())) == 2


@pytest.mark.parametrize(
    ("ui", "shown"),
    [
        ({"kind": "drifts", "items": [{"label": "anchor", "drift": 0.3}, {"label": "final", "drift": 0.1234,
          "locked": True}]}, "0.123 locked"),
        ({"kind": "drifts", "items": [{"label": "1", "drift": 0.3}, {"label": "2", "drift": 0.1, "locked": True}]},
         "0.100 to 0.300, 1 of 2 locked"),
        ({"kind": "drifts", "items": [{"label": "styled 1", "drift": 0.5}, {"label": "rescued 1", "drift": 0.17,
          "locked": True}, {"label": "rescued 2", "drift": 0.19}]}, "0.170 to 0.190, 1 of 2 locked"),
        ({"kind": "search", "results": [{"seed": 5, "drift": 0.21}, {"seed": 6, "drift": None}]}, "0.210"),
        ({"kind": "training", "drift": [[1, 0.5, 1.0]]}, ""),
    ],
)  # fmt: skip
def test_the_table_shows_the_drift_that_a_node_reports(queue, stand_in, journal, ui, shown):
    stand_in.ui["1"] = ui
    code, told, _ = queue()
    assert code == 0 and told.splitlines()[1].endswith(shown or "done") and journal()[-1]["drift"] == shown


# ---- the server dies -------------------------------------------------------------------------------------------------


def test_a_server_that_restarts_gets_again_what_it_lost_and_no_more(queue, stand_in, tmp_path):
    async def crash_at_the_second(number):
        if number == 2 and stand_in.life == 1:
            while not list((tmp_path / "out").glob("001_1/*.png")):
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.2)  # the file is there; the journal's line may still be written
            stand_in.crash(away=0.3)

    stand_in.before = crash_at_the_second
    code, told, said = queue(*EACH)
    assert code == 0 and colours_of(stand_in.ran) == [1, 2, 3]
    assert sorted(saved(tmp_path / "out").values()) == [1, 2, 3]
    assert "002_2: the server was started anew and has lost it; queued again" in said and "001_1: the" not in said


def test_a_server_that_stays_away_ends_the_command_and_the_next_goes_on(queue, stand_in, tmp_path):
    stand_in.before = lambda number: stand_in.crash(away=3600) if number == 2 and stand_in.life == 1 else None
    code, told, said = queue(*EACH, "--reconnect", "0.4")
    assert code == 1 and "went away with" in said and "Start it again and give the same command" in said
    assert "Traceback" not in said
    stand_in.start()
    assert queue(*EACH)[0] == 0
    assert sorted(saved(tmp_path / "out").values()) == [1, 2, 3]


def test_a_job_that_kills_the_server_every_time_is_given_up(queue, stand_in):
    stand_in.before = lambda number: stand_in.crash()
    code, told, said = queue("--retries", "1")
    assert code == 1 and "lost with the server 2 times" in said and len(stand_in.queued) == 2


def test_without_a_server_it_says_how_to_start_one(stand_in, queue):
    stand_in.stop()
    code, told, said = queue()
    assert code == 1 and f"python main.py --port {stand_in.port}" in said and told == ""
    stand_in.start()


def test_something_else_on_the_port_is_named(stand_in, queue, monkeypatch):
    from aiohttp import web

    async def page(request):
        return web.Response(text="<html>hello</html>")

    stand_in.stop()
    monkeypatch.setattr(stand_in, "_get_queue", page)
    stand_in.start()
    code, _, said = queue()
    assert code == 1 and "is no ComfyUI" in said


# ---- the client dies -------------------------------------------------------------------------------------------------


def client_process(stand_in, graph, out, *options):
    words = ["queue", graph, "--server", stand_in.url, "--out", out, *options]
    return subprocess.Popen(
        [sys.executable, "-m", "identity_lock.cli", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("meanwhile", ["it still waits", "it is done", "the server was restarted too"])
def test_a_client_that_was_killed_goes_on(queue, stand_in, tmp_path, write_graph, meanwhile):
    stand_in.hold = True
    client = client_process(stand_in, write_graph(), tmp_path / "out", *EACH)
    stand_in.wait_until(lambda: len(stand_in.queued) == 3)
    client.kill()
    client.communicate()
    if meanwhile == "it is done":
        stand_in.hold = False
        stand_in.wait_until(lambda: len(stand_in.history) == 3)
    elif meanwhile == "the server was restarted too":
        stand_in.forget()
        stand_in.hold = False
    else:
        threading.Timer(0.5, lambda: setattr(stand_in, "hold", False)).start()
    code, told, _ = queue(*EACH)
    assert code == 0 and sorted(colours_of(stand_in.ran)) == [1, 2, 3]
    assert len(stand_in.queued) == (6 if "restarted" in meanwhile else 3)
    assert sorted(saved(tmp_path / "out").values()) == [1, 2, 3]


def test_a_crash_between_asking_and_hearing_queues_nothing_twice(queue, stand_in, journal, tmp_path):
    """The journal names the prompt before the server is asked, so that an answer that never came is no loss."""
    queue(*EACH)
    path = tmp_path / "out" / "queue.jsonl"
    kept = [line for line in path.read_text().splitlines() if '"done"' not in line or '"002_2"' not in line]
    path.write_text("\n".join(kept) + "\n")
    code, _, _ = queue(*EACH)
    assert code == 0 and len(stand_in.queued) == 3
    assert sorted(saved(tmp_path / "out").values()) == [1, 2, 3]


def test_a_server_that_gives_ids_of_its_own_is_understood(queue, stand_in, journal):
    stand_in.own_ids = True
    assert queue(*EACH)[0] == 0
    assert {line["prompt_id"] for line in journal() if line["event"] == "queued"} >= {"own-0", "own-1", "own-2"}
    assert queue(*EACH)[0] == 0 and len(stand_in.queued) == 3


def test_ctrl_c_ends_with_130_and_leaves_the_rest_on_the_server(queue, stand_in, tmp_path, write_graph):
    stand_in.hold = True
    client = client_process(stand_in, write_graph(), tmp_path / "out", *EACH)
    stand_in.wait_until(lambda: len(stand_in.queued) == 3)
    time.sleep(0.3)
    client.send_signal(signal.SIGINT)
    printed, _ = client.communicate(timeout=20)
    assert client.returncode == 130 and "Stopped with 3 jobs open, 3 of them still on the server" in printed
    assert "Traceback" not in printed
    stand_in.hold = False
    assert queue(*EACH)[0] == 0 and len(stand_in.queued) == 3


# ---- the connection drops --------------------------------------------------------------------------------------------


def test_a_dropped_websocket_is_opened_again(queue, stand_in, tmp_path):
    stand_in.step_seconds = 0.15
    stand_in.before = lambda number: stand_in.drop_sockets()
    code, _, said = queue(*EACH)
    assert code == 0 and stand_in.connections >= 3 and len(stand_in.queued) == 3
    assert "003_3: Keep" in said  # told over a later connection


def test_a_download_that_broke_off_is_fetched_again(queue, stand_in, tmp_path):
    stand_in.cut = 2
    code, _, _ = queue()
    assert code == 0 and stand_in.cut == 0 and len(stand_in.queued) == 1
    assert saved(tmp_path / "out") == {"001_graph/picture_00001_.png": 7}
    assert not list((tmp_path / "out").rglob("*.part")) and not list((tmp_path / "out").rglob("*.tmp"))


def test_a_download_that_never_ends_well_fails_its_job(queue, stand_in, tmp_path):
    stand_in.cut = 1000
    code, told, said = queue()
    assert code == 1 and "failed" in told
    assert not list((tmp_path / "out").rglob("*.png"))


# ---- failures --------------------------------------------------------------------------------------------------------


def test_a_failed_job_is_told_in_one_sentence_and_the_others_go_on(queue, stand_in, write_graph, journal):
    nodes = copy.deepcopy(COLOURS)
    nodes["5"] = {"class_type": "Slow", "inputs": {}, "_meta": {"title": "Trainer"}}
    stand_in.errors["Slow"] = "The loss became NaN at step 3.\nLower the learning rate."
    stand_in.before = lambda number: stand_in.errors.clear() if number == 2 else None
    code, told, said = queue(*EACH, graph=write_graph(nodes))
    assert code == 1 and "Traceback" not in said
    assert '001_1: Node 5 "Trainer" failed: The loss became NaN at step 3. Lower the learning rate.\n' in said
    table = told.split("\nin ")[0]
    assert table.count("failed") == 1 and table.count("done") == 2
    assert queue(*EACH, graph=write_graph(nodes))[0] == 0  # what failed is tried anew, and nothing else
    assert colours_of(stand_in.ran) == [1, 2, 3, 1]


def test_one_reason_for_many_jobs_is_told_once(queue, stand_in):
    stand_in.known.discard("EmptyImage")
    code, _, said = queue("--each", "Colour.color=[1,2,3,4,5]")
    assert code == 1 and said.count("no node type EmptyImage") == 1 and "001_1, 002_2, 003_3 and 2 more" in said


def test_our_own_nodes_missing_means_that_the_pack_is(queue, stand_in, write_graph):
    nodes = {"1": {"class_type": "FacePrep", "inputs": {}, "_meta": {"title": "Face"}}}
    code, _, said = queue(graph=write_graph(nodes))
    assert code == 1 and 'no node type FacePrep (node 1, "Face"); link the Identity Lock pack' in said


def test_a_value_that_is_not_on_the_list_gets_the_nearest(queue, stand_in, write_graph):
    stand_in.lists["EmptyImage"] = {"sampler": ["euler", "ddim", "dpmpp_2m"]}
    nodes = copy.deepcopy(COLOURS)
    nodes["1"]["inputs"]["sampler"] = "eular"
    code, _, said = queue(graph=write_graph(nodes))
    assert code == 1 and 'Node 1 "Colour", input sampler: "eular" is not on the server\'s list; nearest: euler.' in said
    assert queue("--set", "Colour.sampler=ddim", graph=write_graph(nodes))[0] == 0  # a refused value binds nothing


def test_a_job_that_runs_too_long_is_interrupted(queue, stand_in):
    stand_in.step_seconds = 30
    code, _, said = queue("--timeout", "0.3")
    assert code == 1 and "longer than the 0.3 s" in said and stand_in.dropped == stand_in.queued


def test_a_job_that_somebody_took_out_of_the_queue_is_not_put_back(queue, stand_in):
    async def take_the_others_out(number):
        while len(stand_in.queued) < 3:
            await asyncio.sleep(0.02)
        stand_in.pending.clear()

    stand_in.before = take_the_others_out
    code, told, said = queue(*EACH)
    assert code == 1 and "Somebody removed it" in said and len(stand_in.queued) == 3


def test_a_full_disk_is_told_and_costs_nothing(queue, stand_in, tmp_path, monkeypatch):
    def full(fd):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, "replace", lambda *a: full(0))
        code, _, said = queue()
    assert code == 1 and "No space left on device" in said and "free some space" in said
    assert not list((tmp_path / "out").rglob("*.png"))
    assert queue()[0] == 0 and len(stand_in.queued) == 1


# ---- the folder ------------------------------------------------------------------------------------------------------


def test_another_graph_in_the_same_folder_is_refused(queue, stand_in):
    queue()
    code, _, said = queue("--set", "Colour.width=32")
    assert code == 2 and "belongs to another graph" in said and len(stand_in.ran) == 1


def test_a_last_line_that_was_cut_short_is_dropped(queue, stand_in, tmp_path, journal):
    queue()
    path = tmp_path / "out" / "queue.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert queue()[0] == 0 and len(stand_in.queued) == 1
    assert [line["event"] for line in journal()] == ["graph", "planned", "queued", "done"]


def test_a_damaged_line_is_named(queue, tmp_path):
    queue()
    path = tmp_path / "out" / "queue.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "{]", *lines[2:]]) + "\n")
    code, _, said = queue()
    assert code == 2 and "Line 2 of" in said


def test_two_clients_in_one_folder_are_one_too_many(queue, stand_in, tmp_path, write_graph):
    stand_in.hold = True
    client = client_process(stand_in, write_graph(), tmp_path / "out")
    stand_in.wait_until(lambda: len(stand_in.queued) == 1)
    code, _, said = queue()
    assert code == 2 and f"(process {client.pid}) works in" in said and len(stand_in.queued) == 1
    client.kill()
    client.communicate()
    assert (tmp_path / "out" / LOCK_NAME).is_file()  # of a process that is no more: taken over
    stand_in.hold = False
    assert queue()[0] == 0 and len(stand_in.queued) == 1


def test_the_lock_is_given_back(tmp_path):
    with only_client(tmp_path):
        assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] == os.getpid()
        with pytest.raises(UsageRefused), only_client(tmp_path):
            raise AssertionError("never here")
    with only_client(tmp_path):
        pass


# ---- the network -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["http://192.0.2.7:8188", "gpu.example.org", "https://203.0.113.7/comfy"])
def test_another_machine_wants_a_word(queue, server):
    code, _, said = queue("--server", server)
    assert code == 2 and "is another machine" in said and "--allow-remote" in said


def test_an_allowed_machine_is_named(capsys, queue, monkeypatch):
    monkeypatch.setattr("identity_lock.comfy_client.server.CONNECT_SECONDS", 0.3)
    code, _, said = queue("--server", "http://user:secret@192.0.2.7:8188", "--allow-remote")
    assert code == 1 and "Photos and prompts leave this machine for 192.0.2.7" in said and "secret" not in said


def test_an_allowed_machine_is_the_only_one(queue, monkeypatch):
    async def reach_another(*_):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:  # connecting one sends nothing
            try:
                plain.connect(("192.0.2.7", 8188))
            except OSError as error:  # a machine without a network has no route
                assert not isinstance(error, NetworkRefused)
            plain.connect(("203.0.113.7", 80))

    monkeypatch.setattr("identity_lock.comfy_client.run._queue", reach_another)
    code, _, said = queue("--server", "http://192.0.2.7:8188", "--allow-remote")
    assert code == 1 and 'tried to reach "203.0.113.7"' in said


@pytest.mark.parametrize("server", ["ftp://127.0.0.1", "http://", "http://127.0.0.1:99999", "127.0.0.1:8188?x=1"])
def test_what_is_no_address_is_refused(queue, server):
    code, _, said = queue("--server", server)
    assert code == 2 and "is no address of a server" in said


def test_nothing_but_this_machine_is_reached(queue, stand_in, monkeypatch):
    """A server here that sends the client elsewhere: it does not follow."""
    from aiohttp import web

    async def elsewhere(request):
        raise web.HTTPFound("http://192.0.2.7/prompt")

    stand_in.stop()
    monkeypatch.setattr(stand_in, "_upload", elsewhere)
    monkeypatch.setattr(stand_in, "_prompt", elsewhere)
    stand_in.start()
    code, _, said = queue()
    assert code == 1 and "answered HTTP 302 to /prompt" in said


# ---- the command -----------------------------------------------------------------------------------------------------


def test_help_says_what_there_is(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["queue", "--help"])
    assert left.value.code == 0
    told = capsys.readouterr().out
    options = ("--set", "--each", "--server", "--allow-remote", "--out", "--all", "--timeout", "--retries")
    assert all(word in told for word in options)


@pytest.mark.parametrize("options", [("--retries", "-1"), ("--timeout", "0"), ("--timeout", "x")])
def test_wrong_numbers_are_usage_errors(queue, options):
    with pytest.raises(SystemExit) as left:
        queue(*options)
    assert left.value.code == 2


def test_an_unset_placeholder_is_a_usage_error(queue, stand_in, write_graph):
    code, _, said = queue(graph=write_graph(PHOTOS, "photos.json"))
    assert code == 2 and '--set "Photo 1.image=..."' in said and not stand_in.queued


def test_a_fraction_for_a_whole_number_is_refused_by_asking_the_server(queue, stand_in, monkeypatch):
    from aiohttp import web

    kind = "INT"

    async def info(request):
        return web.json_response({"EmptyImage": {"input": {"required": {"color": [kind, {}]}}}})

    stand_in.stop()
    monkeypatch.setattr(stand_in, "_object_info", info)
    stand_in.start()
    code, _, said = queue("--set", "Colour.color=1.5")
    assert code == 2 and "Colour.color takes whole numbers only" in said and not stand_in.queued
    kind = "FLOAT"
    assert queue("--set", "Colour.color=1.5")[0] == 0


def test_a_bar_on_a_terminal_names_the_node(stand_in):
    import io

    from identity_lock.comfy_client.graph import Graph
    from identity_lock.comfy_client.progress import Progress

    screen = io.StringIO()
    progress = Progress({"p": ("001_x", Graph("x.json", COLOURS))}.get, screen, bar=True)
    progress.on_event("executing", {"node": "1", "prompt_id": "p"})
    progress.on_event("progress", {"node": "1", "value": 3, "max": 8, "prompt_id": "p"})
    progress.on_event("progress", {"node": "1", "value": 1, "max": 5, "prompt_id": "of somebody else"})
    progress.on_event("progress_state", {"prompt_id": "p", "nodes": {"1": {"state": "running", "value": 4, "max": 8}}})
    progress.say("a line")
    progress.close()
    assert "001_x: Colour" in screen.getvalue() and "3/8" in screen.getvalue() and "4/8" in screen.getvalue()
    assert "1/5" not in screen.getvalue() and "a line\n" in screen.getvalue()


def test_files_of_one_name_do_not_cover_each_other():
    from identity_lock.comfy_client.server import ServerFile

    three = ("a.png", ""), ("A.png", "x/y"), ("../b.png", "")
    files = tuple(ServerFile(name, subfolder, "output") for name, subfolder in three)
    assert list(follow.local_names(files).values()) == ["a.png", "output_x_y_A.png", "b.png"]
