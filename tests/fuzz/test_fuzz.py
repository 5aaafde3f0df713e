"""A minute of changed files, all hostile ones, and every old finding: nothing may come of them but refusals.

`make fuzz` runs the same for half an hour, with a seed of its own each time.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from . import campaign
from .case import Case, keep, load
from .mutators import chunks_of, mutate
from .worker import usable

SEED, MINUTES = 20250503, 1


@pytest.mark.skipif(not usable(), reason="fuzzing needs Linux: forked processes and /proc")
def test_a_minute_of_hostile_files_ends_in_nothing_but_refusals(tmp_path, tell):
    command = [sys.executable, "-m", "identity_lock.tests.fuzz.campaign", "--out", str(tmp_path)]
    finished = subprocess.run(
        [*command, "--minutes", str(MINUTES), "--seed", str(SEED)],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    tell(finished.stdout.strip())
    assert finished.returncode == 0, finished.stdout + finished.stderr[-3000:]
    from .targets import TARGETS

    ran = {name: int(count) for name, count in re.findall(r"^(\w[\w ]*?) {2,}(\d+) ", finished.stdout, re.MULTILINE)}
    assert ran.keys() == TARGETS.keys() and min(ran.values()) >= 3
    assert int(re.findall(r"^(\d+) hostile files", finished.stdout, re.MULTILINE)[0]) > 700
    assert list(tmp_path.iterdir()) == []


def test_every_old_finding_can_be_replayed():
    for folder in campaign.REGRESSIONS.iterdir():
        case, told = load(folder)
        assert told["finding"] and case.files, folder.name
    files = [path for path in Path(__file__).parent.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    size = sum(path.stat().st_size for path in files)
    assert size < 200_000 + 100_000  # the harness itself, and what it found


# ---- the same seed, the same inputs ----------------------------------------------------------------------------------

HEADER = b'{"x":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}'.ljust(64)
CASES = [
    Case.single("a.json", b'{"a": [1, "two", {"three": null}]}'),
    Case.single("a.jsonl", b'{"a": 1}\n{"b": 2}\n'),
    Case.single("a.safetensors", (64).to_bytes(8, "little") + HEADER + b"ab"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.main)
def test_changes_depend_on_the_seed_alone_and_do_change(case):
    def some(seed: int) -> list[Case]:
        rng = random.Random(seed)
        return [mutate(case, CASES, rng) for _ in range(200)]

    assert some(1) == some(1) != some(2)
    different = {changed.files.get(case.main, b"") for changed in some(1)}
    assert len(different) > 150


def test_changes_know_the_formats():
    """Most changed JSON is still JSON, and most changed headers still have their length: else a reader's first check
    would be all that is ever reached."""
    import json

    rng = random.Random(5)
    whole = 0
    for _ in range(300):
        content = mutate(CASES[2], CASES, rng).files.get("a.safetensors", b"")
        end = 8 + int.from_bytes(content[:8], "little")
        try:
            whole += isinstance(json.loads(content[8:end]), dict)
        except ValueError:
            continue
    assert whole > 100


def test_changed_pngs_have_the_right_checksums():
    import zlib

    from .corpus import records

    rng = random.Random(7)
    right = total = 0
    for _ in range(100):
        content = mutate(records()[0], records(), rng).files["a.png"]
        at = 8
        for kind, body in chunks_of(content):
            at += 12 + len(body)
            total += 1
            right += zlib.crc32(kind + body) == int.from_bytes(content[at - 4 : at], "big")
    assert right > 0.8 * total


def test_a_finding_comes_back_from_its_folder_as_it_was(tmp_path):
    case = Case({"a/b.bin": bytes(range(256)), "c.txt": b""}, "a/b.bin")
    keep(case, tmp_path / "found", target="photo", finding="it crashed")
    again, told = load(tmp_path / "found")
    assert again == case and told["target"] == "photo" and told["finding"] == "it crashed"
