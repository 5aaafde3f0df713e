"""Changes to valid files: blind ones, and ones that know the format, so that they reach beyond its first check."""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from .case import Case

Change = Callable[[bytes, random.Random], bytes]

NUMBERS = (0, 1, -1, 2, 3, 127, 128, 255, 256, 32767, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32,
           2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30, -(2**63), 10**400)  # fmt: skip
ODD = (
    None, True, False, [], {}, "", " ", 0.5, -0.0, 1e308, float("nan"), float("inf"), float("-inf"), "\ud800", "\x00",
    "a\x00b", "\x1b[2J", "../secret.png", "..\\secret.png", "/etc/passwd", "../../../../etc/passwd", "C:\\x", "con.png",
    ".", "..", "x/" * 90, "n" * 300, "ü" * 200, "\u202e.png", [[]], [None], {"": None}, "NaN", "1e999", "9" * 5000,
)  # fmt: skip
MAX_BYTES = 16 << 20


def mutate(case: Case, others: Sequence[Case], rng: random.Random) -> Case:
    """One to four changes to one of the files. others: where splices come from."""
    files = dict(case.files)
    name = rng.choice(sorted(files))
    content = files[name]
    known = changes_for(name, content)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 4))):
        change = rng.choice(known) if known and rng.random() < 0.75 else rng.choice(BLIND)
        content = change(content, rng)
    if rng.random() < 0.04:
        donor = rng.choice(others)
        content = splice(content, donor.files[rng.choice(sorted(donor.files))], rng)
    files[name] = content[:MAX_BYTES]
    if len(files) > 1 and rng.random() < 0.03:
        del files[name]
    return Case(files, case.main)


def changes_for(name: str, content: bytes) -> list[Change]:
    if content.startswith(b"\x89PNG"):
        return [png_chunk, png_chunk, png_text]
    if content.startswith(b"\xff\xd8"):
        return [jpeg_segment]
    if name.endswith(".jsonl"):
        return [json_line, json_line, line_order]
    if name.endswith(".json"):
        return [json_value]
    if name.endswith(".safetensors"):
        return [safetensors_header, safetensors_header, safetensors_metadata, safetensors_length]
    return []


# ---- blind -----------------------------------------------------------------------------------------------------------


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if out:
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def overwrite(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    at = rng.randrange(len(out) + 1)
    some = rng.choice((rng.randbytes(rng.randrange(1, 16)), bytes(rng.randrange(1, 64)), b"\xff" * 8))
    out[at : at + len(some)] = some
    return bytes(out)


def write_number(data: bytes, rng: random.Random) -> bytes:
    """A length or an offset, perhaps: somewhere, in some width and byte order."""
    out = bytearray(data)
    size = rng.choice((1, 2, 4, 8))
    at = rng.choice((rng.randrange(len(out) + 1), rng.randrange(min(len(out), 64) + 1)))
    number = rng.choice(NUMBERS) % (1 << (8 * size))
    out[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))
    return bytes(out)


def cut_off(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.choice((rng.randrange(len(data) + 1), max(0, len(data) - 1)))]


def cut_out(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.choice((1, 4, 12, 100, 1000)) :]


def repeat(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    piece = data[start : start + rng.choice((1, 4, 40, 400))]
    return data[:start] + piece * rng.choice((2, 10, 100)) + data[start:]


def splice(data: bytes, other: bytes, rng: random.Random) -> bytes:
    at, start = rng.randrange(len(data) + 1), rng.randrange(len(other) + 1)
    return data[:at] + other[start : start + rng.randrange(1, 2000)] + data[rng.choice((at, len(data))) :]


BLIND: list[Change] = [flip_bits, overwrite, write_number, cut_off, cut_out, repeat]


# ---- JSON ------------------------------------------------------------------------------------------------------------


def odd_value(rng: random.Random, held: Any = None) -> Any:
    roll = rng.random()
    if roll < 0.3:
        return rng.choice(NUMBERS)
    if roll < 0.75:
        return rng.choice(ODD)
    if roll < 0.85:
        return {"nested": held, "more": [held, held]}
    if roll < 0.95 and isinstance(held, str):
        return held + rng.choice(("x", "\ud800", "\x1b]0;x\x07", "é" * 50, "\n", "/../x"))
    deep: Any = []
    for _ in range(rng.choice((20, 200, 900))):
        deep = [deep] if rng.random() < 0.5 else {"d": deep}
    return deep


def change_value(value: Any, rng: random.Random, depth: int = 0) -> Any:
    """A copy in which one value, somewhere, is another, missing, or there twice."""
    if isinstance(value, dict) and value and (depth == 0 or rng.random() < 0.85):
        out = dict(value)
        key = rng.choice(sorted(out, key=str))
        roll = rng.random()
        if roll < 0.08:
            del out[key]
        elif roll < 0.14:
            out[str(rng.choice(ODD))] = out.pop(key)
        elif roll < 0.18:
            out[str(rng.choice(ODD))] = out[key]
        else:
            out[key] = change_value(out[key], rng, depth + 1)
        return out
    if isinstance(value, list) and value and (depth == 0 or rng.random() < 0.85):
        listed = list(value)
        at = rng.randrange(len(listed))
        roll = rng.random()
        if roll < 0.1:
            del listed[at]
        elif roll < 0.2:
            listed.insert(at, listed[at])
        else:
            listed[at] = change_value(listed[at], rng, depth + 1)
        return listed
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.dumps(change_value(json.loads(value), rng, depth + 1))
        except (ValueError, RecursionError):
            pass
    return odd_value(rng, value)


def json_value(data: bytes, rng: random.Random) -> bytes:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return rng.choice(BLIND)(data, rng)
    return _dumped(change_value(value, rng), rng)


def _dumped(value: Any, rng: random.Random) -> bytes:
    try:
        text = json.dumps(value, ensure_ascii=rng.random() < 0.7)
    except (RecursionError, ValueError):  # a number of too many digits, or nesting
        text = "[" * 2000
    if rng.random() < 0.03 and text.startswith("{"):
        text = text[:1] + text[1:-1] + "," + text[1:]  # every key twice
    return text.encode("utf-8", "surrogatepass")


def json_line(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    lines[at] = json_value(lines[at], rng)
    return b"\n".join(lines)


def line_order(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[first] = rng.choice((lines[second], lines[first] + lines[second], b"", b"[]", b"null", b"{}"))
    return b"\n".join(lines)


# ---- safetensors -----------------------------------------------------------------------------------------------------


def safetensors_header(data: bytes, rng: random.Random) -> bytes:
    """The header changed as JSON, its length made right again."""
    end = 8 + int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8:end])
    except (ValueError, RecursionError, OverflowError):
        return rng.choice(BLIND)(data, rng)
    return _with_header(_dumped(change_value(header, rng), rng), data[end:])


def safetensors_metadata(data: bytes, rng: random.Random) -> bytes:
    """JSON that the metadata holds as text is changed inside."""
    end = 8 + int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8:end])
        header["__metadata__"] = change_value(header["__metadata__"], rng)
    except (ValueError, RecursionError, OverflowError, KeyError, TypeError):
        return safetensors_header(data, rng)
    return _with_header(_dumped(header, rng), data[end:])


def safetensors_length(data: bytes, rng: random.Random) -> bytes:
    size = int.from_bytes(data[:8], "little")
    number = rng.choice((*NUMBERS, size - 1, size + 1, len(data), len(data) - 8)) % (1 << 64)
    return number.to_bytes(8, "little") + data[8:]


def _with_header(text: bytes, rest: bytes) -> bytes:
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + rest


# ---- pictures --------------------------------------------------------------------------------------------------------


def chunks_of(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


def png_of(chunks: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Chunks with the right length and the right checksum."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, body in chunks:
        parts.append(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)))
    return b"".join(parts)


def png_chunk(data: bytes, rng: random.Random) -> bytes:
    chunks = chunks_of(data)
    if not chunks:
        return rng.choice(BLIND)(data, rng)
    at = rng.randrange(len(chunks))
    kind, body = chunks[at]
    roll = rng.random()
    if roll < 0.55:
        chunks[at] = (kind, rng.choice(BLIND)(body, rng))
    elif roll < 0.65:
        chunks.insert(at, chunks[at])
    elif roll < 0.75:
        del chunks[at]
    elif roll < 0.85:
        kinds = (b"iCCP", b"eXIf", b"tRNS", b"PLTE", b"acTL", b"fcTL", b"fdAT", b"zTXt", b"iTXt", b"IDAT", b"IEND")
        chunks[at] = (rng.choice(kinds), body)
    else:
        rng.shuffle(chunks)
    return png_of(chunks)


def png_text(data: bytes, rng: random.Random) -> bytes:
    """Text added or changed: long, compressed, with lying keywords, or with a changed record inside."""
    chunks = chunks_of(data)
    records = [at for at, (kind, body) in enumerate(chunks) if kind == b"iTXt" and body.startswith(b"identity_lock\0")]
    if records and rng.random() < 0.6:
        head, _, text = chunks[records[0]][1].partition(b"\0\0\0\0\0")
        chunks[records[0]] = (b"iTXt", head + b"\0\0\0\0\0" + json_value(text, rng))
        return png_of(chunks)
    size = rng.choice((0, 1, 1000, 1 << 20, 3 << 20))
    packed = zlib.compress(b"{" * size)
    body = rng.choice(
        (
            (b"zTXt", b"identity_lock\0\0" + packed),
            (b"iTXt", b"identity_lock\0\1\0\0\0" + packed),
            (b"iTXt", b"identity_lock\0\0\0\0\0" + b"[" * min(size, 100_000)),
            (b"tEXt", b"k" * 79 + b"\0" + b"x" * min(size, 100_000)),
            (b"iCCP", b"p\0\0" + packed),
            (b"eXIf", b"II*\0\x08\0\0\0\xff\xff" + rng.randbytes(min(size, 10_000))),
        )
    )
    chunks[1:1] = [body] * rng.choice((1, 1, 20))
    return png_of(chunks)


def jpeg_segment(data: bytes, rng: random.Random) -> bytes:
    """One of the segments before the picture's data is changed, repeated or dropped, its length kept right."""
    segments, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        segments.append((data[at + 1], data[at + 4 : at + 2 + size]))
        at += 2 + size
    if not segments:
        return rng.choice(BLIND)(data, rng)
    which = rng.randrange(len(segments))
    marker, body = segments[which]
    roll = rng.random()
    if roll < 0.6:
        segments[which] = (marker, rng.choice(BLIND)(body, rng)[:65533])
    elif roll < 0.7:
        segments.insert(which, (marker, body))
    elif roll < 0.8:
        del segments[which]
    else:
        some = rng.choice((b"Exif\0\0II*\0\x08\0\0\0" + rng.randbytes(200), b"ICC_PROFILE\0\1\1" + rng.randbytes(200)))
        segments.insert(which, (0xE1 if some[:1] == b"E" else 0xE2, some))
    head = b"".join(bytes((0xFF, kind)) + (len(body) + 2).to_bytes(2, "big") + body for kind, body in segments)
    return data[:2] + head + data[at:]
