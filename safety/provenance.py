"""What a written picture says about itself: that it is synthetic, and how it was made.

Each PNG carries an XMP packet with the IPTC digital source type (https://cv.iptc.org/newscodes/digitalsourcetype/),
which viewers and archives read, and the render record as JSON in a text chunk, which `read_record` gives back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from ..errors import OutputError, PhotoError
from .atomic import replacing

RECORD_KEY = "identity_lock"
XMP_KEY = "XML:com.adobe.xmp"
SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
GENERATED = SOURCE_TYPES + "trainedAlgorithmicMedia"
COMPOSITE = SOURCE_TYPES + "compositeWithTrainedAlgorithmicMedia"
NOTICE = "Synthetic image made with Identity Lock from photos of a consenting person. No evidence of who somebody is."

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


def png_text(record: Mapping[str, Any] | None, *, composite: bool) -> dict[str, str]:
    """The text chunks of an output PNG by keyword: the XMP packet and, where there is one, the record as JSON.

    `composite` says that pixels of another picture were blended in (the rescue blend); otherwise the picture is
    generated throughout. Raises OutputError for a record that JSON cannot hold.
    """
    source_type = COMPOSITE if composite else GENERATED
    chunks = {XMP_KEY: _XMP.format(source_type=source_type, notice=escape(NOTICE))}
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
) -> None:
    """Write uint8 RGB (H, W, 3) with its provenance to `path`; whole or not at all. text: more chunks, by keyword.

    A missing folder is made; a full disk or a kill leaves the old file or none. Raises OutputError where the folder
    cannot be written or the disk is full.
    """
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        kind = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise OutputError(f"Only uint8 RGB pictures (H, W, 3) are written; got {kind}.")
    path = Path(path)
    info = PngImagePlugin.PngInfo()
    for keyword, value in {**(text or {}), **png_text(record, composite=composite)}.items():
        info.add_itxt(keyword, value)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        picture.save(stream, format="PNG", pnginfo=info)


def read_record(path: str | Path) -> dict[str, Any]:
    """The render record that `write_png` put into the PNG at `path`.

    Raises PhotoError where the file cannot be read, is no PNG, or carries no record (editors and messengers strip it).
    """
    chunks = _read_text(path)
    if RECORD_KEY not in chunks:
        raise PhotoError(
            f"{path} carries no Identity Lock record. "
            "It was not written by this pack, or another program stripped its text."
        )
    try:
        record = json.loads(chunks[RECORD_KEY])
    except json.JSONDecodeError as error:
        raise PhotoError(f"The Identity Lock record in {path} is damaged: {error}. Use the render log.") from error
    if not isinstance(record, dict):
        raise PhotoError(f"The Identity Lock record in {path} is damaged: no JSON object. Use the render log.")
    return record


def read_source_type(path: str | Path) -> str | None:
    """The IPTC digital source type that the PNG at `path` states, as its full address; None if it states none."""
    xmp = _read_text(path).get(XMP_KEY, "")
    start, end = xmp.find("DigitalSourceType>"), xmp.find("</Iptc4xmpExt:DigitalSourceType>")
    return xmp[start + len("DigitalSourceType>") : end].strip() if 0 <= start < end else None


def _read_text(path: str | Path) -> dict[str, str]:
    try:
        with Image.open(path) as picture:
            picture.load()
            found = getattr(picture, "text", None)
    except FileNotFoundError as error:
        raise PhotoError(f"{path} does not exist. Give the path of a PNG.") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise PhotoError(f"{path} cannot be read as a picture: {error}") from error
    if found is None:
        raise PhotoError(f"{path} is no PNG, and only PNG files carry an Identity Lock record.")
    return {str(key): str(value) for key, value in found.items()}
