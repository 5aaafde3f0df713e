"""Opening a picture file: its kind and its size are known and within bounds before anything is decoded.

Pillow reads more kinds of files than photographs come in, and its readers follow a file as far as it goes. Here only
raster formats are opened (an EPS file would be handed to Ghostscript), and a small file that asks for much work is
refused: too many pixels, too many pieces, a JPEG of hundreds of scans.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from .untrusted import FileRefused, open_regular

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF")
MAX_SIDE = 16384  # px
MAX_PIXELS = 100_000_000
# libwebp keeps two frames beside the copies that Pillow makes: 19 bytes a pixel.
MAX_PIXELS_OF = {"WEBP": 50_000_000}
MAX_BYTES = 1 << 30
MAX_READS = 1_000_000  # by Pillow's own loops over chunks, blocks and segments; some 3 seconds
MAX_SCANS = 50  # of a JPEG: each is a pass over all pixels, and encoders write about ten
MAX_EXIF = 32  # blocks of a JPEG: Pillow joins them, one by one


class TooLarge(FileRefused):
    """size: what it has, as a message says it: "20000 x 80 px"."""

    def __init__(self, size: str, limit: int = MAX_PIXELS) -> None:
        super().__init__(f"it has {size}, above the limit of {MAX_SIDE} px a side and {limit // 10**6} megapixels")
        self.size, self.limit = size, limit


@contextmanager
def open_picture(path: str | os.PathLike[str], formats: Sequence[str] = FORMATS) -> Iterator[Image.Image]:
    """The picture at `path`, of one of `formats`, its pixels not decoded yet.

    Raises FileRefused for what is no such picture, TooLarge by the size that its header states. Decoding may still
    raise nearly anything: use `decoding` around it.
    """
    from PIL import Image

    Image.init()
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise FileRefused("it is empty")
        if size > MAX_BYTES:
            raise FileRefused(f"it is larger than {MAX_BYTES >> 20} MiB")
        _refuse_laborious_jpeg(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damaged metadata, and from 89 million pixels on
            try:
                known = [one for one in formats if one in Image.OPEN]
                image = Image.open(cast(Any, _Counted(file, 4 * size + (64 << 20))), formats=known)
            except Image.DecompressionBombError as error:
                raise TooLarge("far more pixels") from error
            except FileRefused:
                raise
            except Exception as error:  # unidentified, or a header so broken that a plugin raised something of its own
                raise FileRefused("it is no picture that can be read, or it is cut short") from error
            with image:
                require_size(*image.size, kind=image.format or "")
                yield image


@contextmanager
def decoding() -> Iterator[None]:
    """Around what decodes pixels, or reads on in the file: damaged files make decoders raise nearly anything. Raises
    FileRefused."""
    try:
        yield
    except FileRefused:
        raise
    except MemoryError as error:
        raise FileRefused("there is not enough memory to decode it") from error
    except Exception as error:
        raise FileRefused(f"it is damaged or cut short ({str(error)[:200] or type(error).__name__})") from error


def require_size(width: int, height: int, *, kind: str = "") -> None:
    """kind: the format's name. Raises TooLarge."""
    limit = MAX_PIXELS_OF.get(kind, MAX_PIXELS)
    if max(width, height) > MAX_SIDE or width * height > limit:
        raise TooLarge(f"{width} x {height} px", limit)


def _refuse_laborious_jpeg(file: BinaryIO) -> None:
    if file.read(2) == b"\xff\xd8":
        # In a JPEG's data no other byte than 0 follows 0xFF, so that these are markers, or lie in its metadata.
        scans = exif = 0
        tail = b""
        while piece := file.read(1 << 20):
            joined = tail + piece
            scans += joined.count(b"\xff\xda") - tail.count(b"\xff\xda")
            exif += joined.count(b"Exif\0\0") - tail.count(b"Exif\0\0")
            tail = joined[-5:]
        if scans > MAX_SCANS or exif > MAX_EXIF:
            raise FileRefused("it is made of too many pieces")
    file.seek(0)


class _Counted:
    """A file that gives up when it is asked too often, or for many times what it holds."""

    def __init__(self, file: BinaryIO, budget: int) -> None:
        self._file, self._budget, self._reads = file, budget, MAX_READS
        self.seek, self.tell, self.fileno = file.seek, file.tell, file.fileno
        self.flush, self.close = file.flush, file.close

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        self._count(len(content))
        return content

    def readline(self, size: int = -1) -> bytes:
        line = self._file.readline(size)
        self._count(len(line))
        return line

    def _count(self, size: int) -> None:
        self._reads -= 1
        self._budget -= size
        if self._reads < 0 or self._budget < 0:
            raise FileRefused("it is made of too many pieces")
