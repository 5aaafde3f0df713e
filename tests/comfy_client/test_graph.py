"""Graphs: what is refused and in which words, and which input a name means."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from identity_lock.comfy_client.fan_out import fan_out
from identity_lock.comfy_client.graph import Graph, Target, read_graph
from identity_lock.comfy_client.refusals import UsageRefused
from identity_lock.comfy_client.values import set_values
from identity_lock.tests.comfy_client.conftest import COLOURS, PHOTOS

API_GRAPHS = Path(__file__).resolve().parents[2] / "workflows" / "api"
MANY = {
    "3": {
        "class_type": "KSampler",
        "inputs": {"seed": 1, "cfg": 5.8, "add_noise": True, "sampler_name": "ddim", "positive": ["6", 0]},
        "_meta": {"title": "KSampler"},
    },
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a garden"}, "_meta": {"title": "Scene v1.5 = good"}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": ""}, "_meta": {"title": "Negative"}},
    "9:1": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "a.b": "x", "free": None}},
}


@pytest.fixture
def many() -> Graph:
    return Graph("many.json", copy.deepcopy(MANY))


# ---- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no JSON"),
        ("[]", "is no workflow in ComfyUI's API format"),
        ("{}", "is no workflow"),
        ('{"1": {"class_type": "A"}}', "is no workflow"),
        ('{"nodes": [], "links": [], "version": 0.4}', "Export \\(API\\)"),
        ('{"1": {"class_type": "A", "inputs": {"x": ["5", 0]}}}', "Input x of node 1 .* is wired to node 5"),
    ],
)
def test_what_is_no_graph_is_refused_in_words(tmp_path, text, said):
    path = tmp_path / "a graph.json"
    path.write_text(text)
    with pytest.raises(UsageRefused, match=said):
        read_graph(path)


def test_a_missing_graph_is_refused(tmp_path):
    with pytest.raises(UsageRefused, match="cannot be read .No such file"):
        read_graph(tmp_path / "none.json")


def test_a_byte_order_mark_is_no_obstacle(tmp_path):
    path = tmp_path / "graph.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(COLOURS).encode())
    assert read_graph(path).title("1") == "Colour"


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("Scene v1.5 = good.text", ("6", "text")),
        ("scene V1.5 = Good.text", ("6", "text")),
        ("6.text", ("6", "text")),
        ("KSampler.seed", ("3", "seed")),
        ("ksampler.cfg", ("3", "cfg")),
        ("SaveImage.a.b", ("9:1", "a.b")),
        ("9:1.a.b", ("9:1", "a.b")),
    ],
)
def test_a_node_is_found_by_title_id_or_class(many, name, target):
    assert many.find(name) == Target(*target)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Negativ.text", 'has no node "Negativ"; its nodes are 7 "Negative" .CLIPTextEncode., 3 "KSampler", 6'),
        ("CLIPTextEncode.text", 'is the name of 2 nodes .* by its id: 6 "Scene .* 7 "Negative"'),
        ("KSampler.sede", 'Node 3 "KSampler" .* has no input "sede"; the ones that take a value are seed, cfg'),
        ("seed", "names no input"),
    ],
)
def test_a_wrong_name_lists_what_there_is_nearest_first(many, name, said):
    with pytest.raises(UsageRefused, match=said):
        many.find(name)


# ---- values ----------------------------------------------------------------------------------------------------------


def test_values_take_the_type_that_the_graph_has_there(many):
    changed, given = set_values(
        many,
        ["3.seed=18446744073709551615", "3.cfg=7", "3.add_noise=no", "Scene v1.5 = good.text=a = b. c", "7.text=5"],
    )
    assert changed.nodes["3"]["inputs"] == {
        "seed": 18446744073709551615, "cfg": 7.0, "add_noise": False, "sampler_name": "ddim", "positive": ["6", 0],
    }  # fmt: skip
    assert isinstance(changed.nodes["3"]["inputs"]["cfg"], float)
    assert changed.nodes["6"]["inputs"]["text"] == "a = b. c" and changed.nodes["7"]["inputs"]["text"] == "5"
    assert len(given) == 5 and many.nodes == MANY


def test_an_input_without_a_value_takes_json(many):
    changed, _ = set_values(many, ['SaveImage.free={"a": [1]}'])
    assert changed.nodes["9:1"]["inputs"]["free"] == {"a": [1]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("KSampler.seed=x", '"x" is no number'),
        ("KSampler.cfg=nan", '"nan" is no number'),
        ("KSampler.add_noise=maybe", "neither true nor false"),
        ("KSampler.positive=x", 'is wired to node 6 "Scene'),
        ("KSampler.seed", "no equals sign"),
        ("SaveImage.free=x", "is no JSON"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(many, text, said):
    with pytest.raises(UsageRefused, match=said):
        set_values(many, [text])


def test_the_same_input_twice_is_refused(many):
    with pytest.raises(UsageRefused, match="KSampler.seed twice"):
        set_values(many, ["KSampler.seed=1", "3.seed=2"])


# ---- pictures and placeholders ---------------------------------------------------------------------------------------


def test_a_picture_of_this_machine_counts_by_its_content(write_picture):
    graph = Graph("photos.json", PHOTOS)
    one, same, other = (
        set_values(graph, [f"Photo 1.image={path}"])[0]
        for path in (write_picture("a.png"), write_picture("sub/b.png"), write_picture("c.png", (1, 2, 3)))
    )
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
    (odd,) = set_values(graph, [f"Photo 1.image={write_picture('Zoë & me.PNG')}"])[0].pictures()
    assert odd.upload_name == f"Zo_me_{odd.sha256[:12]}.png"
    (picture,) = one.pictures()
    assert picture.upload_name == f"a_{picture.sha256[:12]}.png"
    assert one.to_send({picture: "in/a.png"})["1"]["inputs"]["image"] == "in/a.png"


@pytest.mark.parametrize("name", ["sample.png", "sub/x.png [input]"])
def test_a_name_that_the_server_knows_is_left_alone(name):
    graph, _ = set_values(Graph("photos.json", PHOTOS), [f"Photo 1.image={name}"])
    assert graph.nodes["1"]["inputs"]["image"] == name and not graph.pictures()


def test_what_is_no_picture_is_refused(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    for value, said in (
        (tmp_path / "broken.jpg", "cannot be read as a picture"),
        (tmp_path / "none.jpg", "there is no picture"),
        (tmp_path, "is a folder"),
    ):
        with pytest.raises(UsageRefused, match=said):
            set_values(Graph("photos.json", PHOTOS), [f"Photo 1.image={value}"])


def test_a_placeholder_is_named_with_the_option_that_fills_it(write_picture):
    graph = Graph("photos.json", PHOTOS)
    with pytest.raises(UsageRefused, match=r'PHOTO_1 \(a portrait\). Give --set "Photo 1.image=..."'):
        graph.require_filled()
    set_values(graph, [f"Photo 1.image={write_picture('a.png')}"])[0].require_filled()
    Graph("colours.json", COLOURS).require_filled()


def test_a_prompt_that_speaks_of_braces_is_no_placeholder():
    nodes = {"1": {"class_type": "A", "inputs": {"text": "a {red|green} hat and {{x: y}} more"}}}
    Graph("a.json", nodes).require_filled()


@pytest.mark.parametrize("path", sorted(API_GRAPHS.glob("*.json")), ids=lambda path: path.stem)
def test_the_bundled_graphs_are_refused_until_their_placeholders_are_filled(path, write_picture):
    graph = read_graph(path)
    left = graph.placeholders()
    picture = write_picture("me.png")
    with pytest.raises(UsageRefused) as refused:
        graph.require_filled()
    for placeholder in left:
        assert placeholder.name in str(refused.value) and placeholder.what in str(refused.value)
        assert f'--set "{graph.spelled(placeholder.target)}=..."' in str(refused.value)
    filled, _ = set_values(
        graph,
        [f"{graph.spelled(p.target)}={picture if graph.takes_picture(p.target) else 'said so'}" for p in left],
    )
    filled.require_filled()
    assert filled.pictures()


def test_titles_and_the_order_of_inputs_change_nothing():
    other = copy.deepcopy(COLOURS)
    other["1"]["_meta"]["title"] = "Another"
    other["1"]["inputs"] = dict(reversed(other["1"]["inputs"].items()))
    assert Graph("b.json", other).fingerprint() == Graph("a.json", COLOURS).fingerprint()
    other["1"]["inputs"]["color"] = 8
    assert Graph("b.json", other).fingerprint() != Graph("a.json", COLOURS).fingerprint()


# ---- fan-out ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeffan indoor scene\n\n  a rooftop at dusk, wind \nCafé\n", encoding="utf-8")
    return path


def test_a_text_file_gives_a_job_a_line(many, prompts):
    plan = fan_out(many, [f"6.text={prompts}"])
    assert [job.graph.nodes["6"]["inputs"]["text"] for job in plan.jobs] == [
        "an indoor scene", "a rooftop at dusk, wind", "Café",
    ]  # fmt: skip
    assert [job.label for job in plan.jobs] == ["an_indoor_scene", "a_rooftop_at_dusk_wind", "caf"]
    assert plan.jobs[0].values == {"Scene v1.5 = good.text": "an indoor scene"}


def test_lists_of_one_length_go_side_by_side(many, prompts):
    plan = fan_out(many, [f"6.text={prompts}", "KSampler.seed=1, 2,3"])
    pairs = [(job.graph.nodes["3"]["inputs"]["seed"], job.graph.nodes["6"]["inputs"]["text"][:2]) for job in plan.jobs]
    assert pairs == [(1, "an"), (2, "a "), (3, "Ca")]


def test_lists_of_different_lengths_are_refused(many, prompts):
    with pytest.raises(UsageRefused, match="good.text has 3, KSampler.seed has 2"):
        fan_out(many, [f"6.text={prompts}", "KSampler.seed=1,2"])


def test_pictures_come_from_a_pattern_a_folder_or_a_list(tmp_path, write_picture, monkeypatch):
    graph = Graph("photos.json", PHOTOS)
    for number in (10, 2, 1):
        write_picture(f"in/{number}.png", (number, 0, 0))
    (tmp_path / "in" / "notes.txt").write_text("1.png\n2.png\n")
    for source, names in (
        (tmp_path / "in" / "*.png", ["1.png", "2.png", "10.png"]),
        (tmp_path / "in", ["1.png", "2.png", "10.png"]),
        (tmp_path / "in" / "notes.txt", ["1.png", "2.png"]),
        (tmp_path / "in" / "2.png", ["2.png"]),
    ):
        plan = fan_out(graph, [f"Photo 1.image={source}"])
        assert [job.graph.pictures()[0].path.name for job in plan.jobs] == names


def test_a_json_list_is_a_list(many):
    plan = fan_out(many, ['6.text=["a, b", "c"]'])
    assert [job.graph.nodes["6"]["inputs"]["text"] for job in plan.jobs] == ["a, b", "c"]
    assert [job.graph.nodes["3"]["inputs"]["seed"] for job in fan_out(many, ["3.seed=[5, 6]"]).jobs] == [5, 6]


def test_alike_jobs_are_one(many):
    plan = fan_out(many, ["3.seed=5,6,5"])
    assert len(plan.jobs) == 2 and plan.repeated == 1


@pytest.mark.parametrize(
    ("each", "said"),
    [
        ("6.text=none.txt", 'no file "none.txt"'),
        ("6.text=[1,", "is no JSON list"),
        ("6.text=[]", "holds no value"),
        ("3.seed=1,x", '"x" is no number'),
    ],
)
def test_a_list_that_is_none_is_refused(many, each, said):
    with pytest.raises(UsageRefused, match=said):
        fan_out(many, [each])


def test_a_pattern_without_a_match_is_refused(tmp_path):
    with pytest.raises(UsageRefused, match="no picture matches"):
        fan_out(Graph("photos.json", PHOTOS), [f"Photo 1.image={tmp_path}/*.jpg"])


def test_set_and_each_of_one_input_are_refused(many):
    graph, given = set_values(many, ["3.seed=4"])
    with pytest.raises(UsageRefused, match="given twice"):
        fan_out(graph, ["KSampler.seed=1,2"], given)
