from __future__ import annotations

import os
import socket
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from identity_lock.errors import IdentityLockError
from identity_lock.safety.offline import OFFLINE_VARIABLES, NetworkRefused, no_network, offline

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


def test_the_guard_nests_and_leaves_nothing_behind() -> None:
    before = (socket.getaddrinfo, socket.socket.connect)
    with no_network():
        with no_network():
            pass
        with pytest.raises(NetworkRefused):
            socket.getaddrinfo("example.org", 80)
    assert (socket.getaddrinfo, socket.socket.connect) == before


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
