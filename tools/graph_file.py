"""One description of a graph, written in ComfyUI's two formats: as the browser saves it (UI), as its HTTP API takes it.

The order of inputs, widgets and outputs comes from the schema snapshot (tools/schema.py). The layout is one of columns:
links run from left to right, and a link that skips a column runs along a lane above the nodes, held by reroute points.
"""

from __future__ import annotations

import inspect
import json
import re
import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

TITLE = 30  # pixels: the height of a node's title bar, which is drawn above its position
GAP = 40  # between two nodes of a column
PAD = 20  # from a node to the border of its group
GROUP_TITLE = 46
GUTTER = 90  # between two columns, without reroute points
POINT = 16  # between neighbouring reroute points
LANE = 26  # between neighbouring lanes
SCREEN = (1800, 900)  # what the first view of a graph should fit into
NOTE = "MarkdownNote"
NOTE_COLOUR = {"color": "#432", "bgcolor": "#653"}
EXTRA_WIDGET = {"control_after_generate": "fixed", "upload": "image"}

Schema = dict[str, Any]


@dataclass(frozen=True)
class Output:
    """One output socket of a node, named as in the schema."""

    node: Node
    name: str


@dataclass(eq=False)
class Node:
    """size, pos: (width, height) and (x, y) in pixels of the canvas. values and links: by the input's name."""

    id: int
    type: str
    title: str
    spec: Schema
    values: dict[str, Any]
    links: dict[str, Output]
    size: tuple[int, int]
    pos: tuple[int, int] = (0, 0)

    def __getitem__(self, output: str) -> Output:
        if output not in self.outputs:
            raise KeyError(f"{self.type} has no output {output}: {self.outputs}")
        return Output(self, output)

    @property
    def outputs(self) -> list[str]:
        return [entry["name"] for entry in self.spec["outputs"]]

    @property
    def inputs(self) -> list[Schema]:
        """In the order of the browser's sockets: plain ones first, then those that belong to widgets."""
        return sorted(self.spec["inputs"], key=lambda entry: entry["widget"])

    @property
    def widgets(self) -> list[Schema]:
        return [entry for entry in self.spec["inputs"] if entry["widget"]]

    def value(self, entry: Schema) -> Any:
        """What the widget holds: the value given, else the default, else a combo's first option."""
        if entry["name"] in self.values:
            return self.values[entry["name"]]
        return entry["default"] if "default" in entry else entry["options"][0]


@dataclass(frozen=True)
class Link:
    id: int
    source: Output
    target: Node
    slot: int  # index into target.inputs
    type: str

    @property
    def source_slot(self) -> int:
        return self.source.node.outputs.index(self.source.name)


@dataclass
class Graph:
    """schema: the snapshot. placeholders: (node title, input) -> what stands there in the API graph instead."""

    name: str
    schema: Schema
    sizes: dict[str, tuple[int, int]]
    nodes: list[Node] = field(default_factory=list)
    groups: dict[str, list[Node]] = field(default_factory=dict)
    columns: Sequence[Sequence[Node]] = ()
    placeholders: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, kind: str, title: str, box: tuple[int, int] | None = None, /, **inputs: Any) -> Node:
        """box: width and height on the canvas. Inputs that are an Output become links, all others values of widgets."""
        spec = self.schema[kind]
        unknown = set(inputs) - {entry["name"] for entry in spec["inputs"]}
        if unknown:
            raise KeyError(f"{kind} has no input {', '.join(sorted(unknown))}")
        links = {name: given for name, given in inputs.items() if isinstance(given, Output)}
        values = {name: given for name, given in inputs.items() if name not in links}
        node = Node(len(self.nodes) + 1, kind, title, spec, values, links, box or self.sizes[kind])
        self.nodes.append(node)
        return node

    def note(self, title: str, text: str, size: tuple[int, int]) -> Node:
        """A note in Markdown, with its lines wrapped or not: seen in the browser, absent from the API graph."""
        spec = {"inputs": [{"name": "text", "type": "STRING", "widget": True, "required": True}], "outputs": []}
        node = Node(len(self.nodes) + 1, NOTE, title, spec, {"text": unwrapped(text)}, {}, size)
        self.nodes.append(node)
        return node

    def place(self, *columns: Sequence[Node]) -> None:
        """Columns from left to right, each from top to bottom. Groups have to be known before."""
        self.columns = columns
        group_of = {node: title for title, nodes in self.groups.items() for node in nodes}
        crowd = self._points_in_gutters()
        x = 0
        for index, column in enumerate(columns):
            x += GUTTER + POINT * crowd[index] if index else 0
            y, above = 0, None
            for node in column:
                if above is not None:
                    apart = group_of.get(node) != group_of.get(above)
                    y += TITLE + GAP + (PAD + GROUP_TITLE if apart else 0)
                node.pos = (x, y)
                y, above = y + node.size[1], node
            x += max(node.size[0] for node in column)

    # ---- what follows from the description

    @property
    def links(self) -> list[Link]:
        found: list[Link] = []
        for node in self.nodes:
            for slot, entry in enumerate(node.inputs):
                source = node.links.get(entry["name"])
                if source is not None:
                    kind = source.node.spec["outputs"][source.node.outputs.index(source.name)]["type"]
                    found.append(Link(len(found) + 1, source, node, slot, kind))
        return found

    def _column(self, node: Node) -> int:
        return next(index for index, column in enumerate(self.columns) if node in column)

    def _lanes(self) -> dict[tuple[int, str], list[Link]]:
        """Links that skip a column, by (source node's id, output): those of one output share a lane."""
        lanes: dict[tuple[int, str], list[Link]] = defaultdict(list)
        for link in self.links:
            if self._column(link.target) > self._column(link.source.node) + 1:
                lanes[link.source.node.id, link.source.name].append(link)
        return dict(lanes)

    def _points_in_gutters(self) -> dict[int, int]:
        """How many reroute points stand before each column."""
        crowd: dict[int, int] = defaultdict(int)
        for links in self._lanes().values():
            crowd[self._column(links[0].source.node) + 1] += 1
            for column in {self._column(link.target) for link in links}:
                crowd[column] += 1
        return crowd

    def _reroutes(self) -> tuple[list[Schema], list[Schema]]:
        """(reroute points, the last point of each link that has one), as the browser saves them under "extra"."""
        points: list[Schema] = []
        last_point: dict[int, int] = {}
        taken: dict[int, int] = defaultdict(int)
        top = -(TITLE + PAD + GROUP_TITLE)
        for lane, links in enumerate(self._lanes().values()):
            y = top - LANE * (lane + 1)
            columns = sorted({self._column(link.target) for link in links})
            parent = None
            for column in [self._column(links[0].source.node) + 1, *columns]:
                left = min(node.pos[0] for node in self.columns[column])
                x = left - PAD - 25 - POINT * taken[column]
                taken[column] += 1
                onward = [link for link in links if self._column(link.target) >= column]
                point: Schema = {"id": len(points) + 1} | ({} if parent is None else {"parentId": parent})
                points.append(point | {"pos": [x, y], "linkIds": [link.id for link in onward]})
                parent = point["id"]
                last_point |= {link.id: parent for link in onward}
        return points, [{"id": link, "parentId": point} for link, point in sorted(last_point.items())]

    # ---- the two formats

    def ui(self) -> Schema:
        links = self.links
        reroutes, ends = self._reroutes()
        extra: Schema = {"ds": self._first_view()}
        if reroutes:
            extra |= {"reroutes": reroutes, "linkExtensions": ends}
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"identity_lock/workflows/{self.name}")),
            "revision": 0,
            "last_node_id": len(self.nodes),
            "last_link_id": len(links),
            "nodes": [self._ui_node(node, order, links) for order, node in enumerate(self.nodes)],
            "links": [
                [link.id, link.source.node.id, link.source_slot, link.target.id, link.slot, link.type]
                for link in links
            ],
            "groups": [
                {"id": number, "title": title, "bounding": list(self._bounding(nodes)), "color": "#3f789e",
                 "font_size": 24, "flags": {}}
                for number, (title, nodes) in enumerate(self.groups.items(), start=1)
            ],
            "config": {},
            "extra": extra,
            "version": 0.4,
        }  # fmt: skip

    def _ui_node(self, node: Node, order: int, links: list[Link]) -> Schema:
        into = {(link.target, link.slot): link.id for link in links}
        inputs = []
        for slot, entry in enumerate(node.inputs if node.type != NOTE else ()):
            socket: Schema = {"name": entry["name"], "type": entry["type"]}
            if entry["widget"]:
                socket["widget"] = {"name": entry["name"]}
            elif not entry["required"]:
                socket["shape"] = 7  # the browser's mark of an optional socket
            inputs.append(socket | {"link": into.get((node, slot))})
        outputs = [
            {"name": entry["name"], "type": entry["type"],
             "links": [k.id for k in links if k.source.node is node and k.source.name == entry["name"]] or None}
            for entry in node.spec["outputs"]
        ]  # fmt: skip
        widgets = []
        for entry in node.widgets:
            widgets.append(node.value(entry))
            if "extra_widget" in entry:
                widgets.append(EXTRA_WIDGET[entry["extra_widget"]])
        pack = "identity_lock" if node.spec.get("ours") else "comfy-core"
        properties = {} if node.type == NOTE else {"cnr_id": pack, "Node name for S&R": node.type}
        return {
            "id": node.id,
            "type": node.type,
            "pos": list(node.pos),
            "size": list(node.size),
            "flags": {},
            "order": order,
            "mode": 0,
            "inputs": inputs,
            "outputs": outputs,
            "title": node.title,
            "properties": properties,
            "widgets_values": widgets,
        } | (NOTE_COLOUR if node.type == NOTE else {})

    def _bounding(self, nodes: list[Node]) -> tuple[int, int, int, int]:
        left, top = min(n.pos[0] for n in nodes) - PAD, min(n.pos[1] for n in nodes) - TITLE - GROUP_TITLE
        right, bottom = (max(n.pos[axis] + n.size[axis] for n in nodes) + PAD for axis in (0, 1))
        return left, top, right - left, bottom - top

    def _first_view(self) -> Schema:
        right, bottom = (max(n.pos[axis] + n.size[axis] for n in self.nodes) + 2 * PAD for axis in (0, 1))
        top = -(TITLE + PAD + GROUP_TITLE + LANE * (len(self._lanes()) + 2))
        left = -5 * PAD  # room for the browser's own bar
        scale = round(min(SCREEN[0] / (right - left), SCREEN[1] / (bottom - top), 1.0), 2)
        return {"scale": scale, "offset": [-left, -top]}

    def api(self) -> Schema:
        found = {}
        for node in self.nodes:
            if node.type == NOTE:
                continue
            inputs: Schema = {}
            for entry in node.spec["inputs"]:
                name = entry["name"]
                if name in node.links:
                    source = node.links[name]
                    inputs[name] = [str(source.node.id), source.node.outputs.index(source.name)]
                elif entry["widget"]:
                    inputs[name] = self.placeholders.get((node.title, name), node.value(entry))
            found[str(node.id)] = {"inputs": inputs, "class_type": node.type, "_meta": {"title": node.title}}
        return found


def unwrapped(text: str) -> str:
    """Markdown with one line for each paragraph and list item, however it was indented and wrapped in a source file."""
    return re.sub(r"(?<=[^\n])\n[ ]*(?!\n|[ ]|- |\d+\. )", " ", inspect.cleandoc(text))


def ui_text(graph: Schema) -> str:
    """JSON with a line for each node, link, group and reroute point: short, and one change is one line."""
    lines = []
    for key, value in graph.items():
        if key in ("nodes", "links", "groups") and value:
            entries = ",\n".join("  " + json.dumps(entry, ensure_ascii=False) for entry in value)
            lines.append(f' "{key}": [\n{entries}\n ]')
        else:
            lines.append(f' "{key}": {json.dumps(value, ensure_ascii=False)}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def api_text(graph: Schema) -> str:
    return json.dumps(graph, indent=1, ensure_ascii=False) + "\n"
