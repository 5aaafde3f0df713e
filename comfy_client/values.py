"""`--set NODE.INPUT=VALUE`: which input is meant, and the value in the type that the graph has there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from ..safety.untrusted import parse_json
from .graph import Graph, Target, is_wire
from .pictures import picture_or_name
from .refusals import UsageRefused

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def set_values(graph: Graph, assignments: Sequence[str]) -> tuple[Graph, frozenset[Target]]:
    """The graph with every `NODE.INPUT=VALUE` set, and the inputs that were. Raises UsageRefused."""
    values: dict[Target, Any] = {}
    for text in assignments:
        target, value = split_assignment(graph, text, "--set")
        if target in values:
            raise UsageRefused(f"--set gives {graph.spelled(target)} twice; give it once, or several with --each.")
        values[target] = typed(graph, target, value, "--set")
    return graph.with_values(values), frozenset(values)


def split_assignment(graph: Graph, text: str, option: str) -> tuple[Target, str]:
    """("Scene.text=a = b") -> (the input, "a = b"). A title may hold an equals sign: the first split that names an
    input counts. Raises UsageRefused, also for an input that is wired to another node."""
    splits = [at for at, letter in enumerate(text) if letter == "="]
    if not splits:
        raise UsageRefused(f'{option} "{text}" has no equals sign; write it as NODE.INPUT=VALUE.')
    refused: UsageRefused | None = None
    for at in splits:
        try:
            target = graph.find(text[:at].strip())
        except UsageRefused as error:
            refused = refused or error
            continue
        value = graph.value(target)
        if is_wire(value):
            raise UsageRefused(
                f'{option}: {graph.spelled(target)} is wired to node {value[0]} "{graph.title(value[0])}", which gives '
                "it its value; set an input there."
            )
        return target, text[at + 1 :]
    assert refused is not None
    raise refused


def typed(graph: Graph, target: Target, text: str, option: str) -> Any:
    """`text` in the type of the value that the graph holds there: int, float, bool, text, picture; JSON for others."""
    where, held = f"{option} {graph.spelled(target)}", graph.value(target)
    if graph.takes_picture(target):
        return picture_or_name(text, where)
    if isinstance(held, bool):
        if text.strip().lower() in (*_TRUE, *_FALSE):
            return text.strip().lower() in _TRUE
        raise UsageRefused(f'{where}: "{text}" is neither true nor false.')
    if isinstance(held, int | float):
        return _number(text, where, whole=isinstance(held, int))
    if isinstance(held, str):
        return text
    try:
        return parse_json(text)
    except ValueError as error:
        raise UsageRefused(f'{where}: "{text}" is no JSON, which this input takes ({error}).') from error


def _number(text: str, where: str, *, whole: bool) -> int | float:
    """whole: an int where the text is one. A browser writes 1.0 as 1, so that a whole number in the graph does not say
    that the node wants one; `doubtful` finds those."""
    if whole:
        with suppress(ValueError):
            return int(text)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageRefused(f'{where}: "{text}" is no number.')
    return value


def doubtful(before: Graph, after: Graph, targets: Iterable[Target]) -> list[Target]:
    """Inputs where a fraction took the place of a whole number: the server knows whether their nodes take it, and
    would silently cut it off where they do not."""
    return [
        target
        for target in targets
        if isinstance(after.value(target), float) and isinstance(before.value(target), int)
    ]
