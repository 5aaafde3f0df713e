"""Reading a photograph into NumPy, whatever kind of file it is.

Everything leaves here as uint8 RGB (H, W, 3), upright, in sRGB, at most 4096 px on a side. What cannot be used is a
PhotoError of one sentence that names the file and says what to do.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import PhotoError
from ..safety.pictures import TooLarge, decoding, open_picture, require_size
from ..safety.untrusted import FileRefused

MIN_SIDE = 64  # px: less than this cannot hold a face that a recogniser could use
MAX_PROFILE = 4 << 20  # bytes of a colour profile; a larger one is left out
MAX_EXIF = 1 << 16  # bytes: what a JPEG has room for
WORKING_SIDE = 4096  # px, larger pictures are reduced to this
MID_GREY = 127  # what shows through transparent pixels: neutral for recognisers and for the background fill alike

_ROWS = 512  # deep pictures are turned into 8 bits in strips of so many rows
# EXIF orientation -> what turns the stored picture into the one to be seen.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, eq=False)
class Photo:
    """One photograph: its name for messages, and uint8 RGB pixels (H, W, 3), C-contiguous.

    `warnings` holds sentences about what was decided on reading, such as taking the first frame of an animation.
    """

    name: str
    pixels: np.ndarray
    warnings: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])


def read_photo(path: str | PathLike[str], *, name: str | None = None) -> Photo:
    """Read a picture file.

    Greyscale, palette, CMYK and 16-bit files become 8-bit RGB; an embedded colour profile is converted to sRGB; EXIF
    rotation is applied; transparency is flattened over mid-grey (127). Of an animation or a multi-page file the first
    frame is taken, and `Photo.warnings` says so: people hand in a short clip of a face meaning the face. The size is
    checked from the header before anything is decoded. Raises PhotoError.
    """
    path = Path(path)
    name = name or path.name
    if not os.path.isfile(path):
        raise PhotoError(f"{name}: there is no such picture file; check the path {path}.")
    try:
        with open_picture(path) as image:
            _check_size(name, *image.size)
            with decoding():
                notes = _frame_notes(image, name)
                rgb = _decode(image)
    except TooLarge as error:
        raise _too_large(name, error) from error
    except FileRefused as error:
        raise PhotoError(f"{name}: {error}; {_remedy(str(error))}.") from error
    _check_size(name, *rgb.size)
    return Photo(name, np.ascontiguousarray(rgb), notes)


def photo_from_array(array: np.ndarray, name: str) -> Photo:
    """A Photo from an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); a leading batch axis of one is dropped.

    Float values are [0, 1] (a little over- or undershoot is clipped), or uint8, or uint16. A fourth channel is alpha,
    flattened over mid-grey. Larger pictures are reduced to 4096 px a side. Raises PhotoError.
    """
    array = np.asarray(array)
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    array = _with_channels(array, name)
    _check_size(name, array.shape[1], array.shape[0])
    image = Image.fromarray(pixels_from_array(array, name))
    image.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.LANCZOS)
    return Photo(name, np.ascontiguousarray(image))


def pixels_from_array(array: np.ndarray, name: str) -> np.ndarray:
    """uint8 RGB (H, W, 3) of the array's own size, from what `photo_from_array` takes. Raises PhotoError."""
    channels = _to_uint8(_with_channels(array, name), name)
    if channels.shape[2] == 1:
        channels = np.repeat(channels, 3, axis=2)
    return np.ascontiguousarray(_flatten(Image.fromarray(np.ascontiguousarray(channels))))


def _with_channels(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise PhotoError(
            f"{name}: an array of shape {array.shape} is no picture; give (height, width) with 1, 3 or 4 channels last."
        )
    return array


def _check_size(name: str, width: int, height: int) -> None:
    try:
        require_size(width, height)
    except TooLarge as error:
        raise _too_large(name, error) from error
    if min(width, height) < MIN_SIDE:
        raise PhotoError(
            f"{name}: the picture is only {width} x {height} px; use one of at least {MIN_SIDE} px a side "
            "in which the face is clearly visible."
        )


def _too_large(name: str, error: TooLarge) -> PhotoError:
    return PhotoError(f"{name}: {error}; reduce it or crop it to the person.")


def _remedy(reason: str) -> str:
    if "memory" in reason:
        return "reduce it to 4096 px a side"
    if "permission" in reason.lower():
        return "check the file's permissions"
    return "export or download the picture again, as JPEG, PNG or WebP"


def _frame_notes(image: Image.Image, name: str) -> tuple[str, ...]:
    # Phones write an MPO beside a preview or a depth map: the first picture is the photo. Frames are not counted, which
    # would read the whole file.
    if image.format == "MPO" or not getattr(image, "is_animated", False):
        return ()
    return (f"{name}: has several frames or pages; the first one is used.",)


def _decode(image: Image.Image) -> Image.Image:
    """Upright 8-bit sRGB with no side above WORKING_SIDE. Made small first: few copies are of the whole size."""
    _decode_smaller(image)
    image.load()
    turn = _TURNS.get(_orientation(image))
    profile = image.info.get("icc_profile")
    eight_bit = _eight_bit(image)
    if eight_bit is not image:
        image.close()  # gives its pixels back
    eight_bit.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.LANCZOS)
    upright = eight_bit if turn is None else eight_bit.transpose(turn)
    return _flatten(_to_srgb(upright, profile))


def _decode_smaller(image: Image.Image) -> None:
    """Two formats hold smaller versions of themselves: a half, a quarter, an eighth."""
    if image.format == "JPEG2000":
        halvings = (max(image.size) // WORKING_SIDE).bit_length() - 1
        if halvings > 0:
            image.reduce = halvings  # type: ignore[assignment,method-assign]
    else:
        image.draft(image.mode, (WORKING_SIDE, WORKING_SIDE))  # does something for JPEG only


def _orientation(image: Image.Image) -> int:
    """By EXIF, 1 where nothing is said or the block is broken: that does not make the picture unusable."""
    if len(image.info.get("exif", b"")) > MAX_EXIF:
        return 1
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:
        return 1


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode in ("1", "P", "PA", "LA", "La", "RGBa") or "transparency" in image.info:
        alpha = image.mode not in ("1", "P") or "transparency" in image.info
        return image.convert("RGBA" if alpha else "RGB")
    if image.mode.startswith("I") or image.mode == "F":
        return _scaled(image)
    return image


def _scaled(image: Image.Image) -> Image.Image:
    """8-bit from a deep greyscale image. Integers are 16-bit unless they all fit 8; floats in [0, 1] are the usual."""
    width, height = image.size
    strips = [(0, top, width, min(height, top + _ROWS)) for top in range(0, height, _ROWS)]
    peak = max(float(_finite(image.crop(strip)).max(initial=0.0)) for strip in strips)
    deep = 255.0 / 65535.0 if peak > 255.0 else 1.0
    factor = 255.0 if image.mode == "F" and peak <= 1.0 else deep
    scaled = Image.new("L", image.size)
    for strip in strips:
        values = np.clip(np.rint(_finite(image.crop(strip)) * factor), 0, 255).astype(np.uint8)
        scaled.paste(Image.fromarray(values), strip)
    return scaled


def _finite(image: Image.Image) -> np.ndarray:
    return np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Apply an embedded profile (phones write Display P3, print shops CMYK); where that fails the values are kept."""
    if not profile or len(profile) > MAX_PROFILE or image.mode not in ("RGB", "RGBA", "CMYK"):
        return image
    try:
        import io

        from PIL import ImageCms

        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(source):
            return image
        alpha = image.getchannel("A") if image.mode == "RGBA" else None
        base = image.convert("RGB") if alpha is not None else image
        srgb = ImageCms.profileToProfile(base, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        if srgb is None:
            return image
        if alpha is not None:
            srgb.putalpha(alpha)
        return srgb
    except Exception:  # no LittleCMS, or a profile that does not fit: plain conversion is what viewers fall back to
        return image


def _flatten(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image.convert("RGB")
    backdrop = Image.new("RGBA", image.size, (MID_GREY, MID_GREY, MID_GREY, 255))
    return Image.alpha_composite(backdrop, image).convert("RGB")


def _to_uint8(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return np.rint(array / 257.0).astype(np.uint8)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if not np.issubdtype(array.dtype, np.floating):
        raise PhotoError(f"{name}: pixels of type {array.dtype} are not supported; give floats in [0, 1], or uint8.")
    if not np.isfinite(array).all():
        raise PhotoError(f"{name}: the picture contains NaN or infinite values; check the node that made it.")
    if array.max(initial=0.0) > 1.5 or array.min(initial=0.0) < -0.5:
        raise PhotoError(f"{name}: float pixels must lie in [0, 1]; divide 0 to 255 values by 255 first.")
    return np.rint(np.clip(array, 0.0, 1.0) * 255.0).astype(np.uint8)
