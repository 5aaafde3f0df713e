"""Queues jobs, follows them to their end and fetches their files, whatever happens to the server meanwhile."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import OutputError
from ..safety import index
from ..safety.files import resolve_inside
from ..safety.forget import people_in
from .explain import explain_rejection
from .fan_out import Job
from .graph import Graph
from .journal import JobRecord, Journal
from .listener import Listener
from .outcome import Outcome, read_outcome
from .progress import Progress
from .refusals import QueueStopped, ServerError, ServerGone
from .server import ComfyServer, GraphRejected, QueueState, ServerFile

# The websocket tells when something ended; looking is for what it missed, and for the stop that the user asks for.
TICK_SECONDS, LOOK_SECONDS = 0.5, 5.0
MAX_FETCHES = 5


@dataclass(frozen=True)
class Limits:
    """timeout: seconds that a job may run once started, None for no limit. retries: how often a job that was lost with
    the server is queued again; one that fails in a node is not: it would fail again. reconnect: seconds to wait for a
    server that went away."""

    timeout: float | None = None
    retries: int = 2
    reconnect: float = 60.0


@dataclass
class _Open:
    """A job that has no end yet. prompt_id: None while it is to be queued. queued_at: when this run queued it, None
    where it is not certain that the server got it."""

    job: Job
    record: JobRecord
    prompt_id: str | None = None
    queued_at: float | None = None
    started_at: float | None = None
    attempts: int = 0
    fetches: int = 0


class QueueRun:
    def __init__(
        self,
        server: ComfyServer,
        listener: Listener,
        journal: Journal,
        progress: Progress,
        limits: Limits,
        graphs: dict[str, tuple[str, Graph]],
        temporary: bool,
        should_stop: Callable[[], bool],
    ) -> None:
        """graphs: filled with the name and graph of each prompt id, which `progress` shows."""
        self.server, self.listener, self.journal, self.progress = server, listener, journal, progress
        self.limits, self.graphs, self.temporary, self.should_stop = limits, graphs, temporary, should_stop
        self.open: list[_Open] = []
        self._looked_at = -LOOK_SECONDS

    async def run(self, jobs: list[tuple[Job, JobRecord]]) -> None:
        """Until every job is done or failed. Raises ServerGone (it stays away); QueueStopped, OutputError."""
        for job, record in jobs:
            if record.state != "done":
                # What an earlier run queued may have ended since, or wait still. What failed is tried anew.
                known = record.prompt_id if record.state == "queued" else None
                self.open.append(_Open(job, record, known))
                if known is not None:
                    self.graphs[known] = (record.name, job.graph)
        while self.open:
            try:
                await self._look()
                await self._queue_missing()
                if self.open:
                    await self._pause()
            except ServerGone:
                await self._until_back()

    async def _queue_missing(self) -> None:
        for one in [one for one in self.open if one.prompt_id is None]:
            self._stop_if_asked()
            try:
                await self._queue(one)
            except GraphRejected as error:
                self._fail(one, await explain_rejection(one.job.graph, error.body, self.server.options))
            except ServerGone:
                raise
            except ServerError as error:
                self._fail(one, str(error))

    async def _queue(self, one: _Open) -> None:
        uploaded = {picture: await self.server.upload(picture) for picture in one.job.graph.pictures()}
        asked = str(uuid.uuid4())
        self._note_queued(one, asked)
        one.attempts += 1
        given = await self.server.queue(one.job.graph.to_send(uploaded), asked, self.journal.client_id)
        one.queued_at = time.monotonic()
        if given != asked:
            self._note_queued(one, given)

    def _note_queued(self, one: _Open, prompt_id: str) -> None:
        self.journal.queued(one.record, prompt_id, self.server.address.shown)
        one.prompt_id, one.started_at = prompt_id, None
        self.graphs[prompt_id] = (one.record.name, one.job.graph)

    async def _pause(self) -> None:
        """Until there is something to look at."""
        while time.monotonic() - self._looked_at < LOOK_SECONDS:
            self._stop_if_asked()
            if await self.listener.news(TICK_SECONDS):
                return

    async def _look(self) -> None:
        """Settle what has ended. The queue is asked before the history: a prompt that ends in between is then found in
        the history; the other way round it would be in neither."""
        self._stop_if_asked()
        state = await self.server.queue_state()
        self._looked_at = time.monotonic()
        for one in [one for one in self.open if one.prompt_id is not None]:
            assert one.prompt_id is not None
            if one.prompt_id in state:
                await self._check_time(one, state)
            elif (entry := await self.server.history(one.prompt_id)) is not None:
                await self._finish(one, entry)
            else:
                self._lost(one)

    async def _check_time(self, one: _Open, state: QueueState) -> None:
        assert one.prompt_id is not None
        if one.prompt_id not in state.running or self.limits.timeout is None:
            return
        one.started_at = one.started_at or time.monotonic()
        if time.monotonic() - one.started_at > self.limits.timeout:
            await self.server.drop(one.prompt_id)
            self._fail(one, f"It ran longer than the {self.limits.timeout:g} s of --timeout and was interrupted.")

    def _lost(self, one: _Open) -> None:
        """In neither the queue nor the history: the server was started anew, or somebody took the job away."""
        since = self.listener.connected_since
        if one.queued_at is not None and since is not None and since < one.queued_at:
            self._fail(one, "Somebody removed it from the server's queue.")
        elif one.attempts > self.limits.retries:
            self._fail(one, f"It was lost with the server {one.attempts} times; the server's console may say why.")
        else:
            one.prompt_id = one.queued_at = None
            self.progress.say(f"{one.record.name}: the server was started anew and has lost it; queued again.")

    async def _finish(self, one: _Open, entry: dict[str, Any]) -> None:
        outcome = read_outcome(one.job.graph, entry, temporary=self.temporary)
        if outcome.failure:
            self._fail(one, outcome.failure)
            return
        one.fetches += 1
        try:
            files = await self._fetch(one.record, outcome)
        except ServerError as error:
            if isinstance(error, ServerGone) and one.fetches < MAX_FETCHES:
                raise
            self._fail(one, str(error))  # this file only; the other jobs go on
            return
        self.journal.done(one.record, files, outcome.seconds, outcome.drift)
        self.open.remove(one)
        self.progress.say(f"{one.record.name}: done, {len(files)} file{'s' * (len(files) != 1)}")

    async def _fetch(self, record: JobRecord, outcome: Outcome) -> list[str]:
        """The files' paths below the journal's folder. The job's folder appears when all of them are there."""
        if not outcome.files:
            return []
        folder = resolve_inside(self.journal.folder, record.name)
        part = folder.with_name(f".{record.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        try:
            names = local_names(outcome.files)
            for file, name in names.items():
                self._stop_if_asked()
                await self.server.download(file, _place(part, name))
            self._file_under_their_people(record, part, folder)
            shutil.rmtree(folder, ignore_errors=True)  # only where a crash came between the folder and its journal line
            part.rename(folder)
        except OSError as error:
            raise OutputError(f"{folder} cannot be written ({error.strerror}).") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return [f"{record.name}/{name}" for name in names.values()]

    def _file_under_their_people(self, record: JobRecord, part: Path, folder: Path) -> None:
        """Before the folder appears: whose pictures it holds, for `identity-lock forget`."""
        files = sorted(path for path in part.rglob("*") if path.is_file())
        for person in sorted(set().union(*map(people_in, files))):
            index.made(person, index.FOLDER, folder)
            index.made(person, "result", *(folder / path.relative_to(part) for path in files), together=True)
            index.made_line(person, self.journal.path, "job", record.name)

    def _fail(self, one: _Open, reason: str) -> None:
        self.journal.failed(one.record, reason)
        self.open.remove(one)
        self.progress.say(f"{one.record.name}: failed")

    async def _until_back(self) -> None:
        """Raises ServerGone where the server stays away for longer than the limit."""
        self.progress.close()
        wait = self.limits.reconnect
        self.progress.say(f"{self.server.address.shown} does not answer; waiting up to {wait:g} s for it.")
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline:
            self._stop_if_asked()
            with suppress(ServerGone):
                await self.server.queue_state()
                return
            await self.listener.news(2 * TICK_SECONDS)
        raise ServerGone(
            f"The server at {self.server.address.shown} went away with {len(self.open)} jobs open and was not back "
            f"within {wait:g} s. Start it again and give the same command: it goes on with what is missing."
        )

    def _stop_if_asked(self) -> None:
        if self.should_stop():
            on_server = sum(one.prompt_id is not None for one in self.open)
            raise QueueStopped(
                f"Stopped with {len(self.open)} jobs open, {on_server} of them still on the server, which goes on; the "
                "same command fetches what they make and queues the rest."
            )


def _place(folder: Path, name: str) -> Path:
    """Where a file that the server named goes. Raises ServerError for a name that leads out of the folder."""
    try:
        return resolve_inside(folder, name)
    except OutputError as error:
        raise ServerError(f"The server made a file of a name that is not taken: {error}") from error


def local_names(files: tuple[ServerFile, ...]) -> dict[ServerFile, str]:
    """File names for one folder, no two alike; where two from different subfolders are called the same, the subfolder
    goes first, and where that is no help, a number."""
    taken: set[str] = set()
    names = {}
    for file in files:
        name = Path(file.filename.replace("\\", "/")).name
        if name.casefold() in taken:
            name = f"{file.kind}_{file.subfolder}_{name}".replace("\\", "/").replace("/", "_")
        if name.casefold() in taken:
            name = f"{len(taken) + 1}_{name}"
        taken.add(name.casefold())
        names[file] = name
    return names
