"""Whatever kind of file a user drops in becomes an upright RGB picture, or one sentence that says what to do."""

from __future__ import annotations

import io
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from identity_lock.errors import PhotoError
from identity_lock.identity import find_faces, photo_from_array, read_photo


@pytest.fixture
def picture(hopper) -> Image.Image:
    return Image.fromarray(hopper.pixels)


def has_the_face(detector, hopper, photo) -> bool:
    expected = find_faces(detector, hopper.pixels)[0]
    found = find_faces(detector, photo.pixels)
    return bool(found) and np.abs(found[0].landmarks - expected.landmarks).max() < 8


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header promises width x height and which holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100))


def test_a_jpeg_keeps_its_size_and_name(hopper):
    assert hopper.name == "grace_hopper.jpg"
    assert hopper.pixels.dtype == np.uint8
    assert hopper.pixels.shape == (600, 512, 3)
    assert hopper.pixels.flags.c_contiguous
    assert hopper.warnings == ()


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "LA", "RGBA"])
def test_colour_modes_show_the_same_face(tmp_path, picture, hopper, detector, mode):
    path = tmp_path / f"photo.{'tiff' if mode == 'CMYK' else 'png'}"
    picture.convert(mode).save(path)
    photo = read_photo(path)
    assert photo.pixels.shape == hopper.pixels.shape
    assert has_the_face(detector, hopper, photo)


def test_a_cmyk_jpeg_is_not_a_negative(tmp_path, picture, hopper):
    picture.convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    photo = read_photo(tmp_path / "print.jpg")
    assert np.abs(photo.pixels.astype(int) - hopper.pixels).mean() < 6


def test_transparency_becomes_mid_grey(tmp_path, picture):
    alpha = Image.new("L", picture.size, 255)
    alpha.paste(0, (0, 0, 100, 100))
    picture.putalpha(alpha)
    picture.save(tmp_path / "cut-out.png")
    photo = read_photo(tmp_path / "cut-out.png")
    assert (photo.pixels[:100, :100] == 127).all()
    assert (photo.pixels[100:, 100:] == np.asarray(picture)[100:, 100:, :3]).all()


def test_sixteen_bit_greyscale_keeps_its_brightness(tmp_path, picture):
    grey = np.asarray(picture.convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    photo = read_photo(tmp_path / "deep.png")
    assert (photo.pixels == grey[:, :, None]).all()


def test_sixteen_bit_colour_keeps_its_brightness(tmp_path, hopper):
    import cv2

    cv2.imwrite(str(tmp_path / "deep.png"), hopper.pixels[:, :, ::-1].astype(np.uint16) * 257)
    assert np.abs(read_photo(tmp_path / "deep.png").pixels.astype(int) - hopper.pixels).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_gives_the_upright_picture(tmp_path, picture, hopper, orientation):
    # what a camera held that way stores: the inverse of what a viewer must do
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    turned = picture.transpose(stored[orientation]) if orientation in stored else picture
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned.save(tmp_path / "camera.png", exif=exif)
    assert (read_photo(tmp_path / "camera.png").pixels == hopper.pixels).all()


def test_an_exif_rotated_jpeg_is_the_same_person_as_the_upright_one(tmp_path, picture, hopper, detector, sface):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "phone.jpg", exif=exif, quality=95)
    photo = read_photo(tmp_path / "phone.jpg")
    vectors = [sface.embed(p.pixels, find_faces(detector, p.pixels)[0]) for p in (hopper, photo)]
    assert float(vectors[0] @ vectors[1]) > 0.97


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "tiff"])
def test_of_an_animation_the_first_frame_is_taken_with_a_warning(tmp_path, picture, hopper, detector, kind):
    black = Image.new("RGB", picture.size)
    picture.save(tmp_path / f"clip.{kind}", save_all=True, append_images=[black, black])
    photo = read_photo(tmp_path / f"clip.{kind}")
    assert has_the_face(detector, hopper, photo)
    assert len(photo.warnings) == 1
    assert f"clip.{kind}" in photo.warnings[0] and "first" in photo.warnings[0]


def test_a_broken_colour_profile_does_not_lose_the_picture(tmp_path, picture, hopper):
    picture.save(tmp_path / "odd.png", icc_profile=b"no profile at all")
    assert (read_photo(tmp_path / "odd.png").pixels == hopper.pixels).all()


def test_a_large_picture_is_reduced_to_4096(tmp_path):
    Image.new("RGB", (6000, 600), (200, 100, 50)).save(tmp_path / "wide.jpg")
    photo = read_photo(tmp_path / "wide.jpg")
    assert (photo.width, photo.height) == (4096, 410)
    assert np.abs(photo.pixels.astype(int) - [200, 100, 50]).max() < 4


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (20_000, 100), (16_000, 16_000)])
def test_a_giant_is_refused_from_its_header(tmp_path, width, height):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_claiming(width, height))
    start = time.perf_counter()
    with pytest.raises(PhotoError, match=r"bomb\.png: .*(megapixels|16384)") as caught:
        read_photo(path)
    assert time.perf_counter() - start < 2.0
    assert "reduce" in str(caught.value)


@pytest.mark.parametrize("size", [(1, 1), (63, 500), (500, 63)])
def test_a_tiny_picture_is_refused(tmp_path, size):
    Image.new("RGB", size).save(tmp_path / "dot.png")
    with pytest.raises(PhotoError, match=rf"dot\.png: .*{size[0]} x {size[1]}.*64"):
        read_photo(tmp_path / "dot.png")


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_a_truncated_file_is_refused(tmp_path, picture, kind):
    whole = io.BytesIO()
    picture.save(whole, {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[kind])
    path = tmp_path / f"half.{kind}"
    path.write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    with pytest.raises(PhotoError, match=rf"half\.{kind}: .*cut short.*again"):
        read_photo(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.jpg", b""),
        ("notes.jpg", b"these are my notes, not a picture"),
        ("script.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\nshowpage\n"),
        ("head.png", b"\x89PNG\r\n\x1a\n"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PhotoError, match=f"^{name}: "):
        read_photo(tmp_path / name)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "gone.jpg", tmp_path):
        with pytest.raises(PhotoError, match="no such picture"):
            read_photo(path)


def test_arrays_of_each_kind_give_the_same_picture(hopper):
    pixels = hopper.pixels
    opaque = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    for array in (
        pixels,
        pixels / 255.0,
        pixels.astype(np.float32)[None] / 255,
        pixels.astype(np.uint16) * 257,
        opaque,
    ):
        assert (photo_from_array(array, "x").pixels == pixels).all()


@pytest.mark.parametrize("shape", [(80, 90), (80, 90, 1)])
def test_a_grey_array_becomes_three_channels(shape):
    photo = photo_from_array(np.full(shape, 0.5, np.float32), "x")
    assert photo.pixels.shape == (80, 90, 3)
    assert (photo.pixels == 128).all()


def test_a_transparent_array_is_flattened_over_mid_grey():
    array = np.ones((80, 80, 4), np.float32)
    array[:40, :, 3] = 0.0
    pixels = photo_from_array(array, "x").pixels
    assert (pixels[:40] == 127).all() and (pixels[40:] == 255).all()


@pytest.mark.parametrize(
    ("array", "word"),
    [
        (np.zeros((80, 80, 2)), "channels"),
        (np.zeros((2, 80, 80, 3)), "channels"),
        (np.full((80, 80, 3), np.nan), "NaN"),
        (np.full((80, 80, 3), 200.0), "divide"),
        (np.zeros((80, 80, 3), np.int64), "int64"),
        (np.zeros((10, 80, 3)), "64"),
        (np.zeros((65, 20_000, 3), np.uint8), "16384"),
    ],
)
def test_an_array_that_is_no_picture_is_refused(array, word):
    with pytest.raises(PhotoError, match=f"portrait: .*{word}"):
        photo_from_array(array, "portrait")
