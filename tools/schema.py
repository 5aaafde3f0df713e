"""Writes tests/nodes/schema.json: what a running ComfyUI says of our nodes and of the stock nodes that the graphs use.

`python -m tools.schema http://127.0.0.1:8188`. Only what is the same on every machine is kept: inputs with their types,
defaults and ranges, the options of our own combos, outputs. Lists that depend on a machine's files, or on ComfyUI's
version, are left out or cut down to the entries that the graphs use.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any
from urllib.request import urlopen

SNAPSHOT = Path(__file__).resolve().parent.parent / "tests" / "nodes" / "schema.json"
OURS = (
    "DemoModelLoader",
    "DriftScore",
    "DriftSeedSearch",
    "FacePrep",
    "IdentityEmbed",
    "LoadIdentity",
    "PhasedLoRATrainer",
    "RescueBlend",
    "SaveIdentity",
    "ThreePassRender",
    "TwoPassStylize",
)
STOCK = ("ImageBatch", "ImageInvert", "ImageScale", "LoadImage", "PreviewAny", "PreviewImage", "SaveImage")
# Combos of our own that list what is on the machine, and those that list what ComfyUI has.
FILE_LISTS = {("LoadIdentity", "file"), ("LoadImage", "image")}
KEPT_OF_LONG_LISTS = ("ddim", "dpmpp_2m", "euler", "karras", "normal", "simple")
LONG_LISTS = ("sampler", "scheduler")
WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
KEPT_OPTIONS = ("default", "min", "max", "step", "multiline", "advanced")


def snapshot(object_info: dict[str, Any]) -> dict[str, Any]:
    """node id -> {"ours", "output_node", "inputs": [...], "outputs": [...]}, of OURS and STOCK, by name."""
    return {name: _node(name, object_info[name]) for name in sorted((*OURS, *STOCK))}


def _node(name: str, info: dict[str, Any]) -> dict[str, Any]:
    inputs = [
        _input(name, input_name, info["input"][kind][input_name], required=kind == "required")
        for kind in ("required", "optional")
        for input_name in info["input_order"].get(kind, ())
    ]
    outputs = [
        {"name": output_name, "type": output_type}
        for output_name, output_type in zip(info["output_name"], info["output"], strict=True)
    ]
    return {"ours": name in OURS, "output_node": info["output_node"], "inputs": inputs, "outputs": outputs}


def _input(node: str, name: str, told: list[Any], *, required: bool) -> dict[str, Any]:
    """One input. "widget": the browser shows a field for it. "extra_widget": a second field that follows it, if any."""
    kind = told[0]
    options: dict[str, Any] = told[1] if len(told) > 1 else {}
    found: dict[str, Any] = {"name": name, "type": "COMBO" if isinstance(kind, list) else kind, "required": required}
    found["widget"] = found["type"] in WIDGET_TYPES and not options.get("forceInput", False)
    found |= {key: options[key] for key in KEPT_OPTIONS if key in options}
    if found["type"] == "COMBO":
        listed = kind if isinstance(kind, list) else options.get("options", [])
        if (node, name) in FILE_LISTS:
            found.pop("default", None)
        elif name in LONG_LISTS:
            found["some_options"] = [entry for entry in KEPT_OF_LONG_LISTS if entry in listed]
        else:
            found["options"] = listed
    if found["type"] == "INT" and options.get("control_after_generate", name in ("seed", "noise_seed")):
        found["extra_widget"] = "control_after_generate"
    if options.get("image_upload"):
        found["extra_widget"] = "upload"
    return found


def render(found: dict[str, Any]) -> str:
    """JSON with one line for each input and output, so that a change of one shows as a change of one line."""
    nodes = []
    for name, node in found.items():
        parts = [f'  "{key}": {json.dumps(node[key])}' for key in ("ours", "output_node")]
        for key in ("inputs", "outputs"):
            lines = ",\n".join(f"   {json.dumps(entry)}" for entry in node[key])
            parts.append(f'  "{key}": [\n{lines}\n  ]' if lines else f'  "{key}": []')
        nodes.append(f' "{name}": {{\n' + ",\n".join(parts) + "\n }")
    return "{\n" + ",\n".join(nodes) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("server", help="address of a running ComfyUI with the pack, such as http://127.0.0.1:8188")
    parser.add_argument("--out", type=Path, default=SNAPSHOT)
    args = parser.parse_args()
    with urlopen(args.server.rstrip("/") + "/object_info", timeout=60) as answer:
        found = snapshot(json.load(answer))
    args.out.write_text(render(found), encoding="utf-8")
    print(f"{args.out}: {len(found)} nodes")


if __name__ == "__main__":
    main()
