"""What a finished prompt left in the server's history: files, how long it took, the drift that its nodes report."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .explain import explain_failure
from .graph import Graph
from .server import ServerFile

# How nodes label the picture that they give, beside those that it was made from.
_FINISHED = ("final", "rescued")
MAX_FILES = 10_000  # of one run


@dataclass(frozen=True)
class Outcome:
    """failure: one sentence, "" where all went well. seconds: by the server's clock. drift: for the table, "" where no
    node reports one."""

    failure: str
    files: tuple[ServerFile, ...]
    seconds: float | None
    drift: str


def read_outcome(graph: Graph, entry: dict[str, Any], *, temporary: bool = False) -> Outcome:
    """entry: the prompt's history. temporary: previews (files of type "temp") count as results too."""
    status = entry.get("status")
    status = status if isinstance(status, dict) else {}
    messages = status.get("messages")
    messages = messages if isinstance(messages, list) else []
    failed = status.get("status_str") == "error" or status.get("completed") is False
    outputs = entry.get("outputs")
    outputs = outputs if isinstance(outputs, dict) else {}
    kinds = {"output", "temp"} if temporary else {"output"}
    return Outcome(
        failure=explain_failure(graph, messages) if failed else "",
        files=tuple(file for file in _files(outputs) if file.kind in kinds),
        seconds=_seconds(messages),
        drift=_drift(outputs),
    )


def _files(outputs: dict[str, Any]) -> list[ServerFile]:
    """Images, and what other packs report in the same form (videos, sound), each once."""
    found: dict[ServerFile, None] = {}
    for shown in outputs.values():
        for items in shown.values() if isinstance(shown, dict) else ():
            for item in items if isinstance(items, list) else ():
                if isinstance(item, dict) and isinstance(item.get("filename"), str) and len(found) < MAX_FILES:
                    file = ServerFile(item["filename"], str(item.get("subfolder", "")), str(item.get("type", "output")))
                    found[file] = None
    return list(found)


def _seconds(messages: list[Any]) -> float | None:
    try:
        at = {str(kind): float(data["timestamp"]) for kind, data in messages if "timestamp" in data}
    except (TypeError, ValueError, OverflowError):
        return None
    start = at.get("execution_start")
    end = max((at[kind] for kind in ("execution_success", "execution_error", "execution_interrupted") if kind in at),
              default=None)  # fmt: skip
    seconds = math.nan if start is None or end is None else (end - start) / 1000
    return round(seconds, 1) if math.isfinite(seconds) else None


def _drift(outputs: dict[str, Any]) -> str:
    """Of the finished renders of all nodes; else of the last node that measured pictures; else of the seed search."""
    finished: list[dict[str, Any]] = []
    measured: list[dict[str, Any]] = []
    best: list[dict[str, Any]] = []
    for shown in outputs.values():
        told = shown.get("identity_lock") if isinstance(shown, dict) else None
        for data in told if isinstance(told, list) else ():
            if not isinstance(data, dict):
                continue
            if data.get("kind") == "drifts" and (known := _known(data.get("items"))):
                finished += [one for one in known if str(one.get("label", "")).split(" ")[0].lower() in _FINISHED]
                measured = known
            elif data.get("kind") == "search" and (known := _known(data.get("results"))):
                best = [min(known, key=lambda one: one["drift"])]
    return _summary(finished or measured or best)


def _known(items: Any) -> list[dict[str, Any]]:
    found = items if isinstance(items, list) else []
    return [one for one in found if isinstance(one, dict) and _is_drift(one.get("drift"))]


def _is_drift(value: Any) -> bool:
    return isinstance(value, int | float) and 0.0 <= value <= 2.0


def _summary(shown: list[dict[str, Any]]) -> str:
    if not shown:
        return ""
    low, high = (pick(one["drift"] for one in shown) for pick in (min, max))
    locked = sum(bool(one.get("locked")) for one in shown)
    if len(shown) == 1:
        return f"{low:.3f}{' locked' if locked else ''}"
    return f"{low:.3f} to {high:.3f}, {locked} of {len(shown)} locked"
