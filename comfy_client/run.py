"""The command: plan the jobs, queue those that are missing, follow them, fetch what they made, say how it went."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..safety.atomic import make_folder
from ..safety.offline import no_network
from .address import ServerAddress, read_address
from .fan_out import FanOut, fan_out
from .follow import Limits, QueueRun
from .graph import Graph, Target, read_graph
from .journal import JobRecord, Journal
from .listener import Listener
from .lock import only_client
from .progress import Progress
from .refusals import ServerGone, UsageRefused
from .server import ComfyServer, open_server
from .values import doubtful, set_values

CONNECT_SECONDS = 5.0


def run_queue(args: argparse.Namespace, should_stop: Callable[[], bool]) -> int:
    """0 where every job is done, 1 where one failed. Raises UsageRefused before anything is queued, ServerGone where
    the server is not there or does not come back, QueueStopped, OutputError."""
    address = read_address(args.server, allow_remote=args.allow_remote)
    original = read_graph(args.graph)
    graph, given = set_values(original, args.set)
    plan = fan_out(graph, args.each, given)
    fractions = [spot for job in plan.jobs for spot in doubtful(original, job.graph, given | plan.targets)]
    for job in plan.jobs:
        job.graph.require_filled()
    if plan.repeated:
        print(f"{plan.repeated} of the --each values repeat others; each is queued once.", file=sys.stderr)
    if address.remote:
        print(f"Photos and prompts leave this machine for {address.host}, as --allow-remote says.", file=sys.stderr)
    folder = args.out or Path("out/queue") / args.graph.stem
    with only_client(make_folder(folder)), no_network(but=address.host if address.remote else None):
        journal = Journal(folder, graph.name, graph.fingerprint(without=plan.targets))
        records = journal.plan(plan.jobs)
        earlier = {record.name for record in records if record.state == "done"}
        try:
            if len(earlier) < len(records):
                asyncio.run(_queue(args, address, plan, fractions, journal, records, should_stop))
        finally:
            if any(record.state != "planned" for record in records):
                print(_table(records, earlier, folder))
    return _tell_failures(records)


async def _queue(
    args: argparse.Namespace,
    address: ServerAddress,
    plan: FanOut,
    fractions: list[Target],
    journal: Journal,
    records: list[JobRecord],
    should_stop: Callable[[], bool],
) -> None:
    graphs: dict[str, tuple[str, Graph]] = {}  # by prompt id
    progress = Progress(graphs.get)
    async with open_server(address) as server:
        try:
            await server.queue_state()
        except ServerGone as error:
            raise ServerGone(
                f"No ComfyUI answers at {address.shown}. Start it, in its folder, with `python main.py --port "
                f"{address.port}`, or name another with --server; then give the same command."
            ) from error
        await _require_fractions_fit(server, plan.jobs[0].graph, fractions)
        listener = Listener(server, journal.client_id, progress.on_event)
        listening = asyncio.create_task(listener.listen())
        try:
            await listener.connected(CONNECT_SECONDS)
            limits = Limits(timeout=args.timeout, retries=args.retries, reconnect=args.reconnect)
            run = QueueRun(server, listener, journal, progress, limits, graphs, args.all, should_stop)
            await run.run(list(zip(plan.jobs, records, strict=True)))
        finally:
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening
            progress.close()


async def _require_fractions_fit(server: ComfyServer, graph: Graph, fractions: list[Target]) -> None:
    for target in dict.fromkeys(fractions):
        if await server.wants_whole(graph.class_of(target.node), target.input):
            raise UsageRefused(f"{graph.spelled(target)} takes whole numbers only, and a fraction was given.")


def _table(records: list[JobRecord], earlier: set[str], folder: Path) -> str:
    rows = [("job", "seconds", "files", "status", "drift")]
    for record in records:
        status = record.state
        if record.name in earlier:
            gone = sum(not (folder / name).is_file() for name in record.files)
            status = "done before" + (f", {gone} moved" if gone else "")
        elif status == "planned":
            status = "not queued"
        seconds = "" if record.seconds is None else f"{record.seconds:.1f}"
        rows.append((record.name, seconds, str(len(record.files)), status, record.drift))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, f"in {folder}"])


def _tell_failures(records: list[JobRecord]) -> int:
    """Each reason once, with the jobs that it holds for."""
    reasons: dict[str, list[str]] = {}
    for record in records:
        if record.state == "failed":
            reasons.setdefault(record.reason, []).append(record.name)
    for reason, names in reasons.items():
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        print(f"identity-lock: {shown}: {reason}", file=sys.stderr)
    return 1 if reasons else 0

