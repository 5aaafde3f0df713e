"""Many renders queued on a real ComfyUI: what its memory does meanwhile, and what a kill in the middle costs.

`python -m identity_lock.tests.host.load` (or `make load`) runs 200 of each and writes a table, a CSV and a plot;
test_load.py runs fewer through the same functions.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from identity_lock.safety.index import HOME_VARIABLE
from identity_lock.safety.provenance import read_record
from identity_lock.tests.host.comfyui import find_comfyui
from identity_lock.tests.host.pack import CONSENT, PROMPT, SAMPLE, SCENE, SEED
from identity_lock.tests.host.server import Server

RENDERS = 200
WARM_UP = 50  # renders after which caches and heaps should stand still
BOUND = 0.1  # MiB a render
PATIENCE = 300.0  # s without any news
MIB = 1 << 20

_SMALL: dict[str, Any] = dict(width=128, height=128, steps=2, sampler="ddim", scheduler="simple")
_BASE: dict[str, Any] = {"1": {"class_type": "DemoModelLoader", "inputs": {"look": "studio"}}}
OURS: dict[str, Any] = _BASE | {
    "2": {"class_type": "LoadImage", "inputs": {"image": SAMPLE}},
    "3": {
        "class_type": "FacePrep",
        "inputs": {
            "photo_1": ["2", 0], "background": "none", "padding": 0.45, "size": 256, "rotations": False,
            "centre_crops": False,
        },
    },
    "4": {
        "class_type": "IdentityEmbed",
        "inputs": {"references": ["3", 0], "name": "sample", "consent": CONSENT, "recogniser": "auto"},
    },
    "5": {
        "class_type": "ThreePassRender",
        "_meta": {"title": "Render"},
        "inputs": {
            "model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2], "identity": ["4", 0], "seed": SEED,
            "anchor_prompt": PROMPT, "scene_prompt": SCENE, "negative": "", **_SMALL, "anchor_strength": 1.0,
            "anchor_cfg": 1.5, "style_strength": 0.85, "style_cfg": 5.0, "style_denoise": 1.0,
            "style_face_denoise": 0.25, "rescue_strength": 0.9, "rescue_cfg": 1.5, "rescue_denoise": 0.25,
            "blend": 0.3, "threshold": 0.18, "file_prefix": "load",
        },
    },
    "6": {"class_type": "PreviewImage", "inputs": {"images": ["5", 0]}},
}  # fmt: skip
"""Everything but the seed is the same in each job, so the server computes the render alone."""

STOCK: dict[str, Any] = _BASE | {
    "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": PROMPT}},
    "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": ""}},
    "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}},
    "5": {
        "class_type": "KSampler",
        "_meta": {"title": "Render"},
        "inputs": {
            "model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0], "latent_image": ["4", 0], "seed": SEED,
            "steps": 2, "cfg": 1.5, "sampler_name": "ddim", "scheduler": "simple", "denoise": 1.0,
        },
    },
    "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
    "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "stock/load"}},
}  # fmt: skip
"""The control: as many renders by ComfyUI's own nodes, to tell its memory from ours."""

MADE, STOCK_MADE = "identity_lock/renders/[!.]*.png", "stock/[!.]*.png"
"""Where their pictures are, in ComfyUI's output folder."""


# ---- memory ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """After the render of that number: resident memory and its anonymous part, MiB; seconds since the first."""

    render: int
    rss: float
    anonymous: float
    seconds: float


def memory_of(pid: int) -> tuple[float, float]:
    """(resident, anonymous) MiB of a process, from the kernel's own books."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    rss, anonymous = (int(re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)[1]) for key in ("Rss", "Anonymous"))  # type: ignore[index]
    return rss / 1024, anonymous / 1024


def growth(samples: Sequence[Sample], warm_up: int) -> float:
    """MiB a render after the warm-up: Theil and Sen's median of the slopes of all pairs, which single jumps of the
    heap cannot tilt."""
    from scipy.stats import theilslopes

    kept = [one for one in samples if one.render > warm_up]
    return float(theilslopes([one.rss for one in kept], [one.render for one in kept]).slope)


# ---- a queue of renders ----------------------------------------------------------------------------------------------


class Queue:
    """`identity-lock queue` in a process of its own: one job for each seed."""

    def __init__(self, server: Server, graph: dict[str, Any], seeds: Sequence[int], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "graph.json").write_text(json.dumps(graph))
        (folder / "seeds.txt").write_text("\n".join(map(str, seeds)))
        self.out, self.said = folder / "results", folder / "said.txt"
        with self.said.open("wb") as said:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "identity_lock.cli", "queue", str(folder / "graph.json"),
                    "--server", server.url, "--each", f"Render.seed={folder / 'seeds.txt'}", "--out", str(self.out),
                    "--reconnect", "200", "--retries", "5",
                ],
                stdout=said, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def events(self, kind: str) -> list[dict[str, Any]]:
        path = self.out / "queue.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [line for line in map(json.loads, lines) if line["event"] == kind]

    def watch(self, done: Callable[[], int], until: int) -> Iterator[int]:
        """Each new count that `done` gives, up to `until`. AssertionError where the command ends before or nothing
        comes."""
        count, news = 0, time.monotonic()
        while count < until:
            now = done()
            if now > count:
                count, news = now, time.monotonic()
                yield count
                continue
            assert self.process.poll() is None, f"the queue ended after {count} of {until}:\n{self.tail()}"
            assert time.monotonic() - news < PATIENCE, f"nothing new after {count} of {until}:\n{self.tail()}"
            time.sleep(0.005)

    def finish(self) -> None:
        code = self.process.wait(PATIENCE)
        assert code == 0 and "Traceback" not in self.tail(), self.tail()

    def tail(self) -> str:
        return self.said.read_text()[-2000:]


@contextmanager
def queued(server: Server, graph: dict[str, Any], seeds: Sequence[int], folder: Path) -> Iterator[Queue]:
    queue = Queue(server, graph, seeds, folder)
    try:
        yield queue
        queue.finish()
    finally:
        if queue.process.poll() is None:
            queue.process.kill()
            queue.process.wait()


def renders_folder(server: Server) -> Path:
    return server.base / "output" / "identity_lock" / "renders"


def lines_of(folder: Path) -> list[dict[str, Any]]:
    path = folder / "renders.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def measure(server: Server, graph: dict[str, Any], seeds: Sequence[int], folder: Path, made: str) -> list[Sample]:
    """Queue one render for each seed on a server and look at its memory after each. made: pattern of the pictures in
    its output folder."""
    output, samples = server.base / "output", list[Sample]()
    before, started = len(list(output.glob(made))), 0.0
    with queued(server, graph, seeds, folder) as queue:
        for count in queue.watch(lambda: len(list(output.glob(made))) - before, len(seeds)):
            started = started or time.monotonic()
            samples.append(Sample(count, *memory_of(server.pid), time.monotonic() - started))
    return samples


def interrupt(server: Server, seeds: Sequence[int], folder: Path, kills: Sequence[int]) -> None:
    """The same queue with the server killed as a power cut kills it, as soon as the line of the n-th render is in the
    log: the picture is there, and nobody has been told of it."""
    with queued(server, OURS, seeds, folder) as queue:
        pending = list(kills)
        for count in queue.watch(lambda: len(log_lines(server)), len(seeds)):
            if pending and count >= pending[0]:
                server.kill9()
                pending.pop(0)
                server.start()
    assert not pending, f"{len(pending)} kills came too late"


def log_lines(server: Server) -> list[str]:
    """Of the log, uncounted those that are being written."""
    path = renders_folder(server) / "renders.jsonl"
    return path.read_text().split("\n")[:-1] if path.exists() else []


def check_complete(server: Server, queue_folder: Path, seeds: Sequence[int]) -> None:
    """One finished picture and one log line for each seed, there and here, decodable, with its drift."""
    folder, wanted = renders_folder(server), Counter(seeds)
    lines = lines_of(folder)
    assert Counter(line["seed"] for line in lines) == wanted
    assert {line["file"] for line in lines} == {path.name for path in folder.glob("[!.]*.png")}
    assert all(0.0 <= line["drift"] <= 2.0 and line["recogniser"] for line in lines)
    theirs = {line["seed"]: folder / line["file"] for line in lines}
    fetched = list((queue_folder / "results").glob("*/*.png"))
    assert Counter(int(read_record(path)["seed"]) for path in fetched) == wanted
    for path in fetched:
        record = read_record(path)
        assert path.read_bytes() == theirs[int(record["seed"])].read_bytes()
        with Image.open(path) as picture:
            assert np.asarray(picture.convert("RGB")).std() > 2
    done = [line["job"] for line in map(json.loads, (queue_folder / "results" / "queue.jsonl").open())
            if line["event"] == "done"]  # fmt: skip
    assert len(done) == len(set(done)) == len(seeds)


# ---- the whole load --------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--renders", type=int, default=RENDERS)
    parser.add_argument("--out", type=Path, default=Path("out/load"))
    args = parser.parse_args()
    comfy = find_comfyui()
    if comfy is None:
        print("make load: set COMFYUI_PATH to the folder of a ComfyUI, and COMFYUI_PYTHON to its Python.")
        return 2
    count, warm_up = args.renders, min(WARM_UP, args.renders // 4)
    args.out.mkdir(parents=True, exist_ok=True)
    runs: dict[str, list[Sample]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ[HOME_VARIABLE] = str(Path(scratch) / "home")
        for name, graph, made in (("this pack", OURS, MADE), ("stock nodes", STOCK, STOCK_MADE)):
            with running(Server(comfy, Path(scratch) / name.replace(" ", "_"))) as server:
                seeds = range(SEED, SEED + count)
                folder = server.base / "queue"
                runs[name] = measure(server, graph, seeds, folder, made)
                if graph is OURS:
                    check_complete(server, folder, seeds)
            tell(name, runs[name], warm_up)
        write_csv(args.out / "memory.csv", runs)
        plot(args.out / "memory.png", runs, warm_up)
        with running(Server(comfy, Path(scratch) / "killed")) as server:
            kills = [math.ceil(count * share) for share in (0.25, 0.5, 0.75)]
            interrupt(server, range(SEED, SEED + count), server.base / "queue", kills)
            check_complete(server, server.base / "queue", range(SEED, SEED + count))
        print(f"killed after renders {kills}: each of {count} seeds once on the server and once here", flush=True)
    print(f"{args.out / 'memory.csv'}, {args.out / 'memory.png'}")
    return 0 if growth(runs["this pack"], warm_up) <= BOUND else 1


@contextmanager
def running(server: Server) -> Iterator[Server]:
    try:
        yield server.start()
    finally:
        server.stop()


def tell(name: str, samples: Sequence[Sample], warm_up: int) -> None:
    at = {one.render: one for one in samples}
    marks = sorted({1, warm_up, *range(50, len(samples) + 1, 50), samples[-1].render} & at.keys())
    rows = ", ".join(f"{mark}: {at[mark].rss:.0f}" for mark in marks)
    print(
        f"{name:<12} {samples[-1].render} renders in {samples[-1].seconds:.0f} s; MiB resident after render {rows}; "
        f"{growth(samples, warm_up):+.4f} MiB a render after the first {warm_up} (bound {BOUND})",
        flush=True,
    )


def write_csv(path: Path, runs: dict[str, list[Sample]]) -> None:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["run", *(one.name for one in fields(Sample))])
        for name, samples in runs.items():
            rows.writerows([name, *(round(value, 3) for value in astuple(one))] for one in samples)


def plot(path: Path, runs: dict[str, list[Sample]], warm_up: int) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axis = figure.subplots()
    for name, samples in runs.items():
        label = f"{name}: {growth(samples, warm_up):+.4f} MiB a render"
        axis.plot([one.render for one in samples], [one.rss for one in samples], lw=1.2, label=label)
    axis.axvline(warm_up, color="0.7", ls="--", lw=1)
    axis.set_xlabel("renders")
    axis.set_ylabel("resident memory of the server, MiB")
    axis.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
