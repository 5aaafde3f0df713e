"""Names of files that nodes write: taken once, inside their folder, found again by the same run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from identity_lock.engines.lora_file import LoraWeights, read_lora, write_lora
from identity_lock.errors import OutputError
from identity_lock.identity import build_identity, load_identity, read_photo
from identity_lock.nodes import places
from identity_lock.tests.fixtures.tiny_engine import CONSENT, HOPPER


def lora(value: float, **metadata: str) -> LoraWeights:
    tensors = {
        "lora_unet_x.lora_down.weight": torch.full((2, 4), value),
        "lora_unet_x.lora_up.weight": torch.ones((4, 2)),
    }
    return LoraWeights("anna", tensors, metadata)


def test_a_lora_keeps_its_file_and_another_one_gets_the_next(tmp_path):
    assert places.lora_into(tmp_path, lora(1.0, made="today"), "anna b") == "anna b.safetensors"
    assert places.lora_into(tmp_path, lora(1.0, made="tomorrow"), "anna b.safetensors") == "anna b.safetensors"
    assert places.lora_into(tmp_path, lora(2.0), "anna b") == "anna b_2.safetensors"
    assert places.lora_into(tmp_path, lora(3.0), "anna b") == "anna b_3.safetensors"
    assert places.lora_into(tmp_path, lora(2.0), "anna b") == "anna b_2.safetensors"
    assert read_lora(tmp_path / "anna b.safetensors").sha256 == lora(1.0).sha256


def test_a_file_that_is_no_lora_is_left_alone(tmp_path):
    (tmp_path / "anna.safetensors").write_bytes(b"somebody's")
    assert places.lora_into(tmp_path, lora(1.0), "anna") == "anna_2.safetensors"
    assert (tmp_path / "anna.safetensors").read_bytes() == b"somebody's"


def test_a_subfolder_is_part_of_the_listed_name(tmp_path):
    name = places.lora_into(tmp_path, lora(1.0), "people/anna")
    assert (tmp_path / name).is_file() and name.replace("\\", "/") == "people/anna.safetensors"


def test_a_name_that_goes_to_another_process_after_it_was_found_free_is_not_taken_for_ours(tmp_path, monkeypatch):
    exists, wanted = Path.exists, tmp_path / "anna.safetensors"

    def free_until_looked_at(path: Path, **options: bool) -> bool:
        found = exists(path, **options)
        if path == wanted and not found:
            write_lora(lora(2.0), path)
        return found

    monkeypatch.setattr(Path, "exists", free_until_looked_at)
    assert places.lora_into(tmp_path, lora(1.0), "anna") == "anna_2.safetensors"
    assert read_lora(wanted).sha256 == lora(2.0).sha256
    assert read_lora(tmp_path / "anna_2.safetensors").sha256 == lora(1.0).sha256


@pytest.mark.parametrize("name", ["", "../anna", "/tmp/anna", "a\0b"])
def test_a_name_cannot_leave_the_folder(tmp_path, name):
    with pytest.raises(OutputError):
        places.lora_into(tmp_path, lora(1.0), name)


def test_an_identity_of_the_same_photos_replaces_its_file(tmp_path):
    identity = build_identity([read_photo(HOPPER)], name="Grace", consent=CONSENT)
    again = replace(identity, name="Grace H.")
    other = replace(identity, photos=(replace(identity.photos[0], fingerprint="0" * 16),))
    assert places.identity_into(tmp_path, identity, "grace") == "grace.safetensors"
    assert places.identity_into(tmp_path, again, "grace") == "grace.safetensors"
    assert load_identity(tmp_path / "grace.safetensors").name == "Grace H."
    assert places.identity_into(tmp_path, other, "grace") == "grace_2.safetensors"


def test_runs_that_differ_late_in_their_fingerprint_get_folders_of_their_own():
    assert places.short("plan-photos-model-a") != places.short("plan-photos-model-b")
    assert len(places.short("x")) == 12


def test_sample_photos_are_copied_once_and_never_over_a_users_file(tmp_path):
    places.copy_samples(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["identity_lock_sample_1.png", "identity_lock_sample_2.png"]
    (tmp_path / names[0]).write_bytes(b"mine")
    places.copy_samples(tmp_path)
    assert (tmp_path / names[0]).read_bytes() == b"mine"
    places.copy_samples(tmp_path / names[0])  # no folder: nothing happens


def test_output_files_as_the_front_end_names_them(tmp_path):
    deep = places.entry(tmp_path / "identity_lock" / "renders" / "a.png", tmp_path)
    assert deep == {"filename": "a.png", "subfolder": "identity_lock/renders", "type": "output"}
    assert places.entry(tmp_path / "a.png", tmp_path)["subfolder"] == ""
