"""A run: hostile files and old findings first, then inputs for every target in turn until the time is up.

What is found is kept as files that can be replayed:

    python -m identity_lock.tests.fuzz.campaign --minutes 30
    python -m identity_lock.tests.fuzz.campaign --replay out/fuzz/identity-1234-17
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .case import Case, keep, load
from .mutators import mutate
from .worker import Outcome, Target, Worker, usable

KEPT_PER_TARGET = 20
TAKEN = 100  # changed inputs that are changed on
REGRESSIONS = Path(__file__).parent / "regressions"


@dataclass
class Tally:
    """Of one target: executions, how many were taken or refused, seconds of wall time, the largest memory, findings."""

    executions: int = 0
    accepted: int = 0
    seconds: float = 0.0
    peak: int = 0
    slowest: float = 0.0
    findings: dict[str, Path | None] = field(default_factory=dict)
    again: int = 0


def campaign(
    targets: Mapping[str, Target], seed: int, seconds: float, found: Path | None = None, worker: Worker | None = None
) -> dict[str, Tally]:
    """Equal wall time for every target. The same seed gives each target the same inputs in the same order, as long as
    its reader takes and refuses the same; how many of them fit into the time is the machine's doing. found: where
    findings go, None for nowhere."""
    tallies = {name: Tally() for name in targets}
    streams = {name: Stream(target, seed) for name, target in targets.items()}
    end = time.monotonic() + seconds
    with worker or Worker(targets) as at_work:
        while time.monotonic() < end:
            name = min(tallies, key=lambda one: tallies[one].seconds)
            tally = tallies[name]
            began = time.monotonic()
            case = streams[name].next()
            outcome = at_work.run(name, case)
            streams[name].heard(case, outcome)
            _count(tally, outcome, case, name, seed, found)
            if tally.executions > 1:  # the first one pays for what its target makes ready
                tally.seconds += time.monotonic() - began
    return tallies


def known(targets: Mapping[str, Target]) -> tuple[int, list[str]]:
    """The hostile files, and what earlier runs found: how many there are of these targets, and the findings."""
    from .hostile import files

    count, findings = 0, []
    with Worker(targets) as worker:
        for target, what, prepare in files():
            if target in targets:
                count += 1
                outcome = worker.run_prepared(target, prepare)
                if outcome.finding:
                    findings.append(f"{target}: {what}: {outcome.finding} {outcome.trace}")
        for folder in sorted(REGRESSIONS.iterdir()):
            case, told = load(folder)
            if told["target"] in targets:
                count += 1
                outcome = worker.run(told["target"], case)
                if outcome.finding:
                    findings.append(f"{folder.name}: {outcome.finding} {outcome.trace}")
    return count, findings


class Stream:
    """The inputs of a target: first its seeds as they are, then changed ones. What was taken although it was changed is
    changed on: so inputs come further into a reader than any single change does."""

    def __init__(self, target: Target, seed: int) -> None:
        self._seeds = target.seeds()
        self._taken: list[Case] = []
        self._rng = random.Random(f"{seed} {target.name}")
        self._count = 0

    def next(self) -> Case:
        self._count += 1
        if self._count <= len(self._seeds):
            return self._seeds[self._count - 1]
        pool = self._taken if self._taken and self._rng.random() < 0.4 else self._seeds
        return mutate(self._rng.choice(pool), self._seeds, self._rng)

    def heard(self, case: Case, outcome: Outcome) -> None:
        if outcome.accepted and self._count > len(self._seeds):
            if len(self._taken) == TAKEN:
                self._taken.pop(self._rng.randrange(TAKEN))
            self._taken.append(case)


def _count(tally: Tally, outcome: Outcome, case: Case, name: str, seed: int, found: Path | None) -> None:
    tally.executions += 1
    tally.accepted += outcome.accepted
    tally.peak = max(tally.peak, outcome.peak)
    tally.slowest = max(tally.slowest, outcome.seconds)
    if not outcome.finding:
        return
    kind = _kind(outcome)
    if kind in tally.findings or len(tally.findings) >= KEPT_PER_TARGET:
        tally.again += 1
        return
    tally.findings[kind] = None
    if found is not None:
        place = found / f"{name.replace(' ', '_')}-{seed}-{tally.executions}"
        keep(case, place, target=name, seed=seed, number=tally.executions, finding=outcome.finding, trace=outcome.trace)
        tally.findings[kind] = place


def _kind(outcome: Outcome) -> str:
    """Findings of one kind are kept once: by the last line of code that they came from, else by what is told."""
    place = [line for line in outcome.trace.splitlines() if line.lstrip().startswith("File ")][-1:]
    told = re.sub(r"/\S*|\d+|'[^']*$", "#", outcome.finding)[:90]
    return " ".join([*place, told]).strip()


def report(tallies: Mapping[str, Tally], seed: int) -> str:
    """A table of what ran, and each finding with the file that replays it."""
    rows = [("target", "executions", "a second", "taken", "refused", "peak MiB", "slowest s", "findings")]
    for name, tally in tallies.items():
        rows.append(
            (
                name, str(tally.executions), f"{tally.executions / max(tally.seconds, 1e-9):.0f}", str(tally.accepted),
                str(tally.executions - tally.accepted), str(tally.peak >> 20), f"{tally.slowest:.2f}",
                str(len(tally.findings)) + (f" (+{tally.again} alike)" if tally.again else ""),
            )
        )  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for name, *numbers in rows:
        lines.append("  ".join([name.ljust(widths[0]), *map(str.rjust, numbers, widths[1:])]))
    executions, seconds = sum(t.executions for t in tallies.values()), sum(t.seconds for t in tallies.values())
    findings = [(name, kind, at) for name, tally in tallies.items() for kind, at in tally.findings.items()]
    lines.append(
        f"fuzz seed {seed}: {executions} executions in {seconds:.0f} s "
        f"({executions / max(seconds, 1e-9):.0f} a second), {len(findings)} findings"
    )
    lines += [f"  {name}: {' '.join(kind.split())[-300:]}" + (f" [{at}]" if at else "") for name, kind, at in findings]
    return "\n".join(lines)


def replay(folder: Path) -> Outcome:
    from .targets import TARGETS

    case, told = load(folder)
    with Worker(TARGETS) as worker:
        return worker.run(told["target"], case)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="of changed files, after the hostile ones")
    parser.add_argument("--seed", type=int, help="default: a random one, which is printed")
    parser.add_argument("--target", action="append", help="one of the targets' names; may be repeated (default: all)")
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"), help="where findings are kept")
    parser.add_argument("--replay", type=Path, metavar="FOLDER", help="a finding, or a case of the regression corpus")
    args = parser.parse_args(arguments)
    if not usable():
        print("Fuzzing needs Linux: forked processes and /proc.", file=sys.stderr)
        return 2
    if args.replay is not None:
        outcome = replay(args.replay)
        print(outcome.finding or ("taken" if outcome.accepted else f"refused: {outcome.said}"), outcome.trace, sep="\n")
        return 1 if outcome.finding else 0
    from .targets import TARGETS

    targets = {name: TARGETS[name] for name in args.target or TARGETS}
    seed = random.SystemRandom().randrange(1 << 32) if args.seed is None else args.seed
    print(f"fuzz seed {seed}, {args.minutes:g} minutes, {len(targets)} targets", flush=True)
    count, findings = known(targets)
    print("\n  ".join([f"{count} hostile files and old findings: {len(findings)} findings", *findings]), flush=True)
    tallies = campaign(targets, seed, 60 * args.minutes, args.out)
    print(report(tallies, seed))
    return 1 if findings or any(tally.findings for tally in tallies.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
