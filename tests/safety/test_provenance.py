from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from identity_lock.errors import OutputError, PhotoError
from identity_lock.safety import provenance

RECORD = {"prompt": 'Zoë at a window, <soft> & "warm"', "seed": 1187891159, "drift": 0.1621, "passes": [1, 2, 3]}
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("composite", "kind"), [(False, "trainedAlgorithmicMedia"), (True, "compositeWithTrainedAlgorithmicMedia")]
)
def test_a_written_picture_says_what_it_is_and_how_it_was_made(tmp_path: Path, composite: bool, kind: str) -> None:
    path = tmp_path / "a portrait.png"
    provenance.write_png(PIXELS, path, RECORD, composite=composite)
    assert np.array_equal(np.array(Image.open(path)), PIXELS)
    assert provenance.read_record(path) == RECORD
    assert provenance.read_source_type(path) == f"http://cv.iptc.org/newscodes/digitalsourcetype/{kind}"
    assert [p.name for p in tmp_path.iterdir()] == ["a portrait.png"]


def test_the_xmp_is_what_other_programs_read(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    provenance.write_png(PIXELS, path, RECORD, composite=False)
    with Image.open(path) as picture:
        xmp = picture.info["xmp"]
    text = xmp.decode() if isinstance(xmp, bytes) else xmp
    root = ET.fromstring(text[text.index("<x:xmpmeta") : text.index("</x:xmpmeta>") + len("</x:xmpmeta>")])
    found = [e.text for e in root.iter("{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType")]
    assert found == [provenance.GENERATED]


def test_a_picture_without_a_record_still_says_that_it_is_synthetic(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    provenance.write_png(PIXELS, path, None, composite=True)
    assert provenance.read_source_type(path) == provenance.COMPOSITE
    with pytest.raises(PhotoError, match="carries no Identity Lock record"):
        provenance.read_record(path)


def test_a_long_record_survives(tmp_path: Path) -> None:
    record = {"prompt": "é" * 50_000, "seeds": list(range(20_000))}
    path = tmp_path / "x.png"
    provenance.write_png(PIXELS, path, record, composite=False)
    assert provenance.read_record(path) == record


def test_pictures_from_elsewhere_are_told_apart(tmp_path: Path) -> None:
    plain, jpeg, text, damaged = (tmp_path / name for name in ("plain.png", "x.jpg", "x.txt", "damaged.png"))
    Image.fromarray(PIXELS).save(plain)
    Image.fromarray(PIXELS).save(jpeg)
    text.write_text("no picture")
    provenance.write_png(PIXELS, damaged, RECORD, composite=False)
    damaged.write_bytes(damaged.read_bytes()[:200])
    for path, sentence in (
        (plain, "carries no Identity Lock record"),
        (jpeg, "is no PNG"),
        (text, "cannot be read as a picture"),
        (damaged, "cannot be read as a picture|carries no Identity Lock record"),
        (tmp_path / "missing.png", "does not exist"),
    ):
        with pytest.raises(PhotoError, match=sentence):
            provenance.read_record(path)
    assert provenance.read_source_type(plain) is None


@pytest.mark.parametrize("content", ["{broken", "[1, 2]"])
def test_a_damaged_record_is_named(tmp_path: Path, content: str) -> None:
    from PIL import PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add_itxt(provenance.RECORD_KEY, content)
    Image.fromarray(PIXELS).save(tmp_path / "x.png", pnginfo=info)
    with pytest.raises(PhotoError, match="is damaged"):
        provenance.read_record(tmp_path / "x.png")


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    provenance.write_png(PIXELS, tmp_path / "new" / "deep" / "x.png", RECORD, composite=False)
    assert provenance.read_record(tmp_path / "new" / "deep" / "x.png") == RECORD


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "file" / "x.png", tmp_path / "folder.png"):
        with pytest.raises(OutputError, match=path.name):
            provenance.write_png(PIXELS, path, RECORD, composite=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.png"]


def test_a_disk_that_takes_no_more_leaves_the_old_picture_whole(tmp_path: Path) -> None:
    """Real disks that are full: tests/faults/test_disk.py."""
    resource = pytest.importorskip("resource", reason="this system has no limit on the size of a file to set")
    path = tmp_path / "x.png"
    provenance.write_png(PIXELS, path, RECORD, composite=False)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(OutputError, match=r"x\.png \(File too large\); free some space"):
            provenance.write_png(PIXELS, path, RECORD, composite=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]


def test_pixels_and_records_of_the_wrong_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    for pixels in (PIXELS.astype(np.float32), PIXELS[..., 0], "x"):
        with pytest.raises(OutputError, match="uint8 RGB"):
            provenance.write_png(pixels, path, None, composite=False)  # type: ignore[arg-type]
    for record in ({"drift": float("nan")}, {"picture": object()}):
        with pytest.raises(OutputError, match="JSON"):
            provenance.write_png(PIXELS, path, record, composite=False)
    assert not path.exists()
    assert json.loads(provenance.png_text(RECORD, composite=False)[provenance.RECORD_KEY]) == RECORD
