"""Reading a photograph into NumPy, whatever kind of file it is.

Everything leaves here as uint8 RGB (H, W, 3), upright, in sRGB, at most 4096 px on a side. What cannot be used is a
PhotoError of one sentence that names the file and says what to do.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..errors import PhotoError

MIN_SIDE = 64  # px: less than this cannot hold a face that a recogniser could use
MAX_SIDE = 16384  # px, refused above
MAX_PIXELS = 100_000_000  # refused above
WORKING_SIDE = 4096  # px, larger pictures are reduced to this
MID_GREY = 127  # what shows through transparent pixels: neutral for recognisers and for the background fill alike

# Raster formats only: Pillow would hand an EPS file to Ghostscript.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF")


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
    if not path.is_file():
        raise PhotoError(f"{name}: there is no such picture file; check the path {path}.")
    try:
        empty = path.stat().st_size == 0
    except OSError as error:
        raise PhotoError(f"{name}: cannot be read ({error.strerror}); check the file's permissions.") from error
    if empty:
        raise PhotoError(f"{name}: the file is empty; export or download the picture again.")
    with _open_header(path, name) as image:
        _check_size(name, *image.size)
        notes = _frame_notes(image, name)
        try:
            rgb = _decode(image)
        except MemoryError as error:
            raise PhotoError(f"{name}: not enough memory to decode it; reduce it to 4096 px a side.") from error
        except Exception as error:  # damaged files make decoders raise nearly anything
            raise PhotoError(
                f"{name}: the file is damaged or cut short ({error}); export or download the picture again."
            ) from error
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


def _open_header(path: Path, name: str) -> Image.Image:
    Image.init()
    formats = [known for known in _FORMATS if known in Image.OPEN]
    try:
        with warnings.catch_warnings():
            # Pillow warns from 89 million pixels on; the limit here is checked by _check_size.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(path, formats=formats)
    except Image.DecompressionBombError as error:
        raise _too_large(name, "far more than 100 megapixels") from error
    except PermissionError as error:
        raise PhotoError(f"{name}: cannot be read; check the file's permissions.") from error
    except Exception as error:  # unidentified, or a header so broken that the decoder raised something of its own
        raise PhotoError(
            f"{name}: this is no picture that can be read, or it is cut short; save it again as JPEG, PNG or WebP."
        ) from error


def _check_size(name: str, width: int, height: int) -> None:
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise _too_large(name, f"{width} x {height} px")
    if min(width, height) < MIN_SIDE:
        raise PhotoError(
            f"{name}: the picture is only {width} x {height} px; use one of at least {MIN_SIDE} px a side "
            "in which the face is clearly visible."
        )


def _too_large(name: str, size: str) -> PhotoError:
    return PhotoError(
        f"{name}: the picture has {size}, above the limit of {MAX_SIDE} px a side and "
        f"{MAX_PIXELS // 1_000_000} megapixels; reduce it or crop it to the person."
    )


def _frame_notes(image: Image.Image, name: str) -> tuple[str, ...]:
    if image.format == "MPO":  # what phones write beside a preview or a depth map: the first picture is the photo
        return ()
    try:
        frames = int(getattr(image, "n_frames", 1))
    except Exception:  # counting frames reads on into a file that may be damaged; decoding will say so
        frames = 1
    if frames <= 1:
        return ()
    return (f"{name}: has {frames} frames or pages; the first one is used.",)


def _decode(image: Image.Image) -> Image.Image:
    """Upright 8-bit sRGB with no side above WORKING_SIDE."""
    image.draft(image.mode, (WORKING_SIDE, WORKING_SIDE))  # JPEG only: decodes at 1/2, 1/4 or 1/8 where that suffices
    image.load()
    upright = _upright(image)
    profile = image.info.get("icc_profile")
    eight_bit = _eight_bit(upright)
    eight_bit.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.LANCZOS)
    return _flatten(_to_srgb(eight_bit, profile))


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block does not make the picture unusable
        return image


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode in ("1", "P", "PA", "LA", "La", "RGBa") or "transparency" in image.info:
        alpha = image.mode not in ("1", "P") or "transparency" in image.info
        return image.convert("RGBA" if alpha else "RGB")
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
        return Image.fromarray(_scaled(values, is_float=image.mode == "F"))
    return image


def _scaled(values: np.ndarray, *, is_float: bool) -> np.ndarray:
    """uint8 from a deep greyscale image. Integers are 16-bit unless they all fit 8; floats in [0, 1] are the usual."""
    peak = float(values.max(initial=0.0))
    deep = 255.0 / 65535.0 if peak > 255.0 else 1.0
    factor = 255.0 if is_float and peak <= 1.0 else deep
    return np.clip(np.rint(values * factor), 0, 255).astype(np.uint8)


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Apply an embedded profile (phones write Display P3, print shops CMYK); where that fails the values are kept."""
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK"):
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
