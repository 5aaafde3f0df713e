"""Pictures are known by their headers before they are decoded, and one that asks for much work is refused."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from identity_lock.errors import PhotoError
from identity_lock.identity.photo import read_photo
from identity_lock.safety import pictures
from identity_lock.safety.pictures import TooLarge, decoding, open_picture
from identity_lock.safety.provenance import read_png
from identity_lock.safety.untrusted import FileRefused

RGB = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 70, 3), dtype=np.uint8))


def saved(path: Path, picture: Image.Image = RGB, **options: object) -> Path:
    picture.save(path, **options)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp", "gif", "ppm"])
def test_raster_pictures_are_opened(tmp_path: Path, suffix):
    with open_picture(saved(tmp_path / f"a.{suffix}")) as picture:
        assert picture.size == RGB.size


def test_a_kind_that_was_not_asked_for_is_refused_whatever_its_name(tmp_path: Path):
    for kind in ("EPS", "PCX", "ICO"):
        out = io.BytesIO()
        RGB.resize((64, 64)).save(out, kind)
        (tmp_path / "a.png").write_bytes(out.getvalue())
        with pytest.raises(FileRefused, match="no picture that can be read"), open_picture(tmp_path / "a.png"):
            pass
    with pytest.raises(FileRefused), open_picture(saved(tmp_path / "a.jpg"), ("PNG",)):
        pass


def test_scans_without_end_are_refused_before_one_is_decoded(tmp_path: Path):
    path = saved(tmp_path / "a.jpg", progressive=True)
    whole = path.read_bytes()
    last = whole[whole.rindex(b"\xff\xda") : -2]
    path.write_bytes(whole[:-2] + last * 30 + whole[-2:])
    assert read_photo(path).width == 70
    path.write_bytes(whole[:-2] + last * 50 + whole[-2:])
    with pytest.raises(PhotoError, match=r"a\.jpg: it is made of too many pieces; export"):
        read_photo(path)


def test_reading_gives_up_where_a_file_is_made_of_very_many_pieces(tmp_path: Path, monkeypatch):
    path = saved(tmp_path / "a.png")
    whole = path.read_bytes()
    chunk = b"\0\0\0\0teSt" + zlib.crc32(b"teSt").to_bytes(4, "big")
    path.write_bytes(whole[:33] + chunk * 1000 + whole[33:])
    monkeypatch.setattr(pictures, "MAX_READS", 500)
    with pytest.raises(FileRefused, match="too many pieces"), open_picture(path):
        pass


def test_a_format_that_takes_more_memory_may_have_fewer_pixels(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_PIXELS_OF", {"WEBP": 5000})
    with pytest.raises(TooLarge, match="70 x 80 px, above the limit of 16384 px a side"), open_picture(
        saved(tmp_path / "a.webp")
    ):
        pass
    with pytest.raises(PhotoError, match=r"a\.webp: it has 70 x 80 px.*reduce it"):
        read_photo(tmp_path / "a.webp")
    with open_picture(saved(tmp_path / "a.png")):
        pass


def test_whatever_a_decoder_raises_is_a_refusal():
    for error in (ValueError("x"), IndexError(), SyntaxError("y"), MemoryError(), OverflowError()):
        with pytest.raises(FileRefused, match="damaged or cut short|not enough memory"), decoding():
            raise error


@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_orientation_is_turned_as_viewers_do(tmp_path: Path, orientation):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    for name, options in (("a.png", {}), ("a.tif", {"compression": "tiff_lzw"})):
        path = saved(tmp_path / name, exif=exif, **options)
        with Image.open(path) as stored:
            expected = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
        assert np.array_equal(read_photo(path).pixels, expected)


@pytest.mark.parametrize("kind", ["I;16", "F"])
def test_deep_pictures_come_out_the_same_in_strips_as_at_once(tmp_path: Path, kind):
    ramp = np.linspace(0, 1, 1100 * 70).reshape(1100, 70)
    deep = (ramp * 65535).astype(np.uint16) if kind == "I;16" else ramp.astype(np.float32)
    path = saved(tmp_path / "a.tif", Image.fromarray(deep))
    expected = np.rint(deep.astype(np.float64) * (255 / 65535 if kind == "I;16" else 255)).astype(np.uint8)
    assert np.array_equal(read_photo(path).pixels[:, :, 0], expected)


def test_pixels_of_our_own_pictures_are_read_as_they_are(tmp_path: Path):
    assert np.array_equal(read_png(saved(tmp_path / "a.png")), np.asarray(RGB))
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:-100])
    for name in ("cut.png", "gone.png"):
        with pytest.raises(PhotoError, match=f"{name} cannot be read as a picture"):
            read_png(tmp_path / name)
    with pytest.raises(PhotoError, match="cannot be read as a picture"):
        read_png(saved(tmp_path / "a.jpg"))
