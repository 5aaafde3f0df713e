"""An identity: fused from photos of one person, refused for a stranger's, kept bit for bit."""

from __future__ import annotations

import errno
import json
import os
import pickle
import stat

import numpy as np
import pytest

from identity_lock.errors import IdentityLockError, OutputError, PhotoError, RecogniserError
from identity_lock.identity import (
    Identity,
    IdentityFileError,
    NoFaceError,
    Photo,
    build_identity,
    cosine,
    load_identity,
    photo_from_array,
    save_identity,
)
from identity_lock.identity.identity import _refuse_strangers as refuse_strangers
from identity_lock.identity.identity import fuse
from identity_lock.safety.consent import ConsentError

from .onnx_models import write_arcface

CONSENT = "G. H. agreed in writing to the making of test pictures."


@pytest.fixture(scope="module")
def identity(hopper) -> Identity:
    blurred = Photo("blurred.jpg", _blurred(hopper.pixels, 4))
    return build_identity([hopper, blurred], name="Grace", consent=CONSENT)


def _blurred(pixels: np.ndarray, sigma: float) -> np.ndarray:
    import cv2

    return cv2.GaussianBlur(pixels, (0, 0), sigma)


def test_it_says_what_it_was_made_from(identity, hopper):
    assert (identity.selection, identity.reporting) == ("sface", "dlib")
    assert set(identity.embeddings) == {"sface", "dlib"}
    assert identity.consent == CONSENT and identity.warnings == ()
    assert [record.name for record in identity.photos] == ["grace_hopper.jpg", "blurred.jpg"]
    assert sum(record.weight for record in identity.photos) == pytest.approx(1)
    for name, embedding in identity.embeddings.items():
        assert embedding.dimension == embedding.vector.size == 128
        assert np.linalg.norm(embedding.vector) == pytest.approx(1, abs=1e-6)
        assert len(identity.yardstick[name]) == 1 and 0 < identity.yardstick[name][0] < 0.6


def test_the_better_photo_weighs_more(identity):
    sharp, blurred = identity.photos
    assert sharp.quality > blurred.quality + 0.2
    assert sharp.weight > blurred.weight
    assert sharp.similarity_to_mean > blurred.similarity_to_mean


def test_fusion_is_the_weighted_mean_direction():
    vectors = np.eye(3, dtype=np.float32)[:2]
    assert fuse(vectors, np.array([0.8, 0.2])) == pytest.approx(np.array([0.8, 0.2, 0]) / np.hypot(0.8, 0.2))
    with pytest.raises(PhotoError):
        fuse(np.array([[1.0, 0.0], [-1.0, 0.0]]), np.array([0.5, 0.5]))


def test_a_single_photo_is_its_own_mean(hopper, sface, detector):
    single = build_identity([hopper], name="Grace", consent=CONSENT)
    assert single.yardstick == {"sface": (), "dlib": ()}
    assert single.photos[0].weight == 1 and single.photos[0].similarity_to_mean == pytest.approx(1)


def test_its_meters_measure_with_two_different_recognisers(identity, hopper, stranger):
    selection, reporting = identity.meters()
    assert (selection.recogniser, reporting.recogniser) == ("sface", "dlib")
    for meter in (selection, reporting):
        assert meter.measure_one(hopper.pixels).value < meter.measure_one(stranger.pixels).value / 2


@pytest.mark.parametrize("consent", ["", "   \n", None, "yes"])
def test_no_consent_no_identity(hopper, consent):
    with pytest.raises(ConsentError, match="consent"):
        build_identity([hopper], name="Grace", consent=consent)
    assert issubclass(ConsentError, IdentityLockError)


@pytest.mark.parametrize("count", [0, 4])
def test_one_to_three_photos(hopper, count):
    with pytest.raises(PhotoError, match=f"one to three.*{count}"):
        build_identity([hopper] * count, name="Grace", consent=CONSENT)


@pytest.mark.parametrize("position", range(3))
def test_a_stranger_among_three_is_named(hopper, darker, stranger, position):
    photos = [hopper, darker]
    photos.insert(position, stranger)
    with pytest.raises(PhotoError, match=r"^astronaut\.png seems to show somebody else") as caught:
        build_identity(photos, name="Grace", consent=CONSENT)
    assert "grace_hopper" not in str(caught.value)


def test_of_two_people_both_photos_are_named(hopper, stranger):
    with pytest.raises(PhotoError, match=r"grace_hopper\.jpg and astronaut\.png seem to show different people"):
        build_identity([hopper, stranger], name="Grace", consent=CONSENT)


class _Judge:
    """A recogniser's name and bar, for the logic of who is odd."""

    def __init__(self, name: str, bar: float) -> None:
        self.name, self.same_person_bar = name, bar


def _at(*degrees: float) -> np.ndarray:
    angles = np.radians(degrees)
    return np.column_stack([np.cos(angles), np.sin(angles)])


def test_either_recogniser_may_object(hopper, darker):
    vectors = {"a": _at(0, 10), "b": _at(0, 80)}
    with pytest.raises(PhotoError, match="different people .b similarity 0.17, same-person bar 0.5"):
        refuse_strangers([hopper, darker], vectors, [_Judge("a", 0.5), _Judge("b", 0.5)])
    assert refuse_strangers([hopper, darker], vectors, [_Judge("a", 0.5)]) == []


def test_two_unlike_photos_that_a_third_links_are_kept_with_a_warning(hopper, darker, stranger):
    (warning,) = refuse_strangers([hopper, darker, stranger], {"a": _at(0, 40, 80)}, [_Judge("a", 0.5)])
    assert "grace_hopper.jpg and astronaut.png look unlike" in warning


def test_three_people_are_all_named(hopper, darker, stranger):
    with pytest.raises(PhotoError, match=r"grace_hopper\.jpg, darker\.jpg, astronaut\.png seem to show different"):
        refuse_strangers([hopper, darker, stranger], {"a": _at(0, 120, 240)}, [_Judge("a", 0.5)])


def test_a_faceless_photo_is_left_out_with_a_warning(hopper, faceless):
    made = build_identity([faceless, hopper], name="Grace", consent=CONSENT)
    assert [record.name for record in made.photos] == ["grace_hopper.jpg"]
    assert len(made.warnings) == 1 and made.warnings[0].startswith("coffee.png was left out")


def test_without_any_face_it_fails_by_name(faceless):
    other = Photo("tea.png", faceless.pixels[:, ::-1].copy())
    with pytest.raises(NoFaceError, match=r"coffee\.png"):
        build_identity([faceless], name="Grace", consent=CONSENT)
    with pytest.raises(NoFaceError, match=r"coffee\.png, tea\.png"):
        build_identity([faceless, other], name="Grace", consent=CONSENT)


def test_a_photo_with_another_fault_is_not_silently_left_out(hopper):
    pair = photo_from_array(np.hstack([hopper.pixels, hopper.pixels]), "pair.jpg")
    with pytest.raises(PhotoError, match=r"^pair\.jpg: several faces"):
        build_identity([hopper, pair], name="Grace", consent=CONSENT)


def test_recognisers_can_be_chosen_but_not_twice(hopper):
    swapped = build_identity([hopper], name="Grace", consent=CONSENT, selection="dlib")
    assert (swapped.selection, swapped.reporting) == ("dlib", "sface")
    assert build_identity([hopper], name="Grace", consent=CONSENT, reporting="sface").selection == "dlib"
    with pytest.raises(RecogniserError, match="both sface"):
        build_identity([hopper], name="Grace", consent=CONSENT, selection="sface", reporting="sface")


def test_a_round_trip_is_bit_exact(tmp_path, identity):
    path = save_identity(identity, tmp_path / "new folder" / "Grace.safetensors")
    loaded = load_identity(path)
    for name, embedding in identity.embeddings.items():
        assert loaded.embeddings[name].vector.tobytes() == embedding.vector.tobytes()
        assert loaded.embeddings[name].recogniser_sha256 == embedding.recogniser_sha256
    for attribute in ("name", "selection", "reporting", "photos", "consent", "created", "warnings"):
        assert getattr(loaded, attribute) == getattr(identity, attribute)
    assert dict(loaded.yardstick) == dict(identity.yardstick)
    assert [entry.name for entry in path.parent.iterdir()] == ["Grace.safetensors"]


def test_the_file_is_private_and_holds_no_photo(tmp_path, identity):
    path = save_identity(identity, tmp_path / "Grace.safetensors")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_size < 8192


def test_a_folder_that_cannot_be_written_leaves_nothing_behind(tmp_path, identity):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="Could not write .*Grace.safetensors"):
        save_identity(identity, tmp_path / "file" / "Grace.safetensors")


def test_a_full_disk_keeps_the_old_file(tmp_path, identity, monkeypatch):
    path = save_identity(identity, tmp_path / "Grace.safetensors")
    before = path.read_bytes()

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        save_identity(identity, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["Grace.safetensors"]


def test_other_files_are_refused(tmp_path, identity):
    from safetensors.numpy import save

    whole = save_identity(identity, tmp_path / "Grace.safetensors").read_bytes()
    files = {
        "cut.safetensors": whole[: len(whole) // 2],
        "empty.safetensors": b"",
        "pickle.safetensors": pickle.dumps({"embedding": [1.0]}),
        "text.safetensors": b"hello",
        "lora.safetensors": save({"lora_up.weight": np.ones((2, 2), np.float32)}),
        "foreign.safetensors": save(
            {"x": np.ones(2, np.float32)}, metadata={"identity": json.dumps({"format": "other"})}
        ),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(IdentityFileError, match=f"^{name} "):
            load_identity(tmp_path / name)
    with pytest.raises(IdentityFileError, match="no identity file"):
        load_identity(tmp_path / "gone.safetensors")


def test_a_file_without_one_of_its_embeddings_is_refused(tmp_path, identity):
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    path = save_identity(identity, tmp_path / "Grace.safetensors")
    with safe_open(str(path), framework="numpy") as stream:
        metadata = stream.metadata()
    tensors = load_file(str(path))
    del tensors["embedding.dlib"]
    save_file(tensors, str(path), metadata=metadata)
    with pytest.raises(IdentityFileError, match="no complete identity"):
        load_identity(path)


@pytest.mark.parametrize(
    "change",
    [
        {"photos": [{"name": "a.jpg"}]}, {"photos": 5}, {"yardstick": {"sface": ["0.2"]}}, {"yardstick": []},
        {"warnings": [None]}, {"consent": None}, {"recognisers": {"sface": 5}}, {"recognisers": {}}, {"version": "1"},
        {"selection": "nobody"}, {"reporting": 3}, {"name": ["Grace"]}, {"more": "than there should be"},
    ],
)  # fmt: skip
def test_a_description_that_makes_no_sense_is_refused(tmp_path, identity, change):
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    path = save_identity(identity, tmp_path / "Grace.safetensors")
    with safe_open(str(path), framework="numpy") as stream:
        told = json.loads(stream.metadata()["identity"])
    save_file(load_file(str(path)), str(path), metadata={"identity": json.dumps(told | change)})
    with pytest.raises(IdentityFileError, match="holds no complete identity"):
        load_identity(path)


def test_a_large_file_is_refused_before_it_is_read(tmp_path):
    vector = {"dtype": "F32", "shape": [1 << 38], "data_offsets": [0, 1 << 40]}
    header = json.dumps({"embedding.sface": vector}).encode()
    path = tmp_path / "Grace.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, path.stat().st_size + (1 << 40))  # of holes
    with pytest.raises(IdentityFileError, match="it holds other tensors than embeddings"):
        load_identity(path)


def test_two_identities_compare_only_by_the_same_recogniser(hopper, stranger, identity):
    other = build_identity([stranger], name="Eileen", consent=CONSENT)
    drifts = identity.drift_to(other)
    assert set(drifts) == {"sface", "dlib"} and drifts["sface"] > 0.6
    assert drifts["sface"] == other.drift_to(identity)["sface"]
    with pytest.raises(RecogniserError, match="sface and by dlib"):
        identity.embeddings["sface"].drift_to(other.embeddings["dlib"])


def test_an_identity_by_other_recognisers_does_not_compare(tmp_path, hopper, no_packages, identity):
    pytest.importorskip("insightface")
    from identity_lock.identity.identity import Embedding

    only_arcface = Identity(
        "Grace",
        {"arcface": Embedding(np.ones(512, np.float32), "arcface", "0" * 64, 512)},
        "arcface",
        None,
        (),
        {},
        "c",
        "",
    )
    with pytest.raises(RecogniserError, match="share no recogniser"):
        identity.drift_to(only_arcface)
    with pytest.raises(RecogniserError, match="not with arcface"):
        identity.embedding("arcface")


def test_changed_weights_are_refused(tmp_path, hopper):
    pytest.importorskip("insightface")
    weights = tmp_path / "buffalo_l" / "w600k_r50.onnx"
    write_arcface(weights, seed=0)
    made = build_identity([hopper], name="Grace", consent=CONSENT, models_dir=tmp_path)
    assert (made.selection, made.reporting) == ("arcface", "dlib")
    assert made.embeddings["arcface"].dimension == 512
    assert made.meters(tmp_path)[0].measure_one(hopper.pixels).value < 1e-5
    write_arcface(weights, seed=1)
    with pytest.raises(RecogniserError, match="another file of arcface"):
        made.meters(tmp_path)
    again = build_identity([hopper], name="Grace", consent=CONSENT, models_dir=tmp_path)
    with pytest.raises(RecogniserError, match="different model files"):
        made.drift_to(again)


def test_photo_warnings_reach_the_identity(hopper):
    animated = Photo("clip.gif", hopper.pixels, ("clip.gif: has 3 frames or pages; the first one is used.",))
    assert build_identity([animated], name="Grace", consent=CONSENT).warnings == animated.warnings


def test_the_same_photos_give_the_same_identity(identity, hopper):
    again = build_identity([hopper, Photo("blurred.jpg", _blurred(hopper.pixels, 4))], name="Grace", consent=CONSENT)
    assert cosine(again.embeddings["sface"].vector, identity.embeddings["sface"].vector) == pytest.approx(1, abs=1e-6)
    assert again.photos == identity.photos
