"""kill -9 at any moment: run again, training ends in the same file, byte for byte.

A nursery (tests/fixtures/nursery.py) forks a child for each run: a real process, killed by a real SIGKILL, in a second.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from identity_lock.tests.fixtures.nursery import Nursery

PLAN = dict(checkpoint_every=2)
LORA = "lora.safetensors"
MODULE = "identity_lock.tests.training.test_kill"


# ---- in the child --------------------------------------------------------------------------------------------------


def train_to_the_end(folder: str, moment: str = "", count: int = 0) -> None:
    """Trains to the end and writes the LoRA; dies of SIGKILL at the `count`-th `moment` of writing a checkpoint."""
    from identity_lock.engines.lora_file import write_lora
    from identity_lock.identity import build_identity, read_photo
    from identity_lock.tests.fixtures.tiny_engine import CONSENT, HOPPER, tiny_data, tiny_engine, tiny_plan
    from identity_lock.training.loop import train

    die_at(moment, count)
    engine = tiny_engine()
    meter, _ = build_identity([read_photo(HOPPER)], name="Grace", consent=CONSENT).meters()

    def tell(progress) -> None:
        print(f"step {progress.step}", flush=True)

    lora, report = train(engine, tiny_data(engine), meter, tiny_plan(**PLAN), Path(folder), on_progress=tell)
    write_lora(lora, Path(folder) / LORA)
    print(f"done {lora.sha256} resumed {report.resumed_at}", flush=True)


def die_at(moment: str, count: int) -> None:
    calls = 0

    def now() -> bool:
        nonlocal calls
        calls += 1
        return calls == count

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if moment == "half written":
        write = Path.write_bytes

        def half(path: Path, content: bytes) -> int:
            if now():
                write(path, content[: len(content) // 2])
                die()
            return write(path, content)

        Path.write_bytes = half  # type: ignore[method-assign,assignment]
    elif moment == "before flushing":
        flush = os.fsync
        os.fsync = lambda fd: die() if now() else flush(fd)
    elif moment in ("before renaming", "after renaming"):
        rename = os.replace

        def renaming(*names: str) -> None:
            last = now()
            if last and moment == "before renaming":
                die()
            rename(*names)
            if last:
                die()

        os.replace = renaming  # type: ignore[assignment]


# ---- the tests -----------------------------------------------------------------------------------------------------


@dataclass
class Runs:
    """One training run after another, in children of a nursery."""

    nursery: Nursery
    said: Path

    def run(
        self, folder: Path, *, moment: str = "", count: int = 0, kill_at: str = "", after: float = 0.0
    ) -> list[str]:
        """All that it said, its way of ending last. kill_at: a line of its output at which it is killed by hand,
        `after` seconds later."""
        job = f"{MODULE}:train_to_the_end"
        child = self.nursery.start(job, self.said, folder=str(folder), moment=moment, count=count)
        if kill_at:
            child.wait_for(kill_at)
            time.sleep(after)
            child.kill()
        ending = child.wait()
        return [*child.lines(), ending]


@pytest.fixture(scope="module")
def nest(tmp_path_factory):
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork, which the nursery lives on")
    nursery = Nursery(("identity_lock.tests.fixtures.tiny_engine", "identity_lock.training.loop", "peft", "diffusers"))
    yield Runs(nursery, tmp_path_factory.mktemp("nursery") / "said.txt")
    nursery.close()


@pytest.fixture(scope="module")
def undisturbed(nest, tmp_path_factory) -> bytes:
    """The file of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    said = nest.run(folder)
    assert said[-1] == "ended 0" and said[-2].startswith("done") and said[-2].endswith("resumed []")
    return (folder / LORA).read_bytes()


def steps(said: list[str]) -> list[int]:
    return [int(line.split()[1]) for line in said if line.startswith("step")]


def goes_on(nest, folder: Path, undisturbed: bytes, *, lost_at_most: int, killed_after: int) -> None:
    said = nest.run(folder)
    assert said[-1] == "ended 0"
    assert (folder / LORA).read_bytes() == undisturbed
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]  # no temporary, no lock
    first = steps(said)[0]
    assert killed_after - lost_at_most < first <= killed_after + 1


@pytest.mark.parametrize("step, after", [(1, 0.0), (8, 0.02), (15, 0.004)])
def test_killed_by_hand_it_goes_on_to_the_same_bytes(nest, undisturbed, tmp_path, step, after):
    said = nest.run(tmp_path, kill_at=f"step {step}", after=after)
    assert said[-1] == "killed 9" and not (tmp_path / LORA).exists()
    done = steps(said)[-1]
    assert done >= step
    goes_on(nest, tmp_path, undisturbed, lost_at_most=2, killed_after=done)


@pytest.mark.parametrize(
    "moment, count",
    [("half written", 1), ("half written", 4), ("before flushing", 3), ("before renaming", 6), ("after renaming", 2)],
)
def test_killed_while_it_writes_a_checkpoint_it_goes_on_from_the_one_before(nest, undisturbed, tmp_path, moment, count):
    said = nest.run(tmp_path, moment=moment, count=count)
    assert said[-1] == "killed 9"
    done = max(steps(said), default=0) + 1  # the step whose checkpoint was being written was not told yet
    goes_on(nest, tmp_path, undisturbed, lost_at_most=4, killed_after=done)


def test_killed_again_and_again_it_still_arrives(nest, undisturbed, tmp_path):
    for step in (3, 8, 13):
        assert nest.run(tmp_path, kill_at=f"step {step}", after=0.003)[-1] == "killed 9"
    goes_on(nest, tmp_path, undisturbed, lost_at_most=3, killed_after=13)


def test_killed_while_it_writes_the_lora_no_half_of_it_is_left(nest, undisturbed, tmp_path):
    said = nest.run(tmp_path, moment="before renaming", count=8)  # seven checkpoints come before it
    assert said[-1] == "killed 9" and steps(said)[-1] == 16 and not (tmp_path / LORA).exists()
    assert nest.run(tmp_path)[-1] == "ended 0" and (tmp_path / LORA).read_bytes() == undisturbed
