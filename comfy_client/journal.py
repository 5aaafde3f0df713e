"""What was planned, queued, done and failed: a JSON line for each event, so that a crash of either side costs nothing.

The server keeps its queue and its history in memory. The journal keeps them for us: a job that is done is never queued
again, and one that was queued is looked for on the server first.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import OutputError
from ..safety.files import plain_parts
from ..safety.json_lines import JournalDamaged, append_records, damaged, read_lines
from ..safety.untrusted import from_json
from .fan_out import Job
from .refusals import UsageRefused

JOURNAL_NAME = "queue.jsonl"
_REMEDY = "delete that line (its job runs again), or give --out another folder"


@dataclass
class JobRecord:
    """state: "planned", "queued", "done" or "failed". name: also its folder's. prompt_id: the server's name for the
    run; set as soon as the job may have reached a server. reason: why it failed, one sentence."""

    name: str
    fingerprint: str
    state: str = "planned"
    prompt_id: str | None = None
    files: list[str] = field(default_factory=list)
    seconds: float | None = None
    drift: str = ""
    reason: str = ""


class Journal:
    """The first line says which graph the folder belongs to, and the id under which the server knows this client."""

    def __init__(self, folder: Path, graph: str, fingerprint: str) -> None:
        """fingerprint: of the graph and its values, but for the inputs that --each varies: lists may grow.

        A journal of another graph with nothing done and nothing queued (a value was wrong, say) is begun anew. Raises
        UsageRefused for one with results, or a damaged one; OutputError.
        """
        self.folder, self.path = folder, folder / JOURNAL_NAME
        self.records: dict[str, JobRecord] = {}
        self._by_name: dict[str, JobRecord] = {}
        lines = self._read()
        if lines and lines[0].get("fingerprint") != fingerprint:
            if any(record.state in ("queued", "done") for record in self.records.values()):
                raise UsageRefused(
                    f"{self.path} belongs to another graph ({lines[0].get('graph')}), to other --set values or to "
                    "other pictures; give --out another folder, or delete this one to start afresh."
                )
            lines = []
        if not lines:
            self.records, self._by_name = {}, {}
            lines = [{"event": "graph", "graph": graph, "fingerprint": fingerprint, "client_id": uuid.uuid4().hex}]
            self._append(lines[0], fresh=True)
        self.client_id = str(lines[0].get("client_id") or uuid.uuid4().hex)

    def plan(self, jobs: Sequence[Job]) -> list[JobRecord]:
        """The record of each job: the one that the folder has already, or a new one."""
        records = []
        for job in jobs:
            if job.fingerprint not in self.records:
                name = f"{len(self.records) + 1:03d}_{job.label}"
                line = {"event": "planned", "job": name, "fingerprint": job.fingerprint, "values": job.values}
                self._append(line)
                self._replay(line)
            records.append(self.records[job.fingerprint])
        return records

    def queued(self, record: JobRecord, prompt_id: str, server: str) -> None:
        """Written before the server is asked: whatever happens then, the next run knows what to look for."""
        self._event("queued", record, prompt_id=prompt_id, server=server)

    def done(self, record: JobRecord, files: list[str], seconds: float | None, drift: str) -> None:
        self._event("done", record, files=files, seconds=seconds, drift=drift)

    def failed(self, record: JobRecord, reason: str) -> None:
        self._event("failed", record, reason=reason)

    def _event(self, event: str, record: JobRecord, **more: Any) -> None:
        line = {"event": event, "job": record.name, **more}
        self._append(line)
        self._replay(line)

    def _replay(self, line: dict[str, Any]) -> None:
        """Raises KeyError, ValueError, OutputError for a line that this client did not write."""
        told = from_json(_Line, line)
        for name in (told.job, *told.files):
            plain_parts(name)
        if told.event == "planned":
            if told.job in self._by_name:
                raise ValueError("two jobs of one name")
            record = JobRecord(told.job, told.fingerprint)
            self.records[record.fingerprint] = self._by_name[record.name] = record
            return
        record = self._by_name[told.job]
        record.state = told.event
        if told.event == "queued":
            record.prompt_id = told.prompt_id
        elif told.event == "done":
            record.files, record.seconds, record.drift = told.files, told.seconds, told.drift
        elif told.event == "failed":
            record.reason = told.reason
        else:
            raise ValueError(f"an event {told.event}")

    def _read(self) -> list[dict[str, Any]]:
        """The lines, replayed but for the first. One that a kill cut short is dropped: it is found out anew."""
        lines = []
        try:
            for number, line in enumerate(read_lines(self.path, _REMEDY), start=1):
                lines.append(line)
                if number > 1:
                    try:
                        self._replay(line)
                    except (KeyError, ValueError, OutputError) as error:
                        raise damaged(self.path, number, _REMEDY) from error
        except JournalDamaged as error:
            raise UsageRefused(str(error)) from error
        return lines

    def _append(self, line: dict[str, Any], *, fresh: bool = False) -> None:
        append_records(self.path, [{**line, "time": datetime.now(UTC).isoformat(timespec="seconds")}], fresh=fresh)


@dataclass(frozen=True)
class _Line:
    """What a line can hold."""

    event: str
    job: str
    time: str = ""
    fingerprint: str = ""
    values: dict[str, str] = field(default_factory=dict)
    prompt_id: str = ""
    server: str = ""
    files: list[str] = field(default_factory=list)
    seconds: float | None = None
    drift: str = ""
    reason: str = ""
