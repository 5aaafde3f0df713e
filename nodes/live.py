"""What a running node shows: its progress bar, live events on the websocket, pictures and numbers in its body.

Every event is called "identity_lock" and says which node it is of; the same data stays in the history as the node's
output, so that charts survive a reload of the page.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..safety import index
from .places import entry

if TYPE_CHECKING:
    import numpy as np

    from ..rendering.search import SearchProgress, SearchReport, SeedResult
    from ..rendering.summary import Scored
    from ..training.report import Progress, TrainingReport

EVENT = "identity_lock"
LOG = logging.getLogger(EVENT)
POINTS = 400  # of a curve that is kept in the history
SHOWN = 64  # seeds of a search that are kept there
INTERVAL = 0.25  # s, at least, between two events of a training
PREVIEW = 256  # px

Send = Callable[[dict[str, Any]], None]
Point = TypeVar("Point")


def sender(node_id: Any) -> Send:
    """Sends to the browser that queued the graph; to all where nobody did."""
    from server import PromptServer

    server = PromptServer.instance

    def send(data: dict[str, Any]) -> None:
        server.send_sync(EVENT, {"node": node_id, **data}, server.client_id)

    return send


def interrupted() -> bool:
    import comfy.model_management

    return bool(comfy.model_management.processing_interrupted())


@contextmanager
def keeping_work(feed: TrainingFeed | SearchFeed) -> Iterator[None]:
    """Around a training or a search that was given `interrupted` as its should_stop: when the user cancels, the node
    says how to go on, and the run counts as interrupted."""
    import comfy.model_management as host

    from ..rendering.search import SearchStopped
    from ..training.loop import TrainingStopped

    try:
        yield
    except (TrainingStopped, SearchStopped) as stopped:
        feed.note(str(stopped))
        LOG.info(str(stopped))
        host.throw_exception_if_processing_interrupted()
        raise
    except host.InterruptProcessingException:  # from within a step or a sampling run
        feed.note(f"Interrupted {feed.where}; what was finished is kept, and the same graph goes on from it.")
        raise


class Bar:
    """The node's progress bar. Where the user has cancelled, moving it ends the run there and then; with `saving`, the
    one who is at work is left to save first."""

    def __init__(self, total: int, node_id: Any, *, saving: bool = False) -> None:
        from comfy.utils import ProgressBar

        self._saving = saving
        named = {"node_id": node_id} if "node_id" in inspect.signature(ProgressBar).parameters else {}
        self._bar = ProgressBar(total, **named)

    def __call__(self, value: int, total: int, preview: np.ndarray | None = None) -> None:
        """preview: uint8 RGB, the newest picture."""
        import comfy.model_management as host

        try:
            self._bar.update_absolute(value, total, None if preview is None else _preview(preview))
        except host.InterruptProcessingException:
            if not self._saving:
                raise
            host.interrupt_current_processing(True)  # put back, to be seen at the next look


def _preview(pixels: np.ndarray) -> tuple[str, Any, int]:
    from PIL import Image

    return ("JPEG", Image.fromarray(pixels), PREVIEW)


# ---- training ------------------------------------------------------------------------------------------------------


class TrainingFeed:
    """Tells of a training as it runs: new points only, and not more often than anybody can look."""

    def __init__(
        self, send: Send, bar: Callable[[int, int], None], total: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._send, self._bar, self._clock = send, bar, clock
        self._sent = (0, 0, 0)  # points of loss, probe and drift
        self._told_at = clock()
        self._last: Progress | None = None
        send(_training(None, total) | {"reset": True})

    def __call__(self, progress: Progress) -> None:
        self._bar(progress.step, progress.max_steps)
        self._last = progress
        if self._clock() - self._told_at >= INTERVAL:
            self._tell()

    @property
    def where(self) -> str:
        return "before the first step" if self._last is None else f"at step {self._last.step} of {self._last.max_steps}"

    def note(self, text: str) -> None:
        """The rest of the points, and a sentence."""
        self._tell(note=text)

    def _tell(self, **more: Any) -> None:
        self._told_at = self._clock()
        progress = self._last
        report = None if progress is None else progress.report
        data = _training(report, 0 if progress is None else progress.max_steps, self._sent)
        if report is not None:
            self._sent = (len(report.losses), len(report.probe), len(report.identity))
        self._send(data | more)


def training_output(report: TrainingReport, text: str) -> dict[str, Any]:
    """For the history: whole curves, thinned."""
    data = _training(report, report.max_steps)
    thinned = {key: thin(data[key], POINTS) for key in ("loss", "probe", "drift")}
    return data | thinned | {"reset": True, "final": True, "report": text}


def _training(report: TrainingReport | None, total: int, since: tuple[int, int, int] = (0, 0, 0)) -> dict[str, Any]:
    data: dict[str, Any] = {
        "kind": "training", "step": 0, "total": total, "phase": "", "phases": [], "loss": [], "probe": [], "drift": [],
        "note": "",
    }  # fmt: skip
    if report is None:
        return data
    return data | {
        "step": report.steps,
        "phase": report.phases[-1].name if report.phases else "",
        "phases": [[phase.name, phase.first_step, phase.last_step or None] for phase in report.phases],
        "loss": [[step, value] for step, value in report.losses[since[0] :]],
        "probe": [[verdict.step, verdict.mean] for verdict in report.probe[since[1] :]],
        "drift": [[check.step, check.drift, check.detected] for check in report.identity[since[2] :]],
    }


# ---- search --------------------------------------------------------------------------------------------------------


class SearchFeed:
    """Tells of a search as it runs: each finished seed once, with the file of its picture."""

    def __init__(
        self, send: Send, bar: Callable[..., None], folder: Path, total: int, threshold: float,
        entry: Callable[[Path], dict[str, Any]] = entry,
    ) -> None:  # fmt: skip
        self._send, self._bar, self._folder, self._threshold, self._entry = send, bar, folder, threshold, entry
        self._done, self._total, self._pruned = 0, total, 0
        self._tell([], reset=True)

    def __call__(self, progress: SearchProgress) -> None:
        self._done, self._total = progress.done, progress.total
        self._pruned += sum(not result.finished for result in progress.latest)
        finished = [result for result in progress.latest if result.finished]
        self._tell(finished)
        self._bar(progress.done, progress.total, self._newest(finished))

    @property
    def where(self) -> str:
        return f"after {self._done} of {self._total} seeds"

    def note(self, text: str) -> None:
        self._tell([], note=text)

    def _tell(self, results: Sequence[SeedResult], reset: bool = False, **more: Any) -> None:
        self._send(
            {
                "kind": "search", "done": self._done, "total": self._total, "pruned": self._pruned,
                "results": _seeds(results, self._folder, self._threshold, self._entry), "reset": reset,
                "threshold": self._threshold, **more,
            }
        )  # fmt: skip

    def _newest(self, finished: Sequence[SeedResult]) -> np.ndarray | None:
        if not finished:
            return None
        from ..safety.provenance import read_png

        return read_png(self._folder / str(finished[-1].file))


def search_output(
    report: SearchReport, threshold: float, text: str, entry: Callable[[Path], dict[str, Any]] = entry
) -> dict[str, Any]:
    """For the history: the finished seeds, best first, and the distribution of all of them."""
    from ..rendering.sheet import drift_histogram

    counts, edges = drift_histogram(report)
    finished = report.finished
    return {
        "kind": "search", "done": len(report.results), "total": len(report.results),
        "pruned": len(report.results) - len(finished),
        "results": _seeds(finished[:SHOWN], Path(report.folder), threshold, entry), "reset": True,
        "threshold": threshold, "histogram": counts, "edges": edges, "final": True, "report": text,
    }  # fmt: skip


def _seeds(
    results: Sequence[SeedResult], folder: Path, threshold: float, entry: Callable[[Path], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Seeds as text too: a browser's numbers end at 2^53."""
    return [
        {
            "seed": result.seed if result.seed < 2**53 else str(result.seed),
            "drift": result.drift,
            "detected": result.detected,
            "locked": result.detected and result.drift is not None and result.drift <= threshold,
            "report_drift": result.report_drift,
            "file": entry(folder / str(result.file)),
        }
        for result in results
    ]


# ---- what a finished node shows ------------------------------------------------------------------------------------


def shown(node_id: Any, data: Mapping[str, Any], images: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The `ui` of a node's output. images: files as the front end names them, shown under the node."""
    ui: dict[str, Any] = {EVENT: [{"node": node_id, **data}]}
    return ui | {"images": list(images)} if images else ui


def drifts(scored: Sequence[Scored], threshold: float, report: str) -> dict[str, Any]:
    return _drifts(
        [
            {
                "label": row.label,
                "drift": row.drift.value,
                "locked": row.drift.locked(threshold),
                "report_drift": None if row.report is None else row.report.value,
            }
            for row in scored
        ],
        threshold,
        report,
    )


def labels(names: Sequence[str], threshold: float, report: str) -> dict[str, Any]:
    """Pictures that have no drift, such as prepared faces."""
    return _drifts(
        [{"label": name, "drift": None, "locked": None, "report_drift": None} for name in names], threshold, report
    )


def _drifts(items: list[dict[str, Any]], threshold: float, report: str) -> dict[str, Any]:
    return {"kind": "drifts", "items": items, "threshold": threshold, "report": report, "final": True}


def previews(images: Any, *keys: str) -> list[dict[str, Any]]:
    """Temporary files of an IMAGE batch; ComfyUI empties their folder when it starts. keys: of the index, of the
    person or the photos shown. The names are ComfyUI's, so here the index follows the files."""
    import folder_paths
    from comfy_api.latest import ui

    saved = [dict(one) for one in ui.PreviewImage(images).as_dict()["images"]]
    paths = [Path(folder_paths.get_temp_directory(), one["subfolder"], one["filename"]) for one in saved]
    for key in keys:
        index.made(key, "preview", *paths)
    return saved


def graph_text(hidden: Any) -> dict[str, str]:
    """The graph, as ComfyUI's own nodes put it into a PNG, so that dropping the picture on the page opens it."""
    import json

    from comfy.cli_args import args

    if args.disable_metadata or hidden is None:
        return {}
    text = {"prompt": json.dumps(hidden.prompt)} if hidden.prompt else {}
    return text | {key: json.dumps(value) for key, value in (hidden.extra_pnginfo or {}).items()}


def thin(points: Sequence[Point], limit: int) -> list[Point]:
    """At most `limit` of them, evenly spaced, the first and the last among them."""
    if len(points) <= limit:
        return list(points)
    return [points[round(index * (len(points) - 1) / (limit - 1))] for index in range(limit)]
