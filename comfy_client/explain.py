"""ComfyUI's answers in words: what its validation refused, and in which node a run failed."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from difflib import get_close_matches
from typing import Any

from ..errors import printable
from .graph import Graph, Target

Options = Callable[[str, str], Awaitable[list[str]]]
MAX_TOLD = 6
MAX_ERRORS = 100
MAX_KNOWN, MAX_SHOWN = 5000, 120  # entries of a list; characters of a value
MAX_SAID = 1000  # characters of what a server says
OUR_NODES = frozenset(
    {
        "FacePrep", "IdentityEmbed", "PhasedLoRATrainer", "DriftSeedSearch", "ThreePassRender", "RescueBlend",
        "TwoPassStylize", "SaveIdentity", "LoadIdentity", "DriftScore", "DemoModelLoader",
    }
)  # fmt: skip


async def explain_rejection(graph: Graph, body: dict[str, Any], options: Options) -> str:
    """The body of a refused /prompt as sentences. options(class, input): what a list input may hold."""
    told: list[str] = []
    node_errors = body.get("node_errors")
    for node, found in (node_errors if isinstance(node_errors, dict) else {}).items():
        errors = found.get("errors") if isinstance(found, dict) else None
        for error in errors if isinstance(errors, list) else ():
            if isinstance(error, dict) and len(told) < MAX_ERRORS:
                told.append(await _explain_input(graph, str(node), error, options))
    if told:
        more = f" ({len(told) - MAX_TOLD} more of this kind.)" if len(told) > MAX_TOLD else ""
        return " ".join(dict.fromkeys(told[:MAX_TOLD])) + more
    return _explain_whole(graph, body.get("error"))


def _explain_whole(graph: Graph, error: Any) -> str:
    if not isinstance(error, dict):
        return f"The server refused the graph: {one_line(str(error))}"
    kind, extra = error.get("type"), _mapping(error.get("extra_info"))
    said = one_line(f"{error.get('message', '')} {error.get('details', '')}")
    node = str(extra.get("node_id") or "".join(re.findall(r"#(\w+)", str(error.get("details")))[:1]))
    if kind in ("missing_node_type", "invalid_prompt") and node in graph.nodes:
        name = graph.class_of(node)
        remedy = (
            "link the Identity Lock pack into its custom_nodes folder and start it again"
            if name in OUR_NODES
            else "install the node pack that brings it, and start ComfyUI again"
        )
        called = "" if graph.title(node) == name else f' (node {node}, "{graph.title(node)}")'
        return f"The server has no node type {name}{called}; {remedy}."
    if kind == "prompt_no_outputs":
        return f"{graph.name} has no node that keeps a result; add a SaveImage and export it again."
    return f"The server refused the graph: {said}"


async def _explain_input(graph: Graph, node: str, error: dict[str, Any], options: Options) -> str:
    kind, extra = error.get("type"), _mapping(error.get("extra_info"))
    details = one_line(str(error.get("details", "")))
    name, value = one_line(str(extra.get("input_name") or details)), _shown(extra.get("received_value"))
    title = one_line(graph.title(node)) if node in graph.nodes else "?"
    where = f'Node {node} "{title}", input {name}'
    if kind == "value_not_in_list":
        known = _listed_options(extra.get("input_config"))
        if not known and node in graph.nodes:
            known = await options(graph.class_of(node), name)
        return f'{where}: "{value}" is not on the server\'s list; {_nearest(value, known)}.'
    if kind == "required_input_missing":
        return f"{where} is missing: the node wants it, and the graph neither wires nor sets it."
    if kind in ("value_smaller_than_min", "value_bigger_than_max"):
        which, word = ("min", "below") if kind == "value_smaller_than_min" else ("max", "above")
        return f"{where}: {value} is {word} the {which}imum of {_shown(_limit(extra.get('input_config'), which))}."
    if kind == "invalid_input_type":
        return f'{where}: "{value}" is of the wrong type ({_type_of(extra.get("input_config"))} is wanted).'
    if kind == "return_type_mismatch":
        wanted = _type_of(extra.get("input_config"))
        return f"{where} takes {wanted} and is wired to an output that gives {_shown(extra.get('received_type'))}."
    if kind == "custom_validation_failed" and node in graph.nodes and graph.takes_picture(Target(node, name)):
        held = graph.nodes[node]["inputs"].get(name)
        return f'{where}: "{_shown(held)}" is neither a file here nor a picture in the server\'s input folder.'
    if kind == "custom_validation_failed":
        said = details.removeprefix(name).removeprefix(" - ") or "its node refuses this value"
        return f"{where}: {said.rstrip('.')}."
    said = one_line(f"{error.get('message', kind)}: {details}")
    return f'Node {node} "{title}": {said.rstrip(".")}.'


def _listed_options(config: Any) -> list[str]:
    """Of an input's configuration: [options, {...}] in the older form, ["COMBO", {"options": ...}] in the newer."""
    if not isinstance(config, list) or not config:
        return []
    held = config[0] if isinstance(config[0], list) else _settings(config).get("options")
    return [str(one) for one in held] if isinstance(held, list) else []


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _settings(config: Any) -> dict[str, Any]:
    more = config[1] if isinstance(config, list) and len(config) > 1 else None
    return more if isinstance(more, dict) else {}


def _limit(config: Any, which: str) -> Any:
    return _settings(config).get(which, "the node")


def _type_of(config: Any) -> str:
    kind = config[0] if isinstance(config, list) and config else "another type"
    return "one of a list" if isinstance(kind, list) else _shown(kind)


def _shown(value: Any) -> str:
    """A value of any kind, short enough for a message and for comparing it with others."""
    return one_line(str(value))[:MAX_SHOWN]


def _nearest(value: str, known: list[str]) -> str:
    known = [_shown(one) for one in known[:MAX_KNOWN]]
    if not known:
        return "the list is empty, so its files are missing on the server"
    close = get_close_matches(value, known, n=3, cutoff=0.4)
    if close:
        return f"nearest: {', '.join(close)}"
    return f"it has {', '.join(known[:MAX_TOLD])}" + (f" and {len(known) - MAX_TOLD} more" * (len(known) > MAX_TOLD))


def explain_failure(graph: Graph, messages: list[Any]) -> str:
    """Why a run has no result: the failing node and its message, from the history's status messages."""
    for entry in reversed(messages):
        try:
            kind, data = str(entry[0]), dict(entry[1])
        except (LookupError, TypeError, ValueError):
            continue
        node = _shown(data.get("node_id", "?"))
        title = _shown(graph.title(node) if node in graph.nodes else data.get("node_type", "?"))
        if kind == "execution_interrupted":
            return f'Interrupted on the server while node {node} "{title}" ran.'
        if kind == "execution_error":
            said = one_line(str(data.get("exception_message") or ""))
            said = said or f"it raised {_shown(data.get('exception_type'))}"
            return f'Node {node} "{title}" failed: {said}'
    return "The server says that it failed, and not why; its console does."


def one_line(text: str) -> str:
    """For one message on a terminal: what a server says may be long, and may hold commands for the terminal."""
    return printable(" ".join(text[:MAX_SAID].split()))
