"""A disk that is really full, at each kind of file; and one that can only be read. No root is needed for either."""

from __future__ import annotations

import subprocess

import pytest

from identity_lock.tests.faults.kills import JOB, PRELOAD, check_same, results
from identity_lock.tests.fixtures.nursery import Nursery

DISK = "identity_lock.tests.faults.disk"
NAMESPACE = ("unshare", "--map-root-user", "--mount")


@pytest.fixture(scope="module")
def outpost():
    """A nursery with mounts of its own."""
    try:
        tried = subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("this system has no unshare, by which a test gets a disk of its own")
    if tried.returncode:
        pytest.skip(f"this kernel lets nobody but root mount in a namespace: {tried.stderr.strip()}")
    made = Nursery((*PRELOAD, DISK), inside=NAMESPACE)
    yield made
    made.close()


@pytest.fixture
def do(outpost, tmp_path):
    """Runs a job to its end; what it said."""

    def run(job: str, *, ends: str = "ended 0", **arguments: object) -> list[str]:
        name = job if ":" in job else f"{DISK}:{job}"
        ending, said = outpost.run(name, tmp_path / "said.txt", **arguments)
        assert ending == ends, "\n".join(said[-30:])
        return said

    return run


@pytest.mark.parametrize(
    ("pattern", "nth", "pages"),
    [
        (r"\.training\.safetensors\..*\.tmp", 4, 1),  # two openings a file: to hold it, and to write it
        (r"\.lora\.safetensors\..*\.tmp", 2, 1),
        (r"seeds/\.seed_.*\.tmp", 6, 1),
        (r"seeds/seeds\.jsonl", 1, 0),
        (r"seeds/renders\.jsonl", 3, 0),  # in the middle of a line: its first half still fits
        (r"renders/renders\.jsonl", 1, 0),
    ],
    ids=["checkpoint", "LoRA", "seed picture", "journal", "log of the seeds", "log of the renders"],
)
def test_a_full_disk_is_one_sentence_and_nothing_is_lost(do, whole, tmp_path, pattern, nth, pages):
    disk = tmp_path / "disk"
    do("mount", disk=str(disk))
    said = do("run_until_full", ends="ended 1", disk=str(disk), pattern=pattern, nth=nth, pages=pages)
    assert "full" in said
    (sentence,) = [line for line in said if line.startswith("identity-lock: ")]
    assert "No space left on device" in sentence and "free some space" in sentence and str(disk) in sentence
    assert "Traceback" not in "\n".join(said)
    do("check_left", disk=str(disk))
    do("make_room", disk=str(disk))
    do(JOB, out=str(disk / "out"))
    do("copy_out", disk=str(disk), to=str(tmp_path / "copy"))
    check_same(results(tmp_path / "copy"), whole.results)


def test_a_disk_that_can_only_be_read_is_one_sentence_before_any_work(do, tmp_path):
    disk = tmp_path / "disk"
    do("mount", disk=str(disk))
    do("remount_read_only", disk=str(disk))
    said = do(JOB, ends="ended 1", out=str(disk / "out"))
    (sentence,) = [line for line in said if line.startswith("identity-lock: ")]
    assert "output folder" in sentence and "Read-only file system" in sentence and "that you may write" in sentence
    assert "Traceback" not in "\n".join(said) and not [line for line in said if line.startswith("step")]
