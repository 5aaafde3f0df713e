"""The bundled graphs against the schema snapshot: they open without a red node, run as they are, and agree with their
API twins. No ComfyUI is needed; tests/host checks that the snapshot is true, and runs them."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from identity_lock.cli import main as identity_lock
from identity_lock.comfy_client.graph import read_graph
from identity_lock.comfy_client.values import split_assignment
from identity_lock.safety.consent import require_consent
from identity_lock.safety.prompt import require_allowed
from tools import workflows
from tools.graph_file import unwrapped

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "workflows"
NAMES = (
    "full_pipeline",
    "train_only",
    "seed_search",
    "three_pass",
    "two_pass_stylize",
    "rescue_any_image",
    "batch_verify",
    "scene_continuity",
)
SCHEMA: dict[str, Any] = json.loads((Path(__file__).parent / "schema.json").read_text(encoding="utf-8"))
OURS = {name for name, node in SCHEMA.items() if node["ours"]}
NOTE = "MarkdownNote"
SEED = 1187891159
# What ComfyUI takes for a number or a text, as Python reads it from JSON. bool is an int to Python, not to a widget.
KINDS: dict[str, tuple[type, ...]] = {"INT": (int,), "FLOAT": (int, float), "STRING": (str,), "BOOLEAN": (bool,)}
PROMPTS = {"prompt", "anchor_prompt", "scene_prompt", "caption", "probe_prompts"}
BRANDS = re.compile(
    r"\b(?:sd ?1\.?5|sd ?xl|sd ?3|flux|pony|juggernaut|dreamshaper|realistic ?vision|stable ?diffusion|midjourney|"
    r"realvis\w*|deliberate|photon|illustrious|kolors|pixart|hunyuan|qwen|wan)\b|ckpt|\.safetensors",
    re.IGNORECASE,
)


def ui(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return found


def api(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8"))
    return found


def real_nodes(graph: dict[str, Any]) -> list[dict[str, Any]]:
    return [node for node in graph["nodes"] if node["type"] != NOTE]


def widget_names(kind: str) -> list[str]:
    """The fields of a node in the browser, in order, with those that the browser adds of itself."""
    names = []
    for entry in SCHEMA[kind]["inputs"]:
        if entry["widget"]:
            names.append(entry["name"])
            names += [entry["extra_widget"]] if "extra_widget" in entry else []
    return names


def widget_values(node: dict[str, Any]) -> dict[str, Any]:
    return dict(zip(widget_names(node["type"]), node["widgets_values"], strict=True))


@pytest.fixture(params=NAMES)
def name(request) -> str:
    return request.param


def test_all_eight_are_there_and_nothing_else():
    assert {path.stem for path in FOLDER.glob("*.json")} == set(NAMES) == set(workflows.GRAPHS)
    assert {path.stem for path in (FOLDER / "api").glob("*.json")} == set(NAMES)


def test_the_generator_writes_these_very_files():
    for path, text in workflows.files().items():
        assert (FOLDER / path).read_bytes() == text.encode(), f"{path}: run python -m tools.workflows"


def test_every_node_of_the_pack_is_in_the_snapshot_and_used():
    assert len(OURS) == 11
    used = {node["type"] for name in NAMES for node in ui(name)["nodes"]}
    assert OURS - used == {"LoadIdentity"}  # it lists files that a fresh machine does not have
    assert set(SCHEMA) - used == {"LoadIdentity"}


# ---- the browser's format


def test_nodes_are_known(name):
    assert {node["type"] for node in real_nodes(ui(name))} <= set(SCHEMA)
    assert ui(name)["version"] == 0.4


def test_sockets_are_those_of_the_schema(name):
    for node in real_nodes(ui(name)):
        spec = SCHEMA[node["type"]]
        sockets = sorted(spec["inputs"], key=lambda entry: entry["widget"])  # widgets' sockets come last
        assert [(s["name"], s["type"]) for s in node["inputs"]] == [(s["name"], s["type"]) for s in sockets]
        assert [(s["name"], s["type"]) for s in node["outputs"]] == [(s["name"], s["type"]) for s in spec["outputs"]]


def test_links_join_sockets_of_one_type_and_are_told_the_same_at_both_ends(name):
    graph = ui(name)
    nodes = {node["id"]: node for node in graph["nodes"]}
    into, out_of = {}, {}
    for link, source, source_slot, target, target_slot, kind in graph["links"]:
        output, socket = nodes[source]["outputs"][source_slot], nodes[target]["inputs"][target_slot]
        assert kind == output["type"]
        assert socket["type"] in (kind, "*"), f"link {link}: {output['name']} into {socket['name']}"
        into[target, socket["name"]] = link
        out_of.setdefault((source, output["name"]), []).append(link)
    for node in graph["nodes"]:
        for socket in node["inputs"]:
            assert socket["link"] == into.get((node["id"], socket["name"]))
        for output in node["outputs"]:
            assert output["links"] == out_of.get((node["id"], output["name"]))
    assert len(into) == len(graph["links"])
    assert graph["last_link_id"] == max(link[0] for link in graph["links"])
    assert graph["last_node_id"] == max(nodes)


def test_every_required_input_is_wired_or_has_a_value_that_comfyui_takes(name):
    for node in real_nodes(ui(name)):
        linked = {socket["name"] for socket in node["inputs"] if socket["link"] is not None}
        held = widget_values(node)
        for entry in SCHEMA[node["type"]]["inputs"]:
            where = f"{node['title']}.{entry['name']}"
            if not entry["widget"]:
                assert not entry["required"] or entry["name"] in linked, f"{where} is not wired"
            elif entry["name"] not in linked:
                check_value(held[entry["name"]], entry, where)


def check_value(value: Any, entry: dict[str, Any], where: str) -> None:
    if entry["type"] == "COMBO":
        assert isinstance(value, str) and value, where
        for listed in ("options", "some_options"):
            assert listed not in entry or value in entry[listed], f"{where}: {value}"
        return
    assert type(value) in KINDS[entry["type"]], f"{where}: {value!r}"
    if entry["type"] in ("INT", "FLOAT"):
        assert entry.get("min", value) <= value <= entry.get("max", value), f"{where}: {value}"


def test_seeds_stay_as_they_are_between_runs(name):
    for node in real_nodes(ui(name)):
        held = widget_values(node)
        assert held.get("control_after_generate", "fixed") == "fixed"
        assert held.get("upload", "image") == "image"


def test_a_graph_reads_from_left_to_right(name):
    """Reroute points go with their link: from a link's source through its points to its target x only grows."""
    graph = ui(name)
    nodes = {node["id"]: node for node in graph["nodes"]}
    points = {point["id"]: point for point in graph["extra"].get("reroutes", [])}
    last = {end["id"]: end["parentId"] for end in graph["extra"].get("linkExtensions", [])}
    for link, source, _, target, _, _ in graph["links"]:
        way = [nodes[target]["pos"][0]]
        point = last.get(link)
        while point is not None:
            assert link in points[point]["linkIds"]
            way.append(points[point]["pos"][0])
            point = points[point].get("parentId")
        way.append(nodes[source]["pos"][0] + nodes[source]["size"][0])
        assert way == sorted(way, reverse=True), f"link {link} of {name}"
    assert set(last) == {link for point in points.values() for link in point["linkIds"]}


def test_no_wire_runs_behind_a_node(name):
    """A link without reroute points joins neighbouring columns."""
    graph = ui(name)
    rerouted = {end["id"] for end in graph["extra"].get("linkExtensions", [])}
    nodes = {node["id"]: node for node in graph["nodes"]}
    for link, source, _, target, _, _ in graph["links"]:
        left, right = nodes[source]["pos"][0] + nodes[source]["size"][0], nodes[target]["pos"][0]
        between = [n["title"] for n in graph["nodes"] if left < n["pos"][0] < right]
        assert link in rerouted or not between, f"link {link} passes {between}"


def test_nodes_and_groups_do_not_overlap(name):
    graph = ui(name)
    boxes = {n["title"]: (n["pos"][0], n["pos"][1] - 30, n["size"][0], n["size"][1] + 30) for n in graph["nodes"]}
    groups = {group["title"]: tuple(group["bounding"]) for group in graph["groups"]}
    for found in (boxes, groups):
        listed = list(found.items())
        clashes = [(a, b) for i, (a, one) in enumerate(listed) for b, other in listed[:i] if overlap(one, other)]
        assert clashes == []
    homeless = [title for title, box in boxes.items() if not any(inside(box, group) for group in groups.values())]
    assert set(homeless) == {node["title"] for node in graph["nodes"] if node["type"] == NOTE}
    for point in graph["extra"].get("reroutes", []):
        assert not any(inside((*point["pos"], 0, 0), box) for box in (*boxes.values(), *groups.values()))


def overlap(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return all(one[axis] < other[axis] + other[axis + 2] and other[axis] < one[axis] + one[axis + 2] for axis in (0, 1))


def inside(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return all(
        other[axis] <= one[axis] and one[axis] + one[axis + 2] <= other[axis] + other[axis + 2] for axis in (0, 1)
    )


def test_notes_say_what_to_know(name):
    notes = {node["title"]: node["widgets_values"][0] for node in ui(name)["nodes"] if node["type"] == NOTE}
    assert {"About this graph", "Consent", "Where results land"} <= set(notes)
    assert "Change first" in notes["About this graph"] and "agreed" in notes["Consent"]
    assert "output/identity_lock" in notes["Where results land"]
    models = [node for node in ui(name)["nodes"] if node["type"] == "DemoModelLoader"]
    if models:
        told = notes["Your own checkpoint"]
        assert all(word in told for word in ("Load Checkpoint", "MODEL, CLIP and VAE", "*paper*", "resolution *0*"))
    if any(node["type"] == "DriftSeedSearch" for node in ui(name)["nodes"]):
        assert all(word in notes["Your own checkpoint"] for word in ("*24*", "*5.8*", "*dpmpp_2m*", "*karras*"))


def test_notes_name_nodes_that_the_graph_has(name):
    """**Bold** words in a note are titles of nodes, apart from headings and the stock loader that is spoken of."""
    graph = ui(name)
    known = {node["title"] for node in graph["nodes"]} | {group["title"] for group in graph["groups"]}
    for node in graph["nodes"]:
        if node["type"] == NOTE:
            bold = set(re.findall(r"\*\*(.+?)\*\*", node["widgets_values"][0])) - {"Change first", "Load Checkpoint"}
            assert bold <= known


def test_a_wrapped_note_becomes_one_line_a_paragraph():
    text = """
        ## Title

        One
        paragraph.
        - an item
          that goes on
        1. first"""
    assert unwrapped(text) == "## Title\n\nOne paragraph.\n- an item that goes on\n1. first"


def test_the_thumbnail_is_there_and_small(name):
    path = FOLDER / f"{name}.jpg"
    assert path.stat().st_size <= 61_440
    with Image.open(path) as picture:
        assert picture.format == "JPEG" and min(picture.size) >= 200


# ---- what stands in the graphs


def test_graphs_run_on_a_machine_without_a_checkpoint(name):
    kinds = [node["type"] for node in ui(name)["nodes"]]
    assert not [kind for kind in kinds if "Checkpoint" in kind or "UNET" in kind]
    photos = [widget_values(node)["image"] for node in ui(name)["nodes"] if node["type"] == "LoadImage"]
    assert photos == ["identity_lock_sample_1.png", "identity_lock_sample_2.png"]
    assert any(SCHEMA[kind]["output_node"] for kind in kinds if kind != NOTE)


def test_they_start_from_the_papers_seed(name):
    for node in real_nodes(ui(name)):
        held = widget_values(node)
        assert {held[key] for key in ("seed", "first_seed") if key in held} <= {SEED}


def test_the_searched_seed_is_wired_into_every_render(name):
    graph = ui(name)
    searches = {node["id"] for node in graph["nodes"] if node["type"] == "DriftSeedSearch"}
    for node in graph["nodes"]:
        if node["type"] in ("ThreePassRender", "TwoPassStylize"):
            (seed,) = [socket for socket in node["inputs"] if socket["name"] == "seed"]
            (link,) = [link for link in graph["links"] if link[0] == seed["link"]]
            assert link[1] in searches


def test_one_training_and_one_search_serve_all_graphs():
    """Whatever feeds the trainer or the search is the same in every graph, so that each finds the other's work done."""

    def upstream(graph: dict[str, Any], node: str) -> dict[str, Any]:
        body = graph[node]
        wired = {k: [upstream(graph, v[0]), v[1]] for k, v in body["inputs"].items() if isinstance(v, list)}
        return {"class": body["class_type"], **body["inputs"], **wired}

    for kind, expected in (("PhasedLoRATrainer", 6), ("DriftSeedSearch", 5)):
        found = [
            upstream(api(name), node)
            for name in NAMES
            for node, body in api(name).items()
            if body["class_type"] == kind
        ]
        assert len(found) == expected
        assert all(one == found[0] for one in found)


def test_the_scenes_share_seed_anchor_and_all_but_the_prompt():
    renders = [body["inputs"] for body in api("scene_continuity").values() if body["class_type"] == "ThreePassRender"]
    assert len(renders) == 4
    first, *others = renders
    assert "anchor" not in first
    (shared,) = {tuple(render["anchor"]) for render in others}
    assert api("scene_continuity")[shared[0]]["_meta"]["title"] == "Indoor" and shared[1] == 1
    differ = {"anchor", "scene_prompt", "file_prefix"}
    for render in others:
        assert {k: v for k, v in render.items() if k not in differ} == {
            k: v for k, v in first.items() if k not in differ
        }
    told = [render["scene_prompt"] for render in renders]
    for prompt, words in zip(told, ("indoor room", "golden hour field", "rooftop at dusk", "spa garden"), strict=True):
        assert words in prompt


def test_prompts_pass_the_guard_and_stay_in_the_demo_bases_vocabulary(name):
    base = ROOT / "assets" / "demo_base.safetensors"
    from safetensors import safe_open

    with safe_open(str(base), framework="numpy") as file:
        vocabulary = set(json.loads(file.metadata()["vocabulary"]))
    for node in api(name).values():
        for key, value in node["inputs"].items():
            if key in PROMPTS and isinstance(value, str) and value:
                require_allowed(value)
                assert set(re.findall(r"[a-z-]+", value.lower())) <= vocabulary, value


def test_captions_are_one_line_a_photo():
    (caption,) = {
        body["inputs"]["caption"]
        for name in NAMES
        for body in api(name).values()
        if body["class_type"] == "PhasedLoRATrainer"
    }
    assert len(caption.splitlines()) == 2 and all("sks person" in line for line in caption.splitlines())


def test_the_sample_persons_consent_is_a_statement(name):
    (statement,) = [widget_values(n)["consent"] for n in ui(name)["nodes"] if n["type"] == "IdentityEmbed"]
    require_consent(statement)


@pytest.mark.parametrize("folder", ["", "api"])
def test_no_machine_and_no_brand_is_named(name, folder):
    text = (FOLDER / folder / f"{name}.json").read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.}/])/(?:root|home|Users|tmp|work|mnt)\b|[A-Za-z]:\\\\|https?://", text)
    allowed = text.replace("demo_person.safetensors", "")
    assert not BRANDS.search(allowed), BRANDS.search(allowed)


# ---- the API's format


def test_both_formats_tell_the_same_graph(name):
    graph, flat = ui(name), api(name)
    links = {link[0]: [str(link[1]), link[2]] for link in graph["links"]}
    assert set(flat) == {str(node["id"]) for node in real_nodes(graph)}
    for node in real_nodes(graph):
        body = flat[str(node["id"])]
        assert body["class_type"] == node["type"] and body["_meta"] == {"title": node["title"]}
        told = {k: v for k, v in widget_values(node).items() if k not in ("upload", "control_after_generate")}
        told |= {s["name"]: links[s["link"]] for s in node["inputs"] if s["link"] is not None}
        left_open = {key for key, value in body["inputs"].items() if isinstance(value, str) and value.startswith("{{")}
        assert {k: v for k, v in body["inputs"].items() if k not in left_open} == {
            k: v for k, v in told.items() if k not in left_open
        }
        assert left_open <= set(told)


def test_titles_are_unique(name):
    titles = [body["_meta"]["title"] for body in api(name).values()]
    assert len(set(titles)) == len(titles)
    assert not any("." in title for title in titles)  # --set NODE.INPUT=VALUE


def test_placeholders_are_the_photos_and_the_consent(name):
    graph = read_graph(FOLDER / "api" / f"{name}.json")
    found = {(p.name, graph.spelled(p.target)) for p in graph.placeholders()}
    assert found == {
        ("photo_1", "Photo 1.image"),
        ("photo_2", "Photo 2.image"),
        ("consent", "Identity.consent"),
    }
    photos = [p for p in graph.placeholders() if p.name.startswith("photo")]
    assert all(graph.takes_picture(p.target) and p.what.endswith(", a file") for p in photos)


def test_an_unfilled_graph_is_refused_by_name(name, capsys):
    assert identity_lock(["queue", str(FOLDER / "api" / f"{name}.json")]) != 0
    told = capsys.readouterr().err
    assert all(word in told for word in ("photo_1", "photo_2", "consent"))


def test_the_readme_names_inputs_that_the_graphs_have(name):
    readme = (FOLDER / "api" / "README.md").read_text(encoding="utf-8")
    (section,) = re.findall(rf"^## {name}\n(.*?)(?=^## |\Z)", readme, re.MULTILINE | re.DOTALL)
    graph = read_graph(FOLDER / "api" / f"{name}.json")
    (line,) = re.findall(r"^identity-lock queue .*$", section, re.MULTILINE)
    words = shlex.split(line)
    assert words[2] == f"workflows/api/{name}.json"
    options = [words[i + 1] for i, word in enumerate(words) if word in ("--set", "--each")]
    given = {split_assignment(graph, option, "--set")[0] for option in options}
    assert {placeholder.target for placeholder in graph.placeholders()} <= given
    for named in re.findall(r"`([A-Z][\w ]*\.\w+)`", section):
        graph.find(named)
