"""Everything made from a person is found again and goes; what is anybody else's stays."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from identity_lock import cli
from identity_lock.errors import OutputError
from identity_lock.rendering.log import RenderLog, RenderRecord
from identity_lock.safety import index
from identity_lock.safety.forget import UnknownPerson, forget, people_in, the_people
from identity_lock.safety.index import Person

GRACE = Person(index.person_id(["ab" * 8]), "Grace", "She agreed to these pictures in May.", ("ab" * 8,))
ADA = Person(index.person_id(["cd" * 8]), "Ada", "She agreed to these pictures in June.", ("cd" * 8,))
PICTURE = np.full((64, 64, 3), 90, np.uint8)


@pytest.fixture(autouse=True)
def a_home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(index.HOME_VARIABLE, str(tmp_path / "home"))
    index.introduce(GRACE)
    index.introduce(ADA)
    return tmp_path / "home"


def the(person: Person) -> index.Entry:
    return index.read(person.id)


def written(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def rendered(folder: Path, person: Person, name: str, lora_of: Person | None = None) -> Path:
    models = {} if lora_of is None else {"lora": {"name": "lora", "sha256": "0" * 64, "identity_id": lora_of.id}}
    record = RenderRecord(
        kind="three_pass", seed=5, passes={}, models=models, identity=person.name, identity_id=person.id,
        consent=person.consent, drift=0.1, detected=True, recogniser="sface", report_drift=None,
        report_recogniser=None, locked=True,
    )  # fmt: skip
    return RenderLog(folder).write(PICTURE, name, record)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def saved_by_comfyui(path: Path, photo: str) -> Path:
    """A picture as SaveImage writes it: with the graph that made it, and nothing of ours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    graph = {"1": {"class_type": "LoadImage", "inputs": {"image": photo}}, "2": {"inputs": {"images": ["1", 0]}}}
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", json.dumps(graph))
    Image.fromarray(PICTURE).save(path, pnginfo=info)
    return path


def test_files_are_noted_before_they_are_written_and_once(tmp_path):
    picture = rendered(tmp_path / "out", GRACE, "one")
    rendered(tmp_path / "out", GRACE, "one")
    made = [(entry.kind, entry.path) for entry in the(GRACE).made]
    out = tmp_path / "out"
    assert made == [(index.FOLDER, out), ("render", picture), (index.LINE, out / "renders.jsonl")]


def test_a_file_cannot_be_made_where_the_index_cannot_be_kept(tmp_path, monkeypatch):
    written(tmp_path / "file")
    monkeypatch.setenv(index.HOME_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(OutputError, match="IDENTITY_LOCK_HOME"):
        rendered(tmp_path / "out", GRACE, "one")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_line_of_the_index_that_fits_only_in_part_is_no_line(tmp_path):
    """A process may write no file longer than this: the system writes what fits, and says how much that was."""
    resource = pytest.importorskip("resource", reason="limits of a process are POSIX's")
    index.made(GRACE.id, "render", tmp_path / "first.png")
    size = index.index_file(GRACE.id).stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, before[1]))
    try:
        with pytest.raises(OutputError, match="free some space"):
            index.made(GRACE.id, "render", tmp_path / "second.png")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert index.index_file(GRACE.id).stat().st_size == size + 10
    index.made(GRACE.id, "render", tmp_path / "second.png")
    (entry,) = the_people(GRACE.id)
    assert [made.path.name for made in entry.made] == ["first.png", "second.png"] and len(entry.damaged) == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits")
def test_the_index_is_readable_by_its_owner_alone(a_home):
    assert (a_home / "made").stat().st_mode & 0o077 == 0
    assert index.index_file(GRACE.id).stat().st_mode & 0o077 == 0


def test_one_person_goes_and_the_other_stays(tmp_path):
    hers, other = rendered(tmp_path / "out", GRACE, "grace"), rendered(tmp_path / "out", ADA, "ada")
    done = forget(the(GRACE))
    assert done.complete and not hers.exists() and other.exists()
    assert [line["file"] for line in lines(tmp_path / "out" / "renders.jsonl")] == ["ada.png"]
    assert index.find("Grace") == [] and not index.index_file(GRACE.id).exists()
    assert [entry.names for entry in index.people()] == [("Ada",)]
    assert f"render      {hers}" in done.text() and str(other) not in done.text()


def test_the_last_person_of_a_log_takes_it_along(tmp_path):
    rendered(tmp_path / "out", GRACE, "grace")
    forget(the(GRACE))
    assert not (tmp_path / "out").exists()


def test_a_rehearsal_touches_nothing(tmp_path):
    picture = rendered(tmp_path / "out", GRACE, "grace")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = forget(the(GRACE), rehearsal=True)
    assert ("render", picture) in done.removed and "would be removed" in done.text()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_crops_are_found_by_the_photo_they_show(tmp_path):
    crop = written(tmp_path / "crop.png")
    index.made(index.PHOTO_PREFIX + GRACE.photos[0], "crop", crop)
    assert forget(the(GRACE)).removed == (("crop", crop),)
    assert not index.index_file(index.PHOTO_PREFIX + GRACE.photos[0]).exists()


def test_what_a_kill_left_half_written_goes_too(tmp_path):
    path = tmp_path / "lora.safetensors"
    index.made(GRACE.id, "lora", path)
    half = written(tmp_path / ".lora.safetensors.4711.tmp")
    assert forget(the(GRACE)).removed == (("lora", half),)


def test_folders_go_only_when_they_are_empty(tmp_path):
    for name in ("empty", "used"):
        index.made(GRACE.id, index.FOLDER, tmp_path / name)
        index.made(GRACE.id, "report", written(tmp_path / name / "training.json"))
    kept = written(tmp_path / "used" / "notes.txt", "mine")
    forget(the(GRACE))
    assert not (tmp_path / "empty").exists() and kept.read_text() == "mine"


def test_a_link_goes_and_not_what_it_leads_to(tmp_path):
    target = written(tmp_path / "elsewhere" / "photo.jpg")
    (tmp_path / "input.jpg").symlink_to(target)
    index.made(GRACE.id, "input", tmp_path / "input.jpg")
    forget(the(GRACE))
    assert target.exists() and not (tmp_path / "input.jpg").is_symlink()


def test_a_file_of_two_identities_goes_with_the_last_of_them(tmp_path):
    shared = written(tmp_path / "both.jpg")
    index.made(GRACE.id, "input", shared)
    index.made(ADA.id, "input", shared)
    done = forget(the(GRACE))
    assert shared.exists() and done.shared == ((shared, ADA.id),) and f"forget {ADA.id}" in done.text()
    assert forget(the(ADA)).removed == (("input", shared),) and not shared.exists()


def test_what_cannot_be_removed_is_told_and_stays_in_the_index(tmp_path, monkeypatch):
    picture = rendered(tmp_path / "out", GRACE, "grace")
    with monkeypatch.context() as patch:

        def refuse(path: Path, missing_ok: bool = False) -> None:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

        patch.setattr(Path, "unlink", refuse)  # for root may remove anything
        done = forget(the(GRACE))
    assert not done.complete and f"{picture}: Permission denied" in done.text() and the(GRACE).made
    assert forget(the(GRACE)).complete and not picture.exists()


@pytest.mark.parametrize("moved", [False, True], ids=["where it was", "moved"])
def test_a_render_with_somebodys_lora_goes_with_them_whoever_it_was_measured_against(tmp_path, moved):
    picture = rendered(tmp_path / "out", ADA, "with graces lora", lora_of=GRACE)
    other = rendered(tmp_path / "out", ADA, "ada")
    if moved:
        picture = picture.rename(tmp_path / picture.name)
    forget(the(GRACE), [tmp_path] if moved else [])
    assert not picture.exists() and other.exists()
    assert [line["file"] for line in lines(tmp_path / "out" / "renders.jsonl")] == ["ada.png"]


def test_a_report_that_shows_several_goes_with_each_of_them(tmp_path):
    report = written(tmp_path / "report.html")
    for person in (GRACE, ADA):
        index.made(person.id, "report", report, together=True)
    assert forget(the(GRACE)).complete and not report.exists()
    assert forget(the(ADA)).gone == (report,)


def test_files_that_were_moved_are_found_by_what_they_say(tmp_path):
    hers, other = rendered(tmp_path / "out", GRACE, "grace"), rendered(tmp_path / "out", ADA, "ada")
    kept = tmp_path / "archive"
    kept.mkdir()
    moved = [path.rename(kept / path.name) for path in (hers, other, tmp_path / "out" / "renders.jsonl")]
    done = forget(the(GRACE), [kept])
    assert ("picture", moved[0]) in done.removed and hers in done.gone
    assert not moved[0].exists() and moved[1].exists() and [line["file"] for line in lines(moved[2])] == ["ada.png"]


def test_a_lora_that_was_moved_is_found_by_its_header(tmp_path):
    import torch

    from identity_lock.engines.lora_file import DOWN, UP, LoraWeights, write_lora

    tensors = {f"x{DOWN}": torch.zeros(2, 4), f"x{UP}": torch.zeros(4, 2)}
    metadata = {"format": "identity-lock-lora/1", "identity": GRACE.name, "identity_id": GRACE.id}
    path = write_lora(LoraWeights("grace", tensors, metadata), tmp_path / "lora.safetensors")
    (tmp_path / "archive").mkdir()
    moved = path.rename(tmp_path / "archive" / "kept.safetensors")
    assert forget(the(GRACE), [tmp_path / "archive"]).removed == (("lora", moved),) and not moved.exists()


@pytest.mark.parametrize("told", ["\ud800", "../../x", 5, ["a"], "A" * 16])
def test_what_is_no_id_is_nobodys(tmp_path, told):
    """A file of a stranger may say anything."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt("identity_lock", json.dumps({"identity_id": told, "models": {"lora": {"identity_id": told}}}))
    Image.fromarray(PICTURE).save(tmp_path / "a.png", pnginfo=info)
    assert people_in(tmp_path / "a.png") == set()


def test_pictures_of_other_nodes_are_found_by_the_photo_in_their_graph(tmp_path):
    output = tmp_path / "output"
    hers = saved_by_comfyui(output / "ComfyUI_00001_.png", "sub/grace.jpg [input]")
    other = saved_by_comfyui(output / "ComfyUI_00002_.png", "ada.jpg")
    index.made(GRACE.id, "input", written(tmp_path / "input" / "sub" / "grace.jpg"))
    index.made(GRACE.id, index.PLACE, output)
    assert ("picture", hers) in forget(the(GRACE)).removed
    assert not hers.exists() and other.exists()


def test_a_damaged_line_is_told_and_the_rest_goes(tmp_path):
    picture = rendered(tmp_path / "out", GRACE, "grace")
    damage = (b'{"kind": "lora", "path": "\xff', b'{"kind": "render", "path": "relative.png"}', b'{"kind": "lora", "p')
    with open(index.index_file(GRACE.id), "ab") as file:
        file.write(b"\n".join(damage))
    later = written(tmp_path / "later.png")
    index.made(GRACE.id, "render", later)
    done = forget(the(GRACE))
    assert not picture.exists() and not later.exists()
    assert [why.startswith("this line of the index is damaged") for _, why in done.kept] == [True, True, True]


def test_who_is_meant_must_be_plain(tmp_path):
    twin = Person(index.person_id(["ef" * 8]), "Grace", "She agreed to these as well.", ("ef" * 8,))
    index.introduce(twin)
    with pytest.raises(UnknownPerson, match=f"2 identities are called 'Grace'.*{twin.id}"):
        the_people("Grace")
    assert {entry.id for entry in the_people("Grace", every=True)} == {GRACE.id, twin.id}
    assert [entry.id for entry in the_people(twin.id)] == [twin.id]
    with pytest.raises(UnknownPerson, match="Nobody called 'Mary'.*it knows .*Ada"):
        the_people("Mary")
    with pytest.raises(UnknownPerson, match="no identity file"):
        the_people(str(written(tmp_path / "photo.jpg")))


def test_a_key_cannot_lead_out_of_the_index():
    for key in ("../../etc/passwd", "a" * 15, "photo-../x", "A" * 16):
        with pytest.raises(OutputError, match="no id of a person"):
            index.made(key, "render", Path("x.png"))


def test_the_command_takes_an_identity_file_and_lists_what_went(tmp_path, capsys, meters):
    from identity_lock.identity import build_identity, read_photo, save_identity
    from identity_lock.tests.fixtures.tiny_engine import CONSENT, HOPPER

    identity = build_identity([read_photo(HOPPER)], name="Hopper", consent=CONSENT)
    file = save_identity(identity, tmp_path / "identity.safetensors")
    moved = file.rename(tmp_path / "moved.safetensors")
    picture = rendered(tmp_path / "out", identity.person, "hopper")
    assert cli.main(["forget", str(moved), "--dry-run"]) == 0 and picture.exists()
    assert cli.main(["forget", str(moved)]) == 0
    told = capsys.readouterr().out
    assert "Hopper" in told and str(moved) in told and str(picture) in told and str(file) in told
    assert not moved.exists() and not picture.exists() and HOPPER.exists()
    assert cli.main(["forget", "Hopper"]) == 1
    assert "Nobody called 'Hopper'" in capsys.readouterr().err
