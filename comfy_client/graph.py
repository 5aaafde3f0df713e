"""Workflows in ComfyUI's API format: read, checked, and given values by node title, id or class."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..safety.untrusted import FileRefused, parse_json, read_regular
from .pictures import LocalPicture
from .refusals import UsageRefused

Nodes = dict[str, dict[str, Any]]
MAX_NAMED = 12
MAX_NODES, MAX_CLASS = 5000, 200  # nodes; characters of a class's name
MAX_COMPARED, MAX_SHOWN = 2000, 120  # names that a wrong one is compared with; characters of each
MAX_GRAPH = 8 << 20  # bytes; the largest of the bundled ones has 20,000

# Spaces are stripped afterwards: a pattern that skips them as well takes hours over a text of nothing else.
_PLACEHOLDER = re.compile(r"\{\{(?P<name>[^:{}]+)(?::(?P<what>.*))?\}\}", re.DOTALL)
_LOADS_A_PICTURE = re.compile(r"Load.*(Image|Mask)", re.IGNORECASE)


@dataclass(frozen=True)
class Target:
    """An input of a node."""

    node: str
    input: str


@dataclass(frozen=True)
class Placeholder:
    """A value that the graph leaves to its user: `"{{PHOTO_1: a portrait of the person}}"`."""

    target: Target
    name: str
    what: str


@dataclass(frozen=True)
class Graph:
    """nodes: as ComfyUI's "Export (API)" writes them; a value may be a LocalPicture until it is uploaded. Never changed
    in place."""

    name: str
    nodes: Nodes

    def title(self, node: str) -> str:
        """What the user calls the node: its title, else its class."""
        meta = self.nodes[node].get("_meta")
        return str((meta.get("title") if isinstance(meta, dict) else "") or self.nodes[node]["class_type"])

    def class_of(self, node: str) -> str:
        return str(self.nodes[node]["class_type"])

    def value(self, target: Target) -> Any:
        return self.nodes[target.node]["inputs"][target.input]

    def spelled(self, target: Target) -> str:
        """The target as --set takes it: by title where that is unique, else by id."""
        title = self.title(target.node)
        return f"{title if self._named(title) == [target.node] else target.node}.{target.input}"

    def find(self, text: str) -> Target:
        """The input that `text` ("Scene.text", "6.text", "KSampler.seed") names. Titles and inputs may hold dots.

        Raises UsageRefused, listing what there is, where the node or the input is unknown or the name means several.
        """
        dots = [at for at, letter in enumerate(text) if letter == "."]
        if not dots:
            raise UsageRefused(f'"{text}" names no input; write it as NODE.INPUT, such as "Scene.text".')
        for at in dots:
            nodes = self._named(text[:at])
            if len(nodes) == 1 and text[at + 1 :] in self.nodes[nodes[0]]["inputs"]:
                return Target(nodes[0], text[at + 1 :])
        for at in reversed(dots):
            nodes = self._named(text[:at])
            if len(nodes) > 1:
                raise UsageRefused(
                    f'"{text[:at]}" is the name of {len(nodes)} nodes of {self.name}; name one by its id: '
                    f"{self._listed(nodes)}."
                )
            if nodes:
                raise self._no_such_input(nodes[0], text[at + 1 :])
        raise self._no_such_node(text[: dots[-1]])

    def with_values(self, values: Mapping[Target, Any]) -> Graph:
        nodes = dict(self.nodes)  # what does not change is shared by all jobs of a list
        for target, value in values.items():
            body = nodes[target.node]
            nodes[target.node] = {**body, "inputs": {**body["inputs"], target.input: value}}
        return Graph(self.name, nodes)

    def takes_picture(self, target: Target) -> bool:
        """Whether the input holds the name of a picture in the server's input folder, as LoadImage's does."""
        return target.input == "image" and bool(_LOADS_A_PICTURE.search(self.class_of(target.node)))

    def placeholders(self) -> list[Placeholder]:
        found = []
        for target, value in self._values():
            match = _PLACEHOLDER.fullmatch(value.strip()) if isinstance(value, str) else None
            if match:
                found.append(Placeholder(target, match["name"].strip(), (match["what"] or "").strip()))
        return found

    def require_filled(self) -> None:
        """Raises UsageRefused, naming each placeholder that nothing fills and the --set that would."""
        unset = self.placeholders()
        if unset:
            shown = unset[:MAX_NAMED]
            told = "; ".join(f"{p.name} ({p.what})" if p.what else p.name for p in shown)
            more = f" and {len(unset) - MAX_NAMED} more" if len(unset) > MAX_NAMED else ""
            options = " ".join(f'--set "{self.spelled(p.target)}=..."' for p in shown)
            raise UsageRefused(f"{self.name} leaves to you: {told}{more}. Give {options}.")

    def pictures(self) -> list[LocalPicture]:
        return [value for _, value in self._values() if isinstance(value, LocalPicture)]

    def to_send(self, uploaded: Mapping[LocalPicture, str]) -> Nodes:
        """The nodes with each picture replaced by its name on the server."""
        names = {t: uploaded[value] for t, value in self._values() if isinstance(value, LocalPicture)}
        return self.with_values(names).nodes

    def fingerprint(self, *, without: frozenset[Target] = frozenset()) -> str:
        """Of all that the results depend on: classes, wires, values, and the bytes (not the names) of local pictures.
        `without`: inputs that are left out."""

        def value(node: str, name: str, held: Any) -> Any:
            if Target(node, name) in without:
                return {"left": "out"}
            return {"sha256": held.sha256} if isinstance(held, LocalPicture) else held

        kept = {
            node: [self.class_of(node), {name: value(node, name, held) for name, held in body["inputs"].items()}]
            for node, body in self.nodes.items()
        }
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]

    def _values(self) -> Iterator[tuple[Target, Any]]:
        for node, body in self.nodes.items():
            for name, value in body["inputs"].items():
                yield Target(node, name), value

    def _named(self, name: str) -> list[str]:
        exact = [node for node in self.nodes if name in (node, self.title(node))]
        if exact:
            return exact
        low = name.strip().casefold()
        by_title = [node for node in self.nodes if low == self.title(node).casefold()]
        return by_title or [node for node in self.nodes if low == self.class_of(node).casefold()]

    def _listed(self, nodes: list[str]) -> str:
        shown = [
            f'{node} "{self.title(node)}"' + (f" ({self.class_of(node)})" * (self.title(node) != self.class_of(node)))
            for node in nodes[:MAX_NAMED]
        ]
        return ", ".join(shown) + (f" and {len(nodes) - MAX_NAMED} more" if len(nodes) > MAX_NAMED else "")

    def _no_such_node(self, name: str) -> UsageRefused:
        names: dict[str, str] = {}
        for node in list(self.nodes)[:MAX_COMPARED]:
            for one in (self.class_of(node), self.title(node)):
                names[one.casefold()[:MAX_SHOWN]] = node
        close = [names[one] for one in get_close_matches(name.casefold()[:MAX_SHOWN], list(names), n=4, cutoff=0.5)]
        ordered = list(dict.fromkeys([*close, *self.nodes]))
        return UsageRefused(f'{self.name} has no node "{name}"; its nodes are {self._listed(ordered)}.')

    def _no_such_input(self, node: str, name: str) -> UsageRefused:
        inputs = self.nodes[node]["inputs"]
        free = [one for one, value in inputs.items() if not is_wire(value)]
        compared = [one for one in free[:MAX_COMPARED] if len(one) <= MAX_SHOWN]
        close = get_close_matches(name[:MAX_SHOWN], compared, n=3, cutoff=0.5)
        ordered = list(dict.fromkeys([*close, *free]))
        told = f"the ones that take a value are {', '.join(ordered)}" if ordered else "all that it has are wired"
        return UsageRefused(f'Node {node} "{self.title(node)}" of {self.name} has no input "{name}"; {told}.')


def is_wire(value: Any) -> bool:
    """Whether an input's value is a link to another node's output: [node id, output number]."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def read_graph(path: Path) -> Graph:
    """Raises UsageRefused for a file that is missing, is no JSON, is no workflow, or is one in the UI's format."""
    try:
        content = parse_json(read_regular(path, MAX_GRAPH).decode("utf-8-sig"))
    except FileRefused as error:
        raise UsageRefused(f"The graph {path} cannot be read ({error}); export it again.") from error
    except ValueError as error:
        raise UsageRefused(f"The graph {path} is no JSON ({error}); export it again.") from error
    if isinstance(content, dict) and isinstance(content.get("nodes"), list) and "links" in content:
        raise UsageRefused(
            f"{path.name} is a workflow in the browser's format. Open it in ComfyUI and choose Workflow > Export (API) "
            "(in older versions: Save (API Format) after enabling dev mode), or take the one in workflows/api/."
        )
    if not isinstance(content, dict) or not content or not all(_is_node(body) for body in content.values()):
        raise UsageRefused(f"{path.name} is no workflow in ComfyUI's API format (nodes with class_type and inputs).")
    if len(content) > MAX_NODES:
        raise UsageRefused(f"{path.name} has {len(content)} nodes, and at most {MAX_NODES} are taken.")
    graph = Graph(path.name, {str(node): body for node, body in content.items()})
    _require_wired(graph)
    return graph


def _is_node(body: Any) -> bool:
    if not isinstance(body, dict) or not isinstance(body.get("inputs"), dict):
        return False
    return isinstance(body.get("class_type"), str) and 0 < len(body["class_type"]) <= MAX_CLASS


def _require_wired(graph: Graph) -> None:
    for node, body in graph.nodes.items():
        for name, value in body["inputs"].items():
            if is_wire(value) and value[0] not in graph.nodes:
                raise UsageRefused(
                    f'Input {name} of node {node} "{graph.title(node)}" is wired to node {value[0]}, which '
                    f"{graph.name} does not have; export the graph again."
                )
