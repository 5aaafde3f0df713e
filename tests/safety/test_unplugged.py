"""The command line on a machine without a network, and on one whose every connection is refused and written down.

In the first the kernel counts what tries to leave, so native code with sockets of its own is seen too; the second says
which line of Python tried. Both get an environment that is set against us, and both must see no attempt at all.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from identity_lock.demo.subjects import PHOTOS
from identity_lock.tests.fixtures.unplugged import counted, unplugged, why_not
from identity_lock.tests.fixtures.watched import Proxy, hostile, read_attempts, watched

FAR = "203.0.113.7"  # TEST-NET-3: nobody's address
COMMAND = [sys.executable, "-m", "identity_lock.tests.fixtures.quick_demo"]
RUN = [
    "run", str(PHOTOS / "synthetic_1.png"), "--consent", "Nobody is depicted: rendered from shape data.",
    "--description", "man, short brown hair, beard", "--scene", "golden hour field", "--seeds", "2", "--out",
]  # fmt: skip


@dataclass
class Machine:
    """Runs commands in one of the two conditions, and tells what tried to leave."""

    unplugged: bool
    folder: Path
    proxy: Proxy

    def run(self, command: Sequence[object], timeout: float = 300) -> subprocess.CompletedProcess[str]:
        environment = hostile(self.proxy.port) | {"OMP_NUM_THREADS": "1"}
        words = [str(word) for word in command]
        if self.unplugged:
            words = unplugged(self.folder / "counts.json", *words)
        else:
            environment |= watched(self.folder / "attempts.jsonl", *sys.path)
        return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=timeout)

    def attempts(self) -> list[str]:
        """Of the last command in a namespace; of all commands where they are written down."""
        if self.unplugged:
            return [f"{name}: {n}" for name, n in counted(self.folder / "counts.json").items()]
        return [f"{one['event']} {one['host']} {one['stack']}" for one in read_attempts(self.folder / "attempts.jsonl")]


@pytest.fixture(params=["unplugged", "refused"])
def machine(request, tmp_path, proxy) -> Machine:
    if request.param == "unplugged" and (reason := why_not()):
        pytest.skip(reason)
    return Machine(request.param == "unplugged", tmp_path, proxy)


def test_the_whole_command_line_runs_and_nothing_tries_to_leave(machine, tmp_path):
    out = tmp_path / "out"
    picture, identity = out / "renders" / "three_pass_golden_hour_field.png", out / "identity.safetensors"
    for words, told in (
        ([*RUN, out], "Identity:"),
        (["verify", picture, "--identity", identity], "its own record says"),
        (["doctor"], "Recogniser sface"),
    ):
        done = machine.run([*COMMAND, *words])
        assert done.returncode == 0 and told in done.stdout, done.stderr[-2000:]
        assert machine.attempts() == [], words[0]
        assert machine.proxy.taken == 0, words[0]


@pytest.mark.parametrize("machine", ["unplugged"], indirect=True)  # the kernel sees what Python tries as well
def test_the_demo_runs_and_its_report_fetches_nothing_when_opened(machine, tmp_path):
    done = machine.run([*COMMAND, "demo", "--quick", "--out", tmp_path / "demo"])
    assert done.returncode == 0 and "Report:" in done.stdout, done.stderr[-2000:]
    assert machine.attempts() == []
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "data:image/" in page
    assert re.findall(r"https?:|url\(|@import|(?:src|href)=.(?!data:|#)", page) == []


# ---- the two conditions are what they are said to be -----------------------------------------------------------------

TRY = """
import json, os, socket, sys
import aiohttp, asyncio, requests, urllib.request
from huggingface_hub.utils import get_session
for name in list(os.environ):
    if name.lower().endswith("_proxy"):
        del os.environ[name]
far = sys.argv[1]

async def fetch():
    async with aiohttp.ClientSession() as session:
        await session.get(f"http://{far}/")

def by(kind, call):
    with socket.socket(socket.AF_INET, kind) as opened:
        opened.settimeout(1)
        return getattr(opened, call[0])(*call[1:])

told = {}
for name, attempt in {
    "connect": lambda: by(socket.SOCK_STREAM, ("connect", (far, 80))),
    "connect_ex": lambda: by(socket.SOCK_STREAM, ("connect_ex", (far, 80))),
    "sendto": lambda: by(socket.SOCK_DGRAM, ("sendto", b"x", (far, 80))),
    "getaddrinfo": lambda: socket.getaddrinfo("example.org", 80),
    "urllib": lambda: urllib.request.urlopen(f"http://{far}/", timeout=1),
    "requests": lambda: requests.get(f"http://{far}/", timeout=1),
    "httpx": lambda: get_session().get(f"http://{far}/"),
    "aiohttp": lambda: asyncio.run(fetch()),
}.items():
    try:
        told[name] = attempt()
    except Exception as error:
        told[name] = f"{type(error).__name__}: {error}"
with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), timeout=1):
    told["loopback"] = "reached"
told["interfaces"] = [name for _, name in socket.if_nameindex()]
print(json.dumps(told))
"""


def test_python_is_stopped_at_every_door_and_seen(machine):
    done = machine.run([sys.executable, "-c", TRY, FAR])
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert told.pop("loopback") == "reached"
    if machine.unplugged:
        assert told.pop("interfaces") == ["lo"]
        assert told.pop("connect_ex") == errno.ENETUNREACH
        assert "name resolution" in told.pop("getaddrinfo")
        assert len(told) == 6 and all("unreachable" in text for text in told.values()), told
        assert counted(machine.folder / "counts.json")["no_route"] >= 7
    else:
        del told["interfaces"]
        assert all(re.search("the test refuses|Cannot connect to host", str(text)) for text in told.values()), told
        seen = read_attempts(machine.folder / "attempts.jsonl")
        assert len(seen) >= len(told) == 8 and {one["host"] for one in seen} == {FAR, "example.org"}


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "-")
def test_native_code_is_seen_where_there_is_no_network(tmp_path, proxy):
    """bash opens its own sockets, as onnxruntime does; the watch on Python sees neither."""
    machine = Machine(True, tmp_path, proxy)
    machine.run(["bash", "-c", f"echo > /dev/tcp/{FAR}/443"])
    assert machine.attempts() == ["no_route: 1"]
    machine.run(["bash", "-c", "echo > /dev/udp/127.0.0.1/53"])  # a name server on this machine that would go and ask
    assert machine.attempts() == ["no_listener: 1"]


USE_ONNXRUNTIME = """
import os, sys, time
os.environ["XDG_CACHE_HOME"] = sys.argv[2]  # where it keeps the number by which it knows this machine again
from identity_lock.identity.recognisers import store
if sys.argv[1] == "ours":
    from identity_lock.identity import get_recogniser
    get_recogniser("sface")
else:
    import onnxruntime
    onnxruntime.InferenceSession(str(store.require(store.YUNET).path), providers=["CPUExecutionProvider"])
time.sleep(14)  # it reports from a thread of its own, ten seconds later
"""


def reports() -> bool:
    """Whether the installed onnxruntime has it in it: the wheels for Linux and macOS do from 1.29 on."""
    spec = importlib.util.find_spec("onnxruntime")
    libraries = Path(spec.origin).parent.glob("capi/*.so*")
    return any(b"OneCollector" in library.read_bytes() for library in libraries)


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "-")
def test_onnxruntime_reports_to_nobody(tmp_path, proxy):
    """On its own it does, with an environment that asks it to; used through our recognisers it does not."""
    machines = {who: Machine(True, tmp_path / who, proxy) for who in ("ours", "bare")}
    for machine in machines.values():
        machine.folder.mkdir()

    def use(who: str) -> int:
        return machines[who].run([sys.executable, "-c", USE_ONNXRUNTIME, who, tmp_path / who]).returncode

    with ThreadPoolExecutor() as both:
        assert list(both.map(use, machines)) == [0, 0]
    assert machines["ours"].attempts() == [] and not (tmp_path / "ours" / "Microsoft").exists()
    assert bool(machines["bare"].attempts()) is reports()


READ_MANIFEST = """
import sys
if sys.argv[1] == "ours":
    from identity_lock.safety.c2pa_signing import read_manifest as read
else:
    from c2pa import Reader as read
try:
    read(sys.argv[2])
except Exception as error:
    print(type(error).__name__)
"""
REMOTE_MANIFEST = f"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dcterms="http://purl.org/dc/terms/" dcterms:provenance="http://{FAR}/m.c2pa"/>
</rdf:RDF></x:xmpmeta>"""


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "-")
def test_a_picture_cannot_have_its_c2pa_manifest_fetched(tmp_path, proxy):
    """A picture may say that its manifest lies elsewhere; c2pa's native code goes there unless it is told not to."""
    pytest.importorskip("c2pa")
    words = PngInfo()
    words.add_itxt("XML:com.adobe.xmp", REMOTE_MANIFEST)
    Image.new("RGB", (16, 16)).save(tmp_path / "remote.png", pnginfo=words)
    machine = Machine(True, tmp_path, proxy)
    done = machine.run([sys.executable, "-c", READ_MANIFEST, "ours", tmp_path / "remote.png"])
    assert done.returncode == 0 and machine.attempts() == [], done.stderr
    machine.run([sys.executable, "-c", READ_MANIFEST, "bare", tmp_path / "remote.png"])
    assert machine.attempts() != []  # to the proxy of the environment, or past it
