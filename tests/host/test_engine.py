"""The engine on ComfyUI's own objects: seeds as KSampler has them, training that leaves no trace.

`inside/engine_*.py` measure in ComfyUI's process; the bounds are here. Bounds are in standard deviations of a latent.
"""

from __future__ import annotations

import pytest

# One of each kind: plain, ancestral, multistep, Brownian, cfg++, two evaluations a step, its own loop, other names.
SOME = "euler,euler_ancestral,dpmpp_2m,dpmpp_2m_sde,euler_cfg_pp,heun,uni_pc,ddim,lcm,res_multistep,sa_solver"


@pytest.fixture(scope="module")
def demo_samplers(inside):
    return inside("engine_sampling", "demo", SOME)


@pytest.fixture(scope="module")
def sd15_samplers(inside, sd15):
    return inside("engine_sampling", sd15, "euler,dpmpp_2m_sde,ddim")


@pytest.fixture(scope="module", params=["demo", "sd15"])
def sampled(request):
    return request.getfixturevalue(f"{request.param}_samplers")


@pytest.mark.long
def test_every_sampler_of_the_host_keeps_its_seeds_apart(inside):
    found = inside("engine_sampling", "demo")["samplers"]
    assert set(SOME.split(",")) < set(found) and len(found) > 40
    for name, measured in found.items():
        assert measured["single"] == 0.0 and measured["batch"] < 5e-3 and measured["dropped"] < 5e-3, name


def test_one_seed_is_bit_for_bit_what_ksampler_makes(sampled):
    assert {name: found["single"] for name, found in sampled["samplers"].items() if found["single"] != 0.0} == {}


def test_each_row_of_a_batch_is_the_run_of_its_seed_alone(sampled):
    """Not to the bit: a batch is summed in another order, and some samplers magnify that."""
    assert {name: found["batch"] for name, found in sampled["samplers"].items() if found["batch"] > 5e-3} == {}


def test_dropping_a_row_leaves_the_others_as_they_were(sampled):
    for name, found in sampled["samplers"].items():
        assert found["kept"] == [0, 2], name
        assert found["dropped"] < 5e-3 and found["views_fit"], name


def test_a_mask_keeps_its_part_and_a_soft_one_joins_in_later(sampled):
    masked = sampled["masked"]
    assert masked["kept_half"] < 1e-4 and masked["previews_kept_half"] < 1e-4 and masked["mask_of_zeros"] < 1e-4
    assert masked["changed_half"] > 0.1 and masked["mask_of_ones"] < 1e-5
    assert 0.0 < masked["soft_changed"] < 2.0 * masked["changed_half"]


def test_less_denoise_stays_nearer_to_the_picture(sd15_samplers):
    little, half, all_of_it = sd15_samplers["denoise"]
    assert little < half < all_of_it


def test_a_run_that_is_ended_or_fails_leaves_nothing_behind(sampled):
    ended = sampled["ended"]
    assert ended["rows"] == [] and ended["steps"] == [1] and ended["shape"][0] == 0
    assert ended["failed"] and ended["same_afterwards"]


def test_what_cannot_be_sampled_is_refused_in_words(sampled):
    refused = sampled["refused"]
    assert "multiples of 8" in refused["size"] and "'magic' is not one of" in refused["sampler"]
    assert "'magic' is not one of" in refused["scheduler"] and "at least one seed" in refused["seeds"]
    assert "needs one to start from" in refused["mask"]


def test_pictures_go_in_and_come_out(sampled):
    trip = sampled["round_trip"]
    assert trip["count"] == 2 and trip["shape"] == [128, 128, 3] and trip["levels"] < 2.0


def test_the_card_says_what_the_model_is(demo_samplers, sd15_samplers):
    demo, sd15 = demo_samplers["card"], sd15_samplers["card"]
    assert (demo["architecture"], demo["prediction"], demo["native_size"]) == ("demo", "sample", 128)
    assert (sd15["prediction"], sd15["native_size"]) == ("epsilon", 512)
    assert len(demo["sha256"]) == 64 and demo["sha256"] != sd15["sha256"] and demo["variant"] != sd15["variant"]


@pytest.fixture(scope="module")
def training(inside, sd15, sdxl):
    """(model, layers, what its output is) -> what was measured, once each."""
    known: dict[tuple[str, ...], dict] = {}

    def run(model: str, *words: str):
        key = (model, *words)
        if key not in known:
            known[key] = inside("engine_training", {"sd15": sd15, "sdxl": sdxl}.get(model, model), *words)
        return known[key]

    return run


CASES = [("demo", "all"), ("sd15", "all"), ("sd15", "attention", "v_prediction")]
MORE = [("sd15", "attention", "flow"), ("sdxl", "attention")]
ALL = [*CASES, *(pytest.param(case, marks=pytest.mark.long) for case in MORE)]


@pytest.mark.parametrize("case", ALL, ids="-".join)
def test_training_learns_and_leaves_the_wired_model_as_it_was(training, case):
    found = training(*case)
    assert found["losses"][-1] < found["losses"][0]
    assert found["untouched"] and found["inference_mode_again"] and found["same_sample_afterwards"]


@pytest.mark.parametrize("case", [case for case in CASES if len(case) == 2], ids="-".join)
def test_gradient_checkpointing_gives_the_same_losses(training, case):
    found = training(*case)
    assert found["losses_checkpointed"] == pytest.approx(found["losses"], rel=1e-3)


@pytest.mark.parametrize("case", ALL, ids="-".join)
def test_the_saved_lora_loads_without_an_unmatched_key_and_equals_the_trained_module(training, case):
    found = training(*case)
    assert found["warnings"] == [] and found["patched_layers"] == found["adapted_layers"] > 0
    assert found["effect"] > 0.02 and found["lora_against_module"] < 2e-2 * found["effect"]
    assert found["unpatched_again"]


@pytest.mark.parametrize("case", ALL, ids="-".join)
def test_hashes_are_over_unpatched_weights_and_patches_are_told_apart(training, case):
    found = training(*case)
    assert found["hash_while_patched"] and found["variants"] == 2


PREDICTIONS = {"demo": "sample", "sd15": "epsilon", "sdxl": "epsilon", "v_prediction": "v_prediction", "flow": "flow"}


@pytest.mark.parametrize("case", ALL, ids="-".join)
def test_the_target_follows_what_the_model_predicts(training, case):
    assert training(*case)["prediction"] == PREDICTIONS[case[2] if len(case) == 3 else case[0]]


def test_what_cannot_be_adapted_is_refused_in_a_sentence(training):
    refused = training("sd15", "all")["refused"]
    assert "fits no layer of this model" in refused["lora"]
    assert "float8_e4m3fn, which cannot be trained on" in refused["float8"]
