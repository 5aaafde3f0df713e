"""Tensors and dicts of ComfyUI's sockets, to what the rooms below take and back. No ComfyUI is needed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from identity_lock.engines.lora_file import LoraWeights
from identity_lock.errors import CheckpointError, PhotoError
from identity_lock.nodes import sockets


def noise(count: int, height: int, width: int, channels: int = 3) -> torch.Tensor:
    return torch.rand((count, height, width, channels), generator=torch.Generator().manual_seed(3))


def test_a_batch_keeps_count_order_and_pixels_both_ways():
    batch = noise(3, 20, 30)
    pictures = sockets.pictures(batch, "images")
    assert [p.shape for p in pictures] == [(20, 30, 3)] * 3
    assert all(p.dtype == np.uint8 and p.flags["C_CONTIGUOUS"] for p in pictures)
    assert float((sockets.image_batch(pictures) - batch).abs().max()) <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_type_is_read(dtype):
    grey = torch.full((1, 8, 8, 3), 0.5, dtype=dtype)
    assert abs(int(sockets.pictures(grey, "images")[0][0, 0, 0]) - 128) <= 1


def test_tensors_made_in_inference_mode_are_read():
    with torch.inference_mode():
        batch = torch.ones((1, 8, 8, 3))
    assert sockets.pictures(batch, "images")[0].min() == 255


def test_alpha_is_flattened_over_mid_grey():
    clear = torch.cat([torch.ones((1, 8, 8, 3)), torch.zeros((1, 8, 8, 1))], dim=-1)
    assert set(np.unique(sockets.pictures(clear, "images")[0])) == {127}


def test_values_a_little_out_of_range_are_clipped():
    batch = torch.tensor([-0.1, 1.1]).repeat(1, 4, 4, 3)[..., :3]
    assert set(np.unique(sockets.pictures(batch, "images")[0])) <= {0, 255}


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        (torch.zeros((0, 8, 8, 3)), "no picture"),
        (torch.full((1, 8, 8, 3), float("nan")), "NaN"),
        (torch.full((1, 8, 8, 3), 200.0), r"\[0, 1\]"),
        (torch.zeros((1, 8, 8, 5)), "channels"),
        ("a path", "no tensor"),
    ],
)
def test_what_is_no_picture_is_refused_by_the_inputs_name(batch, told):
    with pytest.raises(PhotoError, match=f"styled.*{told}"):
        sockets.pictures(batch, "styled")


def test_a_faulty_picture_of_a_batch_is_told_by_its_number():
    batch = noise(3, 8, 8)
    batch[1, 0, 0, 0] = float("inf")
    with pytest.raises(PhotoError, match="styled 2"):
        sockets.pictures(batch, "styled")


def test_masks_are_repeated_resized_and_clipped():
    half = torch.zeros((1, 10, 10))
    half[:, :, 5:] = 2.0
    planes = sockets.mask_planes(half, [(20, 20), (20, 40)], "face_masks")
    assert [p.shape for p in planes] == [(20, 20), (20, 40)]
    assert all(p.dtype == np.float32 and p.max() == 1.0 for p in planes)
    assert planes[1][:, :15].max() == 0.0 and planes[1][:, 25:].min() == 1.0


def test_one_mask_a_picture_in_their_order():
    masks = torch.stack([torch.full((4, 4), 0.25), torch.full((4, 4), 0.75)])
    first, second = sockets.mask_planes(masks, [(4, 4)] * 2, "face_masks")
    assert (first == 0.25).all() and (second == 0.75).all()
    assert torch.equal(sockets.mask_batch([first, second]), masks)


def test_no_mask_is_all_ones_and_a_single_plane_is_a_mask():
    assert (sockets.mask_planes(None, [(3, 5)], "valid_masks")[0] == np.ones((3, 5))).all()
    assert len(sockets.mask_planes(torch.zeros((6, 6)), [(6, 6)] * 3, "valid_masks")) == 3


@pytest.mark.parametrize("masks", [torch.zeros((2, 4, 4)), torch.full((1, 4, 4), float("nan"))])
def test_masks_that_do_not_fit_are_refused_by_the_inputs_name(masks):
    with pytest.raises(PhotoError, match="valid_masks"):
        sockets.mask_planes(masks, [(4, 4)] * 3, "valid_masks")


def lora(name: str = "anna") -> LoraWeights:
    tensors = {"lora_unet_x.lora_down.weight": torch.ones((2, 4)), "lora_unet_x.lora_up.weight": torch.ones((4, 2))}
    return LoraWeights(name, tensors, {"kept_step": "7"})


def test_our_lora_crosses_the_native_socket_as_it_is():
    wired = sockets.WiredLora(lora())
    assert isinstance(wired, dict)  # what LoraModelLoader and SaveLoRA expect
    back = sockets.lora_weights(wired)
    assert (back.name, back.metadata, back.sha256) == ("anna", {"kept_step": "7"}, lora().sha256)


def test_a_native_lora_is_taken_and_none_is_none():
    assert sockets.lora_weights(dict(lora().tensors)).name == "wired LoRA"
    assert sockets.lora_weights(None) is None


@pytest.mark.parametrize("wired", [{}, {"a": 1}, [1, 2]])
def test_what_is_no_lora_is_refused(wired):
    with pytest.raises(CheckpointError, match="input lora"):
        sockets.lora_weights(wired)
