"""The demo base inside ComfyUI: the same numbers and the same pictures as the embedded engine, and stock nodes work.

`inside/demo_loader.py` measures both sides in one process of the host; the bounds are here.
"""

from __future__ import annotations

import re

import pytest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def found(inside):
    return inside("demo_loader")


def test_it_hands_out_comfyuis_own_objects_in_float32_without_a_warning(found):
    assert found["kinds"] == [True, True, True]
    assert found["dtypes"] == ["torch.float32"]
    assert found["warnings_loading"] == [] and found["warnings"] == []


@pytest.mark.parametrize("look", ["studio", "film"])
def test_the_unet_gives_the_embedded_engines_output(found, look):
    assert len(found["unet"][look]) == 6 and max(found["unet"][look]) < 1e-4
    assert min(found["unet"]["looks_apart"]) > 1e-2  # the bound above would tell the looks apart


def test_the_noise_levels_are_those_it_was_trained_on(found):
    assert found["levels"]["count"] == 1000
    assert found["levels"]["widest"] < 1e-4
    assert found["levels"]["last"] > 4000  # zero terminal SNR, as far as ComfyUI can say it


def test_the_codec_is_the_same_and_tiles_without_seams(found):
    codec = found["codec"]
    assert codec["encode"] < 1e-5 and codec["decode"] < 1e-5
    assert codec["tiled_encode"] < 1e-5 and codec["tiled_decode"] < 1e-5
    assert codec["cropped"] == [1, 32, 12, 8] and codec["batch"] == [3, 128, 192, 3]


def test_previews_show_the_picture(found):
    assert found["codec"]["preview"] < 2.0  # 8-bit levels from the decoded picture's own 8x8 means


def test_prompts_give_the_same_context(found):
    text = found["text"]
    assert text["shapes"] == [[[1, 32, 128], True, 0]] * 5
    assert text["widest"] < 1e-6
    assert text["after_clip_skip"] == 0.0 and text["embedding"] == [1, 32, 128]


def test_emphasis_weighs_the_word_and_no_other(found):
    text, changed = found["text"], found["text"]["changed"]
    assert changed["man, (beard:1.4)"] > changed["man, ((beard))"] > 0.1
    assert changed["man, (beard:1.0)"] == changed["man, \\(beard\\)"] == changed["man, (beard"] == 0.0
    assert text["halfway"] < 1e-5 and text["unweighted_word"] < 1e-6


def test_words_that_it_lacks_can_be_read(found):
    assert found["text"]["unknown"] == ["zebra", "gallop"]  # each once, and not the weight's digits
    assert found["text"]["unknown_elsewhere"] == []
    assert [word_id for _, _, word_id in found["text"]["word_ids"]] == [1, 2, 0]
    assert found["text"]["words"] == ["man", "beard", ""]


def test_a_lora_on_every_layer_finds_its_place_and_leaves_again(found):
    adapter = found["adapter"]
    assert adapter["unmatched"] == [] and adapter["warnings"] == []
    assert adapter["patches"] == adapter["layers"] > 100
    assert adapter["away"] < 1e-4 < 1e-1 < adapter["moved"]
    assert adapter["away_without"] < 1e-4 and adapter["weights_back"]


def test_stock_nodes_work(found):
    nodes = found["nodes"]
    assert nodes["latent"] == nodes["again"] == [2, 32, 16, 16] and nodes["images"] == [2, 128, 128, 3]
    assert nodes["healed"] and nodes["mixed"] and nodes["longer_context"] == [1, 64, 128]
    assert nodes["tiled"] < 1e-5
    assert nodes["x0_node"] == nodes["clone"] == nodes["latent_file"] == 0.0


def test_it_runs_where_weights_are_brought_in_layer_by_layer(found):
    assert found["with_no_memory"]["layers_that_must_be_whole"] == []
    assert found["with_no_memory"]["away"] < 1e-5


@pytest.mark.parametrize("look", ["studio", "film"])
def test_the_pictures_are_the_embedded_engines(found, look):
    """What is left comes of the last noise level: ComfyUI keeps 1/4519 of signal where the embedded one has none."""
    pictures = found["pictures"][look]
    assert pictures["mean"] < 0.2 and pictures["widest"] <= 3
    assert pictures["spread"] > 10  # not one flat grey on both sides


def test_every_sampler_ends_at_a_picture(found):
    assert len(found["samplers"]) == 16
    for name, (mean, spread) in found["samplers"].items():
        assert 20 < mean < 235 and spread > 10, name


def test_two_looks_stay_apart_and_loading_is_repeatable(found):
    assert found["same_after"] and found["same_twice"]
    assert found["looks_differ"] == [True, False, False]


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("look", "no look 'noir'; take one of studio, film"),
        ("no base", "demo base is not at .*nowhere.demo_base.safetensors; restore it"),
        ("cut base", "demo_base.safetensors is damaged"),
        ("hole", "demo_base.safetensors is incomplete .*Missing key"),
        ("no look", "demo look is not at .*demo_look.safetensors; restore it"),
        ("cut look", "demo_look.safetensors is damaged or of another base .*restore it"),
        ("other look", "demo_look.safetensors is damaged or of another base .*lora_unet_elsewhere.*restore it"),
    ],
)
def test_a_missing_or_damaged_file_is_told_in_a_sentence(found, case, told):
    assert re.search(told, found["refusals"][case])
