from __future__ import annotations

import errno
import os
import re
import socket
import threading
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from identity_lock.errors import IdentityLockError
from identity_lock.safety.offline import OFFLINE_VARIABLES, NetworkRefused, no_network, offline
from identity_lock.tests.fixtures.watched import hostile

FAR = ("203.0.113.7", 80)  # TEST-NET-3: nobody's address


def test_the_switches_are_on_inside_and_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("DO_NOT_TRACK", raising=False)
    with offline():
        assert all(os.environ[name] == value for name, value in OFFLINE_VARIABLES.items())
    assert os.environ["HF_HUB_OFFLINE"] == "0"
    assert "DO_NOT_TRACK" not in os.environ


def test_a_connection_to_another_machine_is_refused_in_a_sentence() -> None:
    with no_network():
        with pytest.raises(NetworkRefused, match=r'reach "203\.0\.113\.7" over the network'):
            socket.create_connection(FAR, timeout=1)
        with socket.socket() as plain, pytest.raises(NetworkRefused):
            plain.connect(FAR)
        with socket.socket() as plain, pytest.raises(NetworkRefused):
            plain.connect_ex(FAR)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
            with pytest.raises(NetworkRefused):
                datagram.sendto(b"x", FAR)
            with pytest.raises(NetworkRefused):
                datagram.sendto(b"x", 0, FAR)
        if socket.has_ipv6:
            with socket.socket(socket.AF_INET6) as six, pytest.raises(NetworkRefused):
                six.connect(("2001:db8::1", 80))


def test_names_are_not_even_looked_up() -> None:
    with no_network():
        for look_up in (lambda: socket.getaddrinfo("example.org", 80), lambda: socket.gethostbyname("example.org")):
            with pytest.raises(NetworkRefused, match="example.org"):
                look_up()
        with pytest.raises((NetworkRefused, OSError), match="over the network"):
            urllib.request.urlopen("http://example.org/", timeout=1)


def test_a_library_thread_is_held_back_too() -> None:
    seen: list[BaseException] = []

    def reach() -> None:
        try:
            socket.create_connection(FAR, timeout=1)
        except OSError as error:
            seen.append(error)

    with no_network():
        thread = threading.Thread(target=reach)
        thread.start()
        thread.join()
    assert isinstance(seen[0], IdentityLockError) and isinstance(seen[0], ConnectionError)


def test_this_machine_can_still_be_reached() -> None:
    class Hello(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *_: object) -> None:
            pass

    with no_network(), HTTPServer(("127.0.0.1", 0), Hello) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        assert opener.open(f"http://localhost:{server.server_port}/", timeout=5).read() == b"hello"
        thread.join()
        first, second = socket.socketpair()
        first.close()
        second.close()


def aim(host: str) -> None:
    """Connects a datagram socket, which sends nothing; a machine without a route says so."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
        try:
            plain.connect((host, 80))
        except OSError as error:
            if isinstance(error, NetworkRefused) or error.errno != errno.ENETUNREACH:
                raise


def test_the_guard_nests_and_ends_with_its_last_block() -> None:
    with no_network():
        with no_network():
            pass
        with pytest.raises(NetworkRefused):
            aim(FAR[0])
    aim(FAR[0])


def test_what_was_imported_before_and_what_bypasses_the_class_are_refused_too() -> None:
    import _socket

    look_up, connect = socket.getaddrinfo, socket.socket.connect
    with no_network():
        with pytest.raises(NetworkRefused):
            look_up("example.org", 80)
        with socket.socket() as plain, pytest.raises(NetworkRefused):
            connect(plain, FAR)
        below = _socket.socket()
        with pytest.raises(NetworkRefused):
            below.connect(FAR)
        below.close()
        with pytest.raises(NetworkRefused):
            socket.getnameinfo(FAR, 0)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram, pytest.raises(NetworkRefused):
            datagram.sendmsg([b"x"], [], 0, FAR)


def test_one_other_host_may_be_named_and_no_more() -> None:
    with no_network(but="192.0.2.7"):
        aim("192.0.2.7")
        with pytest.raises(NetworkRefused, match=FAR[0]):
            aim(FAR[0])
        with no_network(), pytest.raises(NetworkRefused):
            aim("192.0.2.7")


def in_another_thread(call: Callable[[], None]) -> BaseException | None:
    with ThreadPoolExecutor(1) as other:
        return other.submit(call).exception()


def test_a_node_is_held_back_and_the_hosts_other_threads_are_not() -> None:
    from identity_lock.nodes.packages import guarded

    @guarded
    def execute() -> BaseException | None:
        elsewhere = in_another_thread(lambda: aim(FAR[0]))
        with pytest.raises(NetworkRefused):
            aim(FAR[0])
        return elsewhere

    assert execute() is None
    aim(FAR[0])


@pytest.mark.parametrize("command", ["run", "demo", "verify", "forget", "doctor"])
def test_every_command_runs_under_the_guard(command, monkeypatch, capsys) -> None:
    from identity_lock import cli

    wanted = {"run": ["a.jpg", "--consent", "yes"], "verify": ["a.png", "--identity", "a"], "forget": ["a"]}
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(cli, f"_{command}", lambda args: aim(FAR[0]))
    assert cli.main([command, *wanted.get(command, [])]) == 1
    assert f'tried to reach "{FAR[0]}" over the network' in capsys.readouterr().err


def fetch_by_every_library() -> list[str]:
    """Asks three HTTP libraries for a page of another machine. Returns what each said."""
    import requests
    from huggingface_hub.utils import close_session, get_session

    close_session()  # a session reads the proxies when it is made
    told = []
    for get in (urllib.request.build_opener().open, requests.get, lambda url: get_session().get(url)):
        with pytest.raises(Exception) as caught:
            get("http://example.org/")
        told.append(str(caught.value))
    close_session()
    return told


def test_a_proxy_of_this_machine_is_no_way_out(proxy, monkeypatch) -> None:
    for name, value in hostile(proxy.port).items():
        monkeypatch.setenv(name, value)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    # Read at its import, perhaps by an earlier test in offline mode, where it would refuse before the guard is asked.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with no_network():
        told = fetch_by_every_library()
    assert proxy.taken == 3, told  # the guard alone takes a proxy for a server of this machine
    before = proxy.taken
    with offline(), no_network():
        assert all("over the network" in text for text in fetch_by_every_library())
    assert proxy.taken == before


def test_onnxruntime_is_imported_in_one_place() -> None:
    """It reports from native code unless it is told not to before it is imported; so do its users."""
    root = Path(__file__).resolve().parents[2]
    rooms = ("identity", "safety", "engines", "training", "rendering", "nodes", "demo", "comfy_client")
    files = [*root.glob("*.py"), *(file for room in rooms for file in (root / room).rglob("*.py"))]
    importing = [file for file in files if re.search(r"^\s*(import|from) onnxruntime", file.read_text(), re.MULTILINE)]
    assert [file.name for file in importing] == ["offline.py"]
    for file in files:
        first = re.search(r"^\s*from (insightface|rembg)\b", text := file.read_text(), re.MULTILINE)
        assert first is None or "quiet_onnxruntime()" in text[: first.start()], file


def test_the_safety_package_pulls_in_nothing_heavy() -> None:
    import subprocess
    import sys

    code = (
        "import sys, identity_lock.safety.prompt, identity_lock.safety.files, identity_lock.safety.offline, "
        "identity_lock.safety.consent, identity_lock.safety.provenance; "
        "print([m for m in ('torch', 'cv2', 'diffusers', 'peft', 'onnxruntime', 'scipy') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout.strip() == "[]"
