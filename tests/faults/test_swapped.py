"""Something is swapped between two runs into one folder: refused by its hash, in a sentence that names it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from types import MappingProxyType, SimpleNamespace

import pytest

from identity_lock.errors import RenderError, TrainingError
from identity_lock.identity import load_identity, save_identity
from identity_lock.identity.drift import DriftMeter, FaceReader
from identity_lock.rendering import passes
from identity_lock.rendering.log import Meters
from identity_lock.rendering.search import search_fingerprint, search_seeds
from identity_lock.safety.fingerprint import swapped
from identity_lock.tests.faults.kills import JOB, check_same, results
from identity_lock.tests.fixtures.tiny_engine import PHOTOS, tiny_data, tiny_engine, tiny_plan
from identity_lock.tests.rendering.conftest import RENDER, SIZE
from identity_lock.training import checkpoint, loop


@pytest.fixture
def out(whole, tmp_path):
    return shutil.copytree(whole.out, tmp_path / "out")


@pytest.fixture
def run(nursery, out, tmp_path):
    """Runs the command on the finished folder; the sentence by which it refuses."""

    def run(**changes: object) -> str:
        ending, said = nursery.run(JOB, tmp_path / "said.txt", out=str(out), **changes)
        assert ending == "ended 1" and "Traceback" not in "\n".join(said), "\n".join(said[-30:])
        (sentence,) = [line for line in said if line.startswith("identity-lock: ")]
        return sentence

    return run


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"base": 1}, "the base model changed"),
        ({"style": 8}, "the second base model changed"),
        ({"photo": str(PHOTOS / "synthetic_1.png")}, "belongs to other photos (grace_hopper.jpg)"),
    ],
)
def test_a_swapped_model_or_photo_is_refused_and_nothing_is_touched(run, out, whole, changes, names):
    assert names in run(**changes)
    check_same(results(out), whole.results)


def test_another_base_is_refused_by_each_stage_on_its_own(run, out):
    """The renders are looked at first; without them the search says it, and without that the training."""
    shutil.rmtree(out / "renders")
    assert "untrained/seeds.jsonl belongs to a search of another kind: the base model changed" in run(base=1)
    shutil.rmtree(out / "untrained")
    assert "training.safetensors belongs to another training: the base model changed" in run(base=1)


@pytest.mark.parametrize("role", ["face", "reporting"])
def test_a_swapped_recogniser_file_is_refused_before_the_identity_is_replaced(run, out, role):
    path = out / "identity.safetensors"
    identity = load_identity(path)
    name = identity.selection if role == "face" else identity.reporting
    other = replace(identity.embeddings[name], recogniser_sha256="0" * 64)
    save_identity(replace(identity, embeddings=MappingProxyType({**identity.embeddings, name: other})), path)
    before = path.read_bytes()
    assert f"The {role} recogniser of the work in {out} was {name} (000000000000...)" in run()
    assert path.read_bytes() == before


def test_another_training_gives_another_lora_and_the_search_refuses_it(run, out):
    """As after a training that was deleted and done anew with other captions."""
    (out / "training.safetensors").unlink()
    shutil.rmtree(out / "renders")
    journal = out / "seeds" / "seeds.jsonl"
    first, *rest = journal.read_text().splitlines(keepends=True)
    lora = first.split("lora:")[1].split(" ")[0]
    journal.write_text("".join([first.replace(lora, "0" * 16), *rest]))
    assert "seeds.jsonl belongs to a search of another kind: the LoRA changed" in run()


# ---- training and search by themselves -------------------------------------------------------------------------------


def detected_by(meter: DriftMeter, sha256: str) -> DriftMeter:
    """The same meter, its detector from another file."""
    detector = SimpleNamespace(name="yunet", sha256=sha256, detect=meter.reader.detector.detect)
    return DriftMeter(meter.reference, FaceReader(detector, meter.reader.recogniser))


class Enough(Exception): ...


def enough(progress):
    raise Enough


def begin_training(folder, meter, **options):
    engine = tiny_engine()
    return loop.train(engine, tiny_data(engine), meter, tiny_plan(checkpoint_every=1), folder, **options)


def test_training_names_the_detector_the_reporting_recogniser_and_the_version(meters, tmp_path, monkeypatch):
    selection, reporting = meters
    with pytest.raises(Enough):
        begin_training(tmp_path, selection, reporting=reporting, on_progress=enough)
    with pytest.raises(TrainingError, match="another training: the face detector changed"):
        begin_training(tmp_path, detected_by(selection, "0" * 64), reporting=reporting)
    with pytest.raises(TrainingError, match="another training: the reporting recogniser changed"):
        begin_training(tmp_path, selection)
    monkeypatch.setattr(loop, "FORMAT", checkpoint.FORMAT + "1")
    with pytest.raises(TrainingError, match="another training: the version of this pack changed"):
        begin_training(tmp_path, selection, reporting=reporting)


def test_a_search_names_the_detector_and_the_version(meters, identity, tmp_path, monkeypatch):
    from identity_lock.rendering.search import SearchSpec

    engine, spec = tiny_engine(), SearchSpec(RENDER, count=1, control=1, batch=1)

    def search(selection):
        return search_seeds(engine, None, identity, Meters(selection), spec, SIZE, tmp_path)

    search(meters[0])
    with pytest.raises(RenderError, match="another kind: the face detector changed"):
        search(detected_by(meters[0], "0" * 64))
    before = search_fingerprint(engine, None, Meters(meters[0]), spec, SIZE)
    monkeypatch.setattr(passes, "ALGORITHM", passes.ALGORITHM + "1")
    assert swapped(before, search_fingerprint(engine, None, Meters(meters[0]), spec, SIZE)) == (
        "the version of this pack"
    )
    with pytest.raises(RenderError, match="another kind: the version of this pack changed"):
        search(meters[0])
