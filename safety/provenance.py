"""What a written picture says about itself: that it is synthetic, and how it was made.

Each PNG carries an XMP packet with the IPTC digital source type (https://cv.iptc.org/newscodes/digitalsourcetype/),
which viewers and archives read, and the render record as JSON in a text chunk, which `read_record` gives back.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape, unescape

import numpy as np
from PIL import Image, PngImagePlugin

from ..errors import OutputError, PhotoError
from .atomic import replacing
from .pictures import decoding, open_picture
from .untrusted import FileRefused, parse_json

if TYPE_CHECKING:
    from .c2pa_signing import Signer

RECORD_KEY = "identity_lock"
PERSON_KEY = "identity_lock_person"
"""The id of whom a picture without a record shows, such as a contact sheet."""
XMP_KEY = "XML:com.adobe.xmp"
SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
GENERATED = SOURCE_TYPES + "trainedAlgorithmicMedia"
COMPOSITE = SOURCE_TYPES + "compositeWithTrainedAlgorithmicMedia"
MIXED = SOURCE_TYPES + "composite"
DATA = SOURCE_TYPES + "dataDrivenMedia"
NOTICE = "Synthetic image made with Identity Lock from photos of a consenting person. No evidence of who somebody is."
CHART = "Chart of numbers that Identity Lock measured."

_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/">
   <Iptc4xmpExt:DigitalSourceType>{source_type}</Iptc4xmpExt:DigitalSourceType>
   <xmp:CreatorTool>Identity Lock</xmp:CreatorTool>
   <dc:description><rdf:Alt><rdf:li xml:lang="x-default">{notice}</rdf:li></rdf:Alt></dc:description>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""


class NoRecordError(PhotoError):
    """A PNG without a render record."""


def xmp_packet(source_type: str, notice: str = NOTICE) -> str:
    """What other programs read: the IPTC digital source type (its full address) and a sentence."""
    return _XMP.format(source_type=source_type, notice=escape(notice))


def png_text(record: Mapping[str, Any] | None, *, composite: bool) -> dict[str, str]:
    """The text chunks of an output PNG by keyword: the XMP packet and, where there is one, the record as JSON.

    `composite` says that pixels of another picture were blended in (the rescue blend); otherwise the picture is
    generated throughout. Raises OutputError for a record that JSON cannot hold.
    """
    chunks = {XMP_KEY: xmp_packet(COMPOSITE if composite else GENERATED)}
    if record is not None:
        try:
            chunks[RECORD_KEY] = json.dumps(dict(record), ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise OutputError(
                f"The render record cannot be written as JSON: {error}. Give plain numbers and text."
            ) from error
    return chunks


def write_png(
    pixels: np.ndarray,
    path: str | Path,
    record: Mapping[str, Any] | None = None,
    *,
    composite: bool,
    text: Mapping[str, str] | None = None,
    signer: Signer | None = None,
    keep: bool = False,
) -> None:
    """Write uint8 RGB (H, W, 3) with its provenance to `path`; whole or not at all. text: more chunks, by keyword.
    signer: signs it first, so that nothing unsigned is ever found under that name. keep: raise NameTaken rather than
    write over a file.

    A missing folder is made; a full disk or a kill leaves the old file or none. Raises OutputError where the folder
    cannot be written, the disk is full, or the picture cannot be signed.
    """
    path = Path(path)
    png = encode_png(pixels, {**(text or {}), **png_text(record, composite=composite)})
    if signer is not None:
        png = signer.sign(png, path.name, COMPOSITE if composite else GENERATED)
    with replacing(path, keep=keep) as temporary:
        temporary.write_bytes(png)


def encode_png(pixels: np.ndarray, text: Mapping[str, str]) -> bytes:
    """uint8 RGB (H, W, 3) as a PNG with text chunks by keyword. Raises OutputError for any other array."""
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        kind = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise OutputError(f"Only uint8 RGB pictures (H, W, 3) are written; got {kind}.")
    stream = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.save(stream, format="PNG", pnginfo=png_info(text))
    return stream.getvalue()


def read_png(path: str | Path) -> np.ndarray:
    """The pixels of a PNG, uint8 RGB (H, W, 3). Raises PhotoError where it is gone, damaged or of another kind."""
    try:
        with open_picture(path, ("PNG",)) as picture, decoding():
            return np.asarray(picture.convert("RGB"))
    except FileRefused as error:
        raise PhotoError(f"{path} cannot be read as a picture: {error}. Make it again.") from error


def png_info(text: Mapping[str, str]) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    for keyword, value in text.items():
        info.add_itxt(keyword, value)
    return info


def chart_info() -> PngImagePlugin.PngInfo:
    """For a plot: it is made of data, shows no face, and says so."""
    return png_info({XMP_KEY: xmp_packet(DATA, CHART)})


def read_record(path: str | Path) -> dict[str, Any]:
    """The render record that `write_png` put into the PNG at `path`.

    Raises PhotoError where the file cannot be read, is no PNG, or carries no record (editors and messengers strip it).
    """
    chunks = _read_text(path)
    if RECORD_KEY not in chunks:
        raise NoRecordError(
            f"{path} carries no Identity Lock record. "
            "It was not written by this pack, or another program stripped its text."
        )
    try:
        record = parse_json(chunks[RECORD_KEY], finite=False)
    except ValueError as error:
        raise PhotoError(f"The Identity Lock record in {path} is damaged: {error}. Use the render log.") from error
    if not isinstance(record, dict):
        raise PhotoError(f"The Identity Lock record in {path} is damaged: no JSON object. Use the render log.")
    return record


@dataclass(frozen=True)
class Label:
    """What other programs read in a picture, "" or None where it is not there. source_type: the IPTC one, its full
    address. creator: the program that made it. notice: the sentence beside it."""

    source_type: str | None
    creator: str
    notice: str


def read_label(path: str | Path) -> Label:
    """Of the PNG at `path`, from its XMP; failing that, the creator from the text that other programs write.

    Raises PhotoError where the file cannot be read or is no PNG.
    """
    chunks = _read_text(path)
    xmp = chunks.get(XMP_KEY, "")
    creator = _between(xmp, "<xmp:CreatorTool>", "</xmp:CreatorTool>") or chunks.get("Software", "")
    if not creator and ("workflow" in chunks or "prompt" in chunks):
        creator = "ComfyUI"
    notice = _between(xmp, '<rdf:li xml:lang="x-default">', "</rdf:li>")
    source_type = _between(xmp, "DigitalSourceType>", "</Iptc4xmpExt:DigitalSourceType>")
    return Label(source_type or None, creator, unescape(notice))


def read_source_type(path: str | Path) -> str | None:
    """The IPTC digital source type that the PNG at `path` states, as its full address; None if it states none."""
    return read_label(path).source_type


def _between(text: str, start: str, end: str) -> str:
    _, _, rest = text.partition(start)
    found, closed, _ = rest.partition(end)
    return found.strip() if closed else ""


def _read_text(path: str | Path) -> dict[str, str]:
    if not os.path.exists(path):
        raise PhotoError(f"{path} does not exist. Give the path of a PNG.")
    try:
        with open_picture(path) as picture:
            if picture.format != "PNG":
                raise PhotoError(f"{path} is no PNG, and only PNG files carry an Identity Lock record.")
            with decoding():
                picture.load()  # text may follow the pixels
                found = getattr(picture, "text", {})
    except FileRefused as error:
        raise PhotoError(f"{path} cannot be read as a picture: {error}. Give the path of a PNG.") from error
    return {str(key): str(value) for key, value in found.items()}
