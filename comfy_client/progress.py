"""Shows what the server is doing: a bar on a terminal, a line for each node elsewhere (in logs, bars are noise)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TextIO

from tqdm import tqdm

from ..errors import printable
from .graph import Graph

MAX_TITLE = 200


class Progress:
    """find(prompt_id): the job's name and its graph, None for prompts of others."""

    def __init__(
        self, find: Callable[[str], tuple[str, Graph] | None], stream: TextIO | None = None, *, bar: bool | None = None
    ) -> None:
        self.find, self.stream = find, stream or sys.stderr
        self._wanted = self.stream.isatty() if bar is None else bar
        self._bar: tqdm[Any] | None = None
        self._shown: tuple[str, str] | None = None

    def say(self, text: str) -> None:
        """A line of its own; a bar below it stays whole."""
        if self._bar is not None:
            self._bar.clear()
        print(text, file=self.stream, flush=True)

    def on_event(self, kind: str, data: dict[str, Any]) -> None:
        """A message of ComfyUI's websocket; those that tell of no node, or of other clients' prompts, are ignored."""
        prompt_id = data.get("prompt_id")
        job = self.find(str(prompt_id)) if prompt_id else None
        if job is None:
            return
        if kind == "executing":
            node = data.get("display_node") or data.get("node")
            self._start(job, str(node)) if node is not None else self.close()
        elif kind == "progress":
            self._step(job, data.get("node"), data.get("value"), data.get("max"))
        elif kind == "progress_state" and isinstance(data.get("nodes"), dict):
            for node, state in data["nodes"].items():
                if isinstance(state, dict) and state.get("state") == "running":
                    self._step(job, state.get("display_node_id") or node, state.get("value"), state.get("max"))

    def close(self) -> None:
        self._shown = None
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _start(self, job: tuple[str, Graph], node: str) -> None:
        name, graph = job
        if self._shown == (name, node):
            return
        self.close()
        self._shown = (name, node)
        title = printable(f"{name}: {graph.title(node) if node in graph.nodes else node}")[:MAX_TITLE]
        if self._wanted:
            self._bar = tqdm(desc=title, file=self.stream, unit="step", leave=False, dynamic_ncols=True)
        else:
            print(title, file=self.stream, flush=True)

    def _step(self, job: tuple[str, Graph], node: Any, value: Any, total: Any) -> None:
        if node is None or not (_is_count(value) and _is_count(total)):
            return
        self._start(job, str(node))
        if self._bar is not None:
            self._bar.total, self._bar.n = total, value
            self._bar.refresh()


def _is_count(value: Any) -> bool:
    """A number that a bar can show; a server may send any."""
    return isinstance(value, int | float) and 0 <= value < 1e12
