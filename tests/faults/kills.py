"""`make faults`: a whole `identity-lock run`, killed at 50 random points, started again, and compared.

What runs is the command itself (small_run.py): prepare, embed, untrained search, training, seed search, three-pass and
two-pass renders, and the files after them; in a child of a nursery, so that each SIGKILL is real and a run takes
seconds. A run that nobody disturbs numbers the points at which it can be hit, some thousand of them: before each file
is opened, renamed, linked, removed or flushed, in the middle of each write, before each forward pass, after each
training step. 50 of them are drawn, spread over the stages and over the kinds of point, by a seed that is printed;
`--seed` draws the same ones again. Every fifth run is killed a second time while it goes on.

After each kill
- every file is whole and can be read, but for temporaries, locks and a half line at the end of a journal;
- the same command goes on and ends well;
- training goes on from its last checkpoint: at most what lies between two of them, and the one that was being written,
  is done again;
- a seed that is in the journal and a render that is in the log are not made again: their files are not touched;
- in the end everything is as in the run that nobody disturbed: the LoRA and the state of the training byte for byte,
  pictures pixel for pixel, each record, log line and journal line, none twice; and no temporary is left.

What may differ: times (`made`, `created`, `seconds`), and the steps at which the training was resumed.

    python -m identity_lock.tests.faults.kills [--kills 50] [--seed N]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from identity_lock.safety.index import HOME_VARIABLE
from identity_lock.tests.fixtures.nursery import Nursery

JOB = "identity_lock.tests.faults.small_run:run"
PRELOAD = ("peft", "pytorch_optimizer", "scipy.stats", "matplotlib.figure", "diffusers", "cv2", JOB.split(":")[0])
CHECKPOINT_EVERY = 2  # as in small_run.py, which this side does not import: it is heavy
# In this order, over and over: the five kills of the test suite are its beginning.
STAGES = (
    "train", "search", "three_pass", "two_pass", "after", "train", "search", "three_pass", "train", "untrained",
)  # fmt: skip
TIMES = ("made", "created", "seconds", "seconds_probing", "resumed_at")


@dataclass(frozen=True)
class Point:
    """number: of the run's points, from 1."""

    number: int
    stage: str
    kind: str


@dataclass(frozen=True)
class Undisturbed:
    """What a run leaves that nothing happened to, and the points that it came by."""

    out: Path
    results: dict[str, Any]
    points: list[Point]


def undisturbed(nursery: Nursery, folder: Path) -> Undisturbed:
    out, told = folder / "out", folder / "points.json"
    ending, said = nursery.run(JOB, folder / "said.txt", out=str(out), points_to=str(told))
    assert ending == "ended 0", "\n".join(said[-30:])
    assert steps(said) == list(range(1, 12)), said  # or the check of lost steps would see nothing
    seen = json.loads(told.read_text())
    return Undisturbed(out, results(out), [Point(i, stage, kind) for i, (stage, kind) in enumerate(seen, start=1)])


def drawn(points: Sequence[Point], count: int, rng: random.Random) -> list[Point]:
    """Stages by turns; within one, a kind of point as good as another, and of its kind a point as good as another."""
    chosen = []
    for number in range(count):
        here = [point for point in points if point.stage == STAGES[number % len(STAGES)]]
        kind = rng.choice(sorted({point.kind for point in here}))
        chosen.append(rng.choice([point for point in here if point.kind == kind]))
    return chosen


def kill_and_go_on(nursery: Nursery, folder: Path, point: Point, whole: Undisturbed, *, again_at: int = 0) -> None:
    """again_at: the number of the point of the second run at which that is killed too; 0 for none. Raises
    AssertionError, naming what was lost, torn, done twice or came out differently."""
    out = folder / "out"
    ending, said = nursery.run(JOB, folder / "said_1.txt", out=str(out), die_at=point.number)
    assert ending == "killed 9", f"it {ending}:\n" + "\n".join(said[-30:])
    done = steps(said)
    if again_at:
        check_whole(out)
        finished = finished_pictures(out)
        _, said = nursery.run(JOB, folder / "said_2.txt", out=str(out), die_at=again_at)
        check_untouched(out, finished)
        done += steps(said)
    check_whole(out)
    finished = finished_pictures(out)
    ending, said = nursery.run(JOB, folder / "said_3.txt", out=str(out))
    assert ending == "ended 0", f"it did not go on but {ending}:\n" + "\n".join(said[-30:])
    check_untouched(out, finished)
    check_steps(max(done, default=0), steps(said))
    check_same(results(out), whole.results)


# ---- what is left ----------------------------------------------------------------------------------------------------


def check_whole(out: Path) -> None:
    """Every file is whole, or a temporary, a lock, or a journal whose last line is cut short."""
    for path in files(out):
        if path.suffix not in (".tmp", ".lock"):
            try:
                read(path)
            except Exception as error:
                raise AssertionError(f"{path.relative_to(out)} is torn: {error}") from error


def results(out: Path) -> dict[str, Any]:
    """By path: what each file says, without its times."""
    return {path.relative_to(out).as_posix(): timeless(read(path)) for path in files(out)}


def check_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys(), f"other files: {sorted(found.keys() ^ expected.keys())}"
    for name in expected:
        assert found[name] == expected[name], f"{name} came out differently: {difference(found[name], expected[name])}"


def finished_pictures(out: Path) -> dict[str, tuple[int, int]]:
    """Those that are noted down as done, and what tells a file from one that was written anew."""
    names = [f"{folder}/{row['file']}" for folder in ("untrained", "seeds") for row in journalled(out / folder)]
    for folder in ("renders", "renders/passes"):
        names += [f"{folder}/{line['file']}" for line in whole_lines(out / folder / "renders.jsonl")]
    return {name: ((out / name).stat().st_ino, (out / name).stat().st_mtime_ns) for name in names}


def check_untouched(out: Path, before: dict[str, tuple[int, int]]) -> None:
    for name, mark in before.items():
        status = (out / name).stat()
        assert (status.st_ino, status.st_mtime_ns) == mark, f"{name} was finished, and was made again"


def check_steps(done: int, again: list[int]) -> None:
    if again:
        lost = done + 1 - again[0]
        assert lost <= 2 * CHECKPOINT_EVERY, f"{lost} training steps were lost: {done} were done, {again[0]} came next"


def steps(said: Sequence[str]) -> list[int]:
    return [int(line.split()[1]) for line in said if line.startswith("step ")]


# ---- reading ---------------------------------------------------------------------------------------------------------


def files(out: Path) -> list[Path]:
    return sorted(path for path in out.rglob("*") if path.is_file())


def read(path: Path) -> Any:
    """What a file says. Raises where it is not whole, or of no kind that a run writes."""
    if path.suffix == ".png":
        return picture(path)
    if path.suffix == ".safetensors":
        return tensors(path)
    if path.suffix == ".json":
        return json.loads(path.read_text())
    assert path.suffix == ".jsonl", "no file of a run"
    return whole_lines(path)


def picture(path: Path) -> dict[str, Any]:
    with Image.open(path) as image:
        image.load()
        record = json.loads(image.text.get("identity_lock", "{}"))  # type: ignore[attr-defined]
        pixels = np.asarray(image)
    return {"pixels": (pixels.shape, pixels.tobytes()), "record": record}


def tensors(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(str(path), framework="numpy") as file:
        told = dict(file.metadata() or {})
        found: dict[str, Any] = {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118
    for name, text in told.items():
        found[f"metadata/{name}"] = json.loads(text) if text[:1] in "[{" else text
    return found


def whole_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def journalled(folder: Path) -> list[dict[str, Any]]:
    """The finished seeds of whole batches."""
    rows = whole_lines(folder / "seeds.jsonl")[1:]
    while rows and rows[-1]["to_come"]:
        rows.pop()
    return [row for row in rows if row["file"]]


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: timeless(inner) for key, inner in value.items() if key not in TIMES}
    return [timeless(inner) for inner in value] if isinstance(value, list) else value


def difference(found: Any, expected: Any, where: str = "") -> str:
    """The first place in which two readings differ."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in expected:
            if found.get(key) != expected[key]:
                return difference(found.get(key), expected[key], f"{where}/{key}")
        return f"{where} has {sorted(found.keys() - expected.keys())} more"
    if isinstance(found, list) and isinstance(expected, list):
        if len(found) != len(expected):
            return f"{where} has {len(found)} entries and not {len(expected)}"
        index = next(i for i, (one, other) in enumerate(zip(found, expected, strict=True)) if one != other)
        return difference(found[index], expected[index], f"{where}[{index}]")
    return f"{where}: {str(found)[:80]} and not {str(expected)[:80]}"


# ---- the command -----------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="faults", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    args = parser.parse_args(arguments)
    print(f"{args.kills} kills, drawn by --seed {args.seed}", flush=True)
    failed: list[str] = []
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        os.environ[HOME_VARIABLE] = f"{place}/home"  # what these runs make is not for this user's index
        nursery = Nursery(PRELOAD)
        whole = undisturbed(nursery, Path(place) / "whole")
        print(f"undisturbed: {len(whole.points)} points, {len(whole.results)} files", flush=True)
        rng = random.Random(args.seed)
        for number, point in enumerate(drawn(whole.points, args.kills, rng), start=1):
            again_at = rng.randrange(1, 200) if number % 5 == 0 else 0
            what = f"{number}: point {point.number}, {point.stage}, {point.kind}"
            what += f", and again at {again_at}" if again_at else ""
            try:
                kill_and_go_on(nursery, Path(place) / str(number), point, whole, again_at=again_at)
                print(f"{what}: as undisturbed", flush=True)
            except AssertionError as error:
                failed.append(what)
                print(f"{what}: FAILED\n{error}", flush=True)
        told = Counter(point.stage for point in drawn(whole.points, args.kills, random.Random(args.seed)))
        nursery.close()
    print(
        f"{args.kills - len(failed)} of {args.kills} kills ended as the undisturbed run did, in "
        f"{(time.monotonic() - started) / 60:.1f} minutes; by stage: "
        + ", ".join(f"{stage} {count}" for stage, count in told.items())
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
