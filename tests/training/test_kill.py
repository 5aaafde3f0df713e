"""kill -9 at any moment: run again, training ends in the same file, byte for byte.

A nursery process imports everything once and forks a child for each run, so that a killed child is a real process
killed by a real SIGKILL and yet takes a second. Run as a script, this file is that nursery.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PLAN = dict(checkpoint_every=2)
LORA = "lora.safetensors"


# ---- the nursery ---------------------------------------------------------------------------------------------------


def run_child(folder: Path, moment: str, count: int) -> None:
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

    lora, report = train(engine, tiny_data(engine), meter, tiny_plan(**PLAN), folder, on_progress=tell)
    write_lora(lora, folder / LORA)
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


def nursery() -> None:
    import torch

    torch.set_num_threads(1)
    import peft
    from diffusers import DDIMScheduler, UNet2DConditionModel

    import identity_lock.tests.fixtures.tiny_engine  # noqa: F401  (everything heavy, once)
    import identity_lock.training.loop

    assert peft and DDIMScheduler and UNet2DConditionModel and identity_lock
    print("ready", flush=True)
    for line in sys.stdin:
        folder, moment, count = line.rstrip("\n").split("\t")
        child = os.fork()
        if not child:
            try:
                run_child(Path(folder), moment, int(count))
            finally:
                os._exit(0)
        print(f"child {child}", flush=True)
        _, status = os.waitpid(child, 0)
        ended = f"killed {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "ended"
        print(ended, flush=True)


if __name__ == "__main__":
    nursery()
    sys.exit()


# ---- the tests -----------------------------------------------------------------------------------------------------


class Nursery:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the nursery died"
        return line.strip()

    def run(
        self, folder: Path, *, moment: str = "", count: int = 0, kill_at: str = "", after: float = 0.0
    ) -> list[str]:
        """One training run; all that it said, its way of ending last. kill_at: a line of its output at which it is
        killed by hand, `after` seconds later."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{folder}\t{moment}\t{count}\n")
        self.process.stdin.flush()
        said: list[str] = []
        child = 0
        while not said or not said[-1].startswith(("killed", "ended")):
            line = self.line()
            if line.startswith("child"):
                child = int(line.split()[1])
                continue
            said.append(line)
            if kill_at and line == kill_at:
                time.sleep(after)
                os.kill(child, signal.SIGKILL)
        return said


@pytest.fixture(scope="module")
def nest():
    made = Nursery()
    yield made
    made.process.stdin.close()
    made.process.wait(timeout=30)


@pytest.fixture(scope="module")
def undisturbed(nest, tmp_path_factory) -> bytes:
    """The file of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    said = nest.run(folder)
    assert said[-1] == "ended" and said[-2].startswith("done") and said[-2].endswith("resumed []")
    return (folder / LORA).read_bytes()


def steps(said: list[str]) -> list[int]:
    return [int(line.split()[1]) for line in said if line.startswith("step")]


def goes_on(nest, folder: Path, undisturbed: bytes, *, lost_at_most: int, killed_after: int) -> None:
    said = nest.run(folder)
    assert said[-1] == "ended"
    assert (folder / LORA).read_bytes() == undisturbed
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
    assert nest.run(tmp_path)[-1] == "ended" and (tmp_path / LORA).read_bytes() == undisturbed
