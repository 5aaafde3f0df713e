"""Files that a person with bad intentions would write, by target: what blind changes to valid files do not reach.

Each is a function that fills a folder and returns the path for the target. Bombs are written as such: small where they
lie, or with holes.
"""

from __future__ import annotations

import functools
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from identity_lock.comfy_client.lock import LOCK_NAME
from identity_lock.engines import demo_base
from identity_lock.engines.checkpoints import UNET_PREFIX
from identity_lock.engines.lora_file import DOWN, UP
from identity_lock.safety.pictures import MAX_PIXELS_OF

from . import corpus, hostile_server
from .case import Case
from .mutators import chunks_of, png_of

Prepare = Callable[[Path], Path]
_EXIF = b"\xff\xe1\xff\xffExif\0\0" + bytes(65527)
_RECORD = b"identity_lock\0\0\0\0\0"
DEEP = b"[" * 100_000
DIGITS = b"9" * 10_000


def files() -> Iterator[tuple[str, str, Prepare]]:
    """(target, what it is, how to make it)."""
    from .targets import TARGETS

    for target in TARGETS.values():
        for what, prepare in _no_files(target.seeds()[0]):
            yield target.name, what, prepare
    for name, contents in _contents().items():
        for target, file, what, content in contents:
            yield target, f"{name}: {what}", _content(file, content)
    for target, what, prepare in (*_pictures(), *_tensors(), *_journals(), *_folders(), *_servers(), *_prompts()):
        yield target, what, prepare


def _content(file: str, content: bytes | Callable[[], bytes]) -> Prepare:
    def prepare(folder: Path) -> Path:
        return Case.single(file, content if isinstance(content, bytes) else content()).write(folder)

    return prepare


# ---- what is no file -------------------------------------------------------------------------------------------------


def _no_files(seed: Case) -> Iterator[tuple[str, Prepare]]:
    """Everything that can be in a file's place."""

    def instead(make: Callable[[Path], object]) -> Prepare:
        def prepare(folder: Path) -> Path:
            path = seed.write(folder)
            if seed.main:
                path.unlink()
            else:
                path = next(p for p in (folder / "model_index.json", folder / "history.json") if p.exists())
                path.unlink()
            make(path)
            return folder / seed.main

        return prepare

    yield "nothing", instead(lambda path: None)
    yield "empty", instead(Path.touch)
    yield "a folder", instead(Path.mkdir)
    yield "a pipe", instead(os.mkfifo)
    yield "a device without end", instead(lambda path: path.symlink_to("/dev/zero"))
    yield "a link to itself", instead(lambda path: path.symlink_to(path))
    yield "a link to nowhere", instead(lambda path: path.symlink_to(path.parent / "nowhere"))
    yield "a file with a hole of 1 TiB", instead(lambda path: (path.touch(), os.truncate(path, 1 << 40)))
    if seed.main:
        yield "a name with a zero byte", lambda folder: folder / "a\0b.png"
        yield "a name with half a character", lambda folder: folder / "a\ud800b.png"
        yield "a name that is too long", lambda folder: folder / ("n" * 5000)


# ---- text ------------------------------------------------------------------------------------------------------------


def _contents() -> dict[str, list[tuple[str, str, str, bytes | Callable[[], bytes]]]]:
    """The same bad JSON wherever JSON is read: (target, file, what, content)."""
    bad = {
        "nested deeply": DEEP,
        "a number of 10,000 digits": DIGITS,
        "keys twice": b'{"a": 1, "a": 2}',
        "half a character": b'{"a": "\\ud800"}',
        "not UTF-8": b'{"a": "\xff"}',
        "NaN": b'{"a": NaN}',
        "a list": b"[]",
        "null": b"null",
        "4 MiB of empty lists": b"[" + b"[]," * (4 << 20) + b"[]]",
    }
    found: dict[str, list[tuple[str, str, str, bytes | Callable[[], bytes]]]] = {}
    for what, content in bad.items():
        head = seeds_of("seed journal", "seeds.jsonl").split(b"\n")[0]
        metadata = {"identity": content.decode("latin-1")}
        found[what] = [
            ("workflow", "graph.json", "whole", content),
            ("workflow", "graph.json", "a node", b'{"1": ' + content + b"}"),
            ("workflow", "graph.json", "a value",
             b'{"1": {"class_type": "A", "inputs": {"x": ' + content + b"}}}"),
            ("list of values", "values.txt", "whole", content),
            ("seed journal", "seeds.jsonl", "first line", content + b"\n"),
            ("seed journal", "seeds.jsonl", "second line", head + b"\n" + content + b"\n"),
            ("render log", "renders.jsonl", "a line", content + b"\n"),
            ("queue journal", "queue.jsonl", "a line", content + b"\n"),
            ("queue lock", LOCK_NAME, "whole", content),
            ("index", f"home/made/{corpus.PERSON}.jsonl", "a line", content + b"\n"),
            ("identity", "i.safetensors", "header", _header_bytes(content)),
            ("identity", "i.safetensors", "metadata", lambda m=metadata: safetensors({}, metadata=m)),
            ("owner of a file", "i.safetensors", "metadata", lambda m=metadata: safetensors({}, metadata=m)),
            ("lora", "l.safetensors", "header", _header_bytes(content)),
            ("training checkpoint", "training.safetensors", "header", _header_bytes(content)),
            ("checkpoint file", "c.safetensors", "header", _header_bytes(content)),
            ("demo base", "d.safetensors", "header", _header_bytes(content)),
            ("provenance", "a.png", "the record", lambda c=content: _with_text(b"iTXt", _RECORD + c)),
        ]  # fmt: skip
    return found


def seeds_of(target: str, file: str) -> bytes:
    from .targets import TARGETS

    return TARGETS[target].seeds()[0].files[file]


# ---- safetensors -----------------------------------------------------------------------------------------------------


def _header_bytes(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


def safetensors(
    tensors: dict[str, tuple[str, list[Any], list[Any]]], data: bytes = b"", metadata: Any = None
) -> bytes:
    """Any header, true or not. tensors: name -> (dtype, shape, offsets)."""
    header: dict[str, Any] = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        for name, (dtype, shape, offsets) in tensors.items()
    }
    if metadata is not None:
        header["__metadata__"] = metadata
    return _header_bytes(json.dumps(header).encode()) + data


def _tensors() -> Iterator[tuple[str, str, Prepare]]:
    pair = {"a" + DOWN: ("F32", [2, 3], [0, 24]), "a" + UP: ("F32", [3, 2], [24, 48])}
    lies: dict[str, bytes] = {
        "a header of 2^63 bytes": (1 << 63).to_bytes(8, "little") + b"{}",
        "a header of 2^64-1 bytes": b"\xff" * 8 + b"{}",
        "a header of 99 MiB": _header_bytes(b"{" + b" " * (99 << 20) + b"}"),
        "a header of 7 MiB of empty lists": _header_bytes(b'{"a":[' + b"[]," * (7 << 18) + b"[]]}"),
        "200,000 tensors": safetensors({f"a{n}": ("U8", [0], [0, 0]) for n in range(200_000)}),
        "tensors that overlap": safetensors(pair | {"a" + UP: ("F32", [3, 2], [0, 24])}, bytes(24)),
        "a gap": safetensors(pair | {"a" + UP: ("F32", [3, 2], [32, 56])}, bytes(56)),
        "offsets behind the end": safetensors(pair, bytes(40)),
        "offsets that run backwards": safetensors(pair | {"a" + DOWN: ("F32", [2, 3], [24, 0])}, bytes(48)),
        "a shape that overflows": safetensors(pair | {"a" + DOWN: ("F32", [1 << 32, 1 << 32], [0, 24])}, bytes(48)),
        "a shape that overflows to the right size": safetensors({"a": ("U8", [1 << 63, 2], [0, 0])}),
        "an empty tensor of a huge shape": safetensors({"a" + DOWN: ("F32", [0, 1 << 62], [0, 0])}),
        "negative numbers": safetensors(pair | {"a" + DOWN: ("F32", [-2, -3], [0, 24])}, bytes(48)),
        "truth in place of numbers": safetensors({"a": ("U8", [True], [False, True])}, bytes(1)),
        "fractions": safetensors({"a": ("U8", [1.0], [0.0, 1.0])}, bytes(1)),
        "1,000 axes": safetensors({"a": ("U8", [1] * 1000, [0, 1])}, bytes(1)),
        "an unknown type": safetensors({"a": ("Q4", [2], [0, 1])}, bytes(1)),
        "a type that numpy lacks": safetensors({"embedding.a": ("BF16", [2], [0, 4])}, bytes(4)),
        "fp8": safetensors({"a": ("F8_E4M3", [2], [0, 2])}, bytes(2)),
        "half bytes": safetensors({"a": ("F4", [3], [0, 2])}, bytes(2)),
        "metadata that is no text": safetensors(pair, bytes(48), {"format": 5}),
        "metadata that is a list": safetensors(pair, bytes(48), []),
        "a pickle": b"\x80\x04\x95" + bytes(100),
        "a pickle in a zip": b"PK\x03\x04" + bytes(100),
        "a rank of nought": safetensors({"a" + DOWN: ("F32", [0, 3], [0, 0]), "a" + UP: ("F32", [3, 0], [0, 0])}),
        "a LoRA of numbers": safetensors({"a" + DOWN: ("F32", [], [0, 4]), "a" + UP: ("F32", [], [4, 8])}, bytes(8)),
    }
    for target, file in (
        ("identity", "i.safetensors"),
        ("lora", "l.safetensors"),
        ("training checkpoint", "training.safetensors"),
        ("checkpoint file", "c.safetensors"),
        ("demo base", "d.safetensors"),
        ("owner of a file", "i.safetensors"),
    ):
        for what, content in lies.items():
            yield target, what, _content(file, content)
        yield target, "8 TiB of tensors in a file of holes", functools.partial(_holes, file, 8 << 40)
    yield "identity", "1 GiB of tensors in a file of holes", functools.partial(_holes, "i.safetensors", 1 << 30)
    words = ["w"] * (3 << 19)
    told = {"format": demo_base.FORMAT, "vocabulary": json.dumps(words)}
    yield "demo base", "a vocabulary of 1.5 million words", _content("d.safetensors", safetensors({}, metadata=told))
    blocks = {
        UNET_PREFIX + "input_blocks.0.0.weight": ("F16", [0, 4, 3, 3], [0, 0]),
        UNET_PREFIX + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": ("F16", [0, 768], [0, 0]),
        "cond_stage_model.transformer.x": ("F16", [0], [0, 0]),
        "first_stage_model.x": ("F16", [0], [0, 0]),
    }
    many = {f"{UNET_PREFIX}input_blocks.{n}.0.out_layers.3.weight": ("F16", [64, 0], [0, 0]) for n in range(9000)}
    deep = {
        f"{UNET_PREFIX}input_blocks.1.1.transformer_blocks.{n}.x": ("F16", [0], [0, 0]) for n in range(9000)
    } | {f"{UNET_PREFIX}input_blocks.1.0.out_layers.3.weight": ("F16", [64, 0], [0, 0])}
    yield "checkpoint file", "a UNet of 9,000 blocks", _content("c.safetensors", safetensors(blocks | many))
    yield "checkpoint file", "9,000 transformers", _content("c.safetensors", safetensors(blocks | deep))
    flat = {UNET_PREFIX + "input_blocks.0.0.weight": ("F16", [], [0, 2])}
    yield "checkpoint file", "a first layer without axes", _content("c.safetensors", safetensors(flat, bytes(2)))


def _with_metadata(file: bytes, metadata: dict[str, str]) -> bytes:
    end = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:end]) | {"__metadata__": metadata}
    return _header_bytes(json.dumps(header).encode()) + file[end:]


def _holes(file: str, size: int, folder: Path) -> Path:
    """True to its header, and next to nothing on the disk."""
    half = size // 2
    tensors = {"a" + DOWN: ("F32", [8, half // 32], [0, half]), "a" + UP: ("F32", [half // 32, 8], [half, size])}
    path = folder / file
    path.write_bytes(safetensors(tensors))
    os.truncate(path, path.stat().st_size + size)
    return path


# ---- pictures --------------------------------------------------------------------------------------------------------


def png(width: int, height: int, bits: int, colour: int, data: bytes, *more: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return png_of([(b"IHDR", header), *more, (b"IDAT", data), (b"IEND", b"")])


def zeros(size: int) -> bytes:
    """`size` bytes of nought, deflated, without ever holding them."""
    packer, piece = zlib.compressobj(1), bytes(1 << 20)
    packed = [packer.compress(piece) for _ in range(size >> 20)]
    return b"".join([*packed, packer.compress(bytes(size & ((1 << 20) - 1))), packer.flush()])


def _with_text(kind: bytes, body: bytes, times: int = 1) -> bytes:
    """A PNG with another chunk, or very many of it, before its pixels."""
    chunks = chunks_of(seeds_of("provenance", "a.png"))
    rest = [(k, b) for k, b in chunks if not b.startswith(b"identity_lock\0")]
    before, after = len(png_of(rest[:1])), len(png_of([]))
    return png_of(rest[:1]) + png_of([(kind, body)])[after:] * times + png_of(rest)[before:]


def _pictures() -> Iterator[tuple[str, str, Prepare]]:
    small = zlib.compress(bytes(72 * (1 + 72 * 3)))
    packed = zlib.compress(b"[" * (64 << 20))
    exif = b"II*\0\x08\0\0\0" + struct.pack("<H", 65535) + b"".join(
        struct.pack("<HHII", tag, 7, 60_000, 8) for tag in range(65535)
    )  # fmt: skip
    bombs: dict[str, bytes | Callable[[], bytes]] = {
        "60,000 x 60,000": png(60_000, 60_000, 8, 2, small),
        "2^31 x 2^31": png((1 << 31) - 1, (1 << 31) - 1, 8, 2, small),
        "pixels that unpack for ever": png(72, 72, 8, 2, zeros(1 << 30)),
        "zTXt that unpacks to 64 MiB": lambda: _with_text(b"zTXt", b"identity_lock\0\0" + packed),
        "iTXt that unpacks to 64 MiB": lambda: _with_text(b"iTXt", b"identity_lock\0\1\0\0\0" + packed),
        "1,000 zTXt of 1 MiB": lambda: _with_text(b"zTXt", b"k\0\0" + zlib.compress(bytes(1 << 20)), 1000),
        "iCCP that unpacks to 64 MiB": lambda: _with_text(b"iCCP", b"p\0\0" + packed),
        "a million chunks": lambda: _with_text(b"teSt", b"", 1_000_000),
        "a million texts": lambda: _with_text(b"tEXt", b"k\0", 1_000_000),
        "EXIF of 65,535 entries": lambda: _with_text(b"eXIf", exif),
        "an XMP packet without end": lambda: _with_text(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"<a>" * 300_000),
    }
    for target in ("photo", "provenance"):
        for what, content in bombs.items():
            yield target, what, _content("a.png", content)
    for target in ("upload", "owner of a file"):  # which decode nothing
        for what in ("60,000 x 60,000", "a million chunks", "zTXt that unpacks to 64 MiB"):
            yield target, what, _content("a.png", bombs[what])
    others: dict[str, tuple[str, Callable[[], bytes]]] = {
        "a JPEG of 2,000 scans": ("a.jpg", _many_scans),
        "a JPEG of 5,000 EXIF blocks": ("a.jpg", lambda: _with_segments(_EXIF, 5000)),
        "a JPEG of 5 million empty segments": ("a.jpg", lambda: _with_segments(b"\xff\xec\0\2", 5_000_000)),
        "a GIF of 3 million frames": ("a.gif", lambda: _gif(b",\0\0\0\0\1\0\1\0\0\2\2\x44\1\0" * 3_000_000)),
        "a GIF of 10 million extensions": ("a.gif", lambda: _gif(b"!\xfe\0" * 10_000_000)),
        "a TIFF of 30,000 pages": ("a.tif", _many_pages),
        "a TIFF that is its own next page": ("a.tif", functools.partial(_many_pages, 1, circular=True)),
        "PostScript": ("a.png", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n(/tmp/x) run\n"),
        "a drawing": ("a.png", lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///x"/></svg>'),
        "a PPM of comments": ("a.ppm", lambda: b"P6\n" + b"#\n" * 5_000_000 + b"72 72 255\n"),
        "a PPM of spaces": ("a.ppm", lambda: b"P3\n" + b" " * 10_000_000),
    }
    for what, (file, make) in others.items():
        yield "photo", what, _content(file, make)
    yield "upload", "a JPEG of 2,000 scans", _content("a.jpg", _many_scans)
    for what, file, make_picture in _allowed():
        yield "photo", f"100 megapixels: {what}", _content(file, make_picture)
    yield "provenance", "100 megapixels", _content("a.png", lambda: png(12_500, 8_000, 8, 2, zeros(8_000 * 37_501)))
    for line in ("/etc/passwd", "../../../etc/passwd", "~nobody-of-that-name/x.png", "\0", "~" * 5000, "/dev/zero"):
        yield "list of pictures", repr(line[:40]), _content("photos.txt", line.encode() + b"\n")
    yield "list of pictures", "a million lines", _content("photos.txt", b"x.png\n" * 1_000_000)
    yield "list of values", "a million lines", _content("values.txt", b"x\n" * 1_000_000)
    yield "list of values", "a line of 15 MiB", _content("values.txt", b"x" * (15 << 20))
    spaces = {"1": {"class_type": "A", "inputs": {"x": "{{" + " " * 1_000_000}}}
    yield "workflow", "a placeholder of spaces", _content("graph.json", json.dumps(spaces).encode())
    loads = {"1": {"class_type": "Load" * 500_000, "inputs": {"image": "x"}}}
    yield "workflow", "a class that is nearly a loader", _content("graph.json", json.dumps(loads).encode())
    node = {"class_type": "A", "inputs": {"x": "{{A: b}}"}, "_meta": {"title": "same"}}
    for count in (50_000, 5000):
        nodes = json.dumps({str(n): node for n in range(count)}).encode()
        yield "workflow", f"{count} nodes", _content("graph.json", nodes)


def _allowed() -> Iterator[tuple[str, str, Callable[[], bytes]]]:
    """The largest pictures that are taken: 12,500 x 8,000, and as much as is taken of a WebP."""
    width, height = 12_500, 8_000
    yield "16-bit grey", "a.png", lambda: png(width, height, 16, 0, zeros(height * (1 + 2 * width)))
    yield "grey with alpha", "a.png", lambda: png(width, height, 8, 4, zeros(height * (1 + 2 * width)))
    yield "RGBA", "a.png", lambda: png(width, height, 8, 6, zeros(height * (1 + 4 * width)))
    clear = (b"tRNS", b"\0\1\0\2\0\3")
    yield "RGB with a clear colour", "a.png", lambda: png(width, height, 8, 2, zeros(height * (1 + 3 * width)), clear)
    side = int(MAX_PIXELS_OF["WEBP"] ** 0.5)
    lossless: dict[str, Any] = dict(lossless=True, quality=0, method=0)
    yield "WebP", "a.webp", lambda: corpus.encoded(Image.new("RGBA", (side, side)), "WEBP", **lossless)
    yield "JPEG", "a.jpg", lambda: corpus.encoded(Image.new("CMYK", (width, height)), "JPEG", progressive=True)
    deep = np.zeros((height, width), np.float32)
    yield "float", "a.tif", lambda: corpus.encoded(Image.fromarray(deep), "TIFF", compression="tiff_lzw")


def _many_scans() -> bytes:
    """A progressive JPEG whose last scan comes again and again: each is a pass over all pixels."""
    whole = corpus.encoded(Image.new("RGB", (10_000, 10_000), (120, 100, 90)), "JPEG", progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * 2000 + whole[-2:]


def _with_segments(segment: bytes, times: int) -> bytes:
    whole = corpus.encoded(corpus.gradient("RGB"), "JPEG")
    return whole[:2] + segment * times + whole[2:]


def _gif(blocks: bytes) -> bytes:
    whole = corpus.encoded(corpus.gradient("P"), "GIF")
    return whole[:-1] + blocks + b";"


def _many_pages(count: int = 30_000, *, circular: bool = False) -> bytes:
    """A valid page whose directory is repeated, each naming the next."""
    whole = bytearray(corpus.encoded(corpus.gradient("L"), "TIFF"))
    first = int.from_bytes(whole[4:8], "little")
    size = 2 + 12 * int.from_bytes(whole[first : first + 2], "little")
    directory = bytes(whole[first : first + size])
    whole[first + size : first + size + 4] = (first if circular else len(whole)).to_bytes(4, "little")
    for number in range(1, 0 if circular else count):
        following = len(whole) + size + 4
        whole += directory + (following if number < count - 1 else 0).to_bytes(4, "little")
    return bytes(whole)


# ---- journals, locks, logs -------------------------------------------------------------------------------------------


def _journals() -> Iterator[tuple[str, str, Prepare]]:
    def outside(folder: Path) -> Path:
        """A file beside the input's folder that nobody may touch."""
        path = folder.parent / "outside"
        path.write_bytes(b"keep me\n")
        return path

    def linked(name: str, folder: Path) -> Path:
        (folder / name).symlink_to(outside(folder))
        return folder / name

    for target, name in (
        ("seed journal", "seeds.jsonl"),
        ("render log", "renders.jsonl"),
        ("queue journal", "queue.jsonl"),
        ("queue lock", LOCK_NAME),
    ):
        yield target, "a link to another file", functools.partial(linked, name)
    queue = seeds_of("queue journal", "queue.jsonl")
    seeds = seeds_of("seed journal", "seeds.jsonl")
    for name in ("../../x", "/etc/passwd", "..", "a/../../b", "C:\\x", "con", "x" * 5000, "a\\u0000b", "", "\\ud800"):
        told = json.dumps(name).replace("\\\\u", "\\u").replace("\\\\ud", "\\ud").encode()
        job = queue.replace(b'"job": "001_a"', b'"job": ' + told)
        assert job != queue
        yield "queue journal", f"a job called {name[:20]!r}", _content("queue.jsonl", job)
        files = queue.replace(b'"001_a/picture.png"', told)
        assert files != queue
        yield "queue journal", f"a file called {name[:20]!r}", _content("queue.jsonl", files)
        picture = seeds.replace(b'"seed_1.png"', told)
        assert picture != seeds
        yield "seed journal", f"a picture called {name[:20]!r}", _content("seeds.jsonl", picture)
    for target, file, content in (("seed journal", "seeds.jsonl", seeds), ("queue journal", "queue.jsonl", queue)):
        first = content.split(b"\n")[0]
        yield target, "a line of 100 MiB", _content(file, first + b"\n" + b"{" + b" " * (100 << 20) + b"}\n")
        yield target, "a line of 100 MiB without an end", _content(file, first + b"\n" + b" " * (100 << 20))
        yield target, "a million empty lines", _content(file, first + b"\n" * 1_000_000)
        yield target, "noughts, as a full disk leaves them", _content(file, first + b"\n" + bytes(4096))


# ---- diffusers folders -----------------------------------------------------------------------------------------------


def _folders() -> Iterator[tuple[str, str, Prepare]]:
    def changed(file: str, **settings: Any) -> Prepare:
        def prepare(folder: Path) -> Path:
            path = corpus.checkpoint_folders()[0].write(folder)
            told = json.loads((folder / file).read_bytes())
            (folder / file).write_text(json.dumps(told | settings))
            return path

        return prepare

    def replaced(file: str, make: Callable[[Path], object], which: int = 0) -> Prepare:
        def prepare(folder: Path) -> Path:
            path = corpus.checkpoint_folders()[which].write(folder)
            (folder / file).unlink(missing_ok=True)
            make(folder / file)
            return path

        return prepare

    unet, text = "unet/config.json", "text_encoder/config.json"
    for file, settings in (
        (unet, {"layers_per_block": 10**9}),
        (unet, {"block_out_channels": [32] * 100_000}),
        (unet, {"transformer_layers_per_block": [10**7, 1]}),
        (unet, {"block_out_channels": [10**9, 10**9]}),
        (unet, {"attention_head_dim": 0}),
        (unet, {"norm_num_groups": 0}),
        (unet, {"act_fn": "__import__('os').system('x')"}),
        (unet, {"_class_name": "../../x", "auto_map": {"AutoModel": "evil.Model"}}),
        (unet, {"addition_embed_type": "text_time"}),
        (text, {"num_hidden_layers": 10**9}),
        (text, {"max_position_embeddings": 10**13}),
        (text, {"vocab_size": 10**13}),
        (text, {"attn_implementation": "kernels-community/flash-attn", "_attn_implementation": "kernels-community/x"}),
        (text, {"auto_map": {"AutoModel": "evil.Model"}, "torch_dtype": "os"}),
        ("vae/config.json", {"layers_per_block": 10**9}),
        ("vae/config.json", {"latent_channels": 0}),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**13}),
        ("scheduler/scheduler_config.json", {"beta_end": 1e308, "trained_betas": [1.0] * 5}),
        ("scheduler/scheduler_config.json", {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 0}),
        ("tokenizer/tokenizer_config.json", {"fast_tokenizer_files": ["../../tokenizer.9.json"]}),
        ("tokenizer/tokenizer_config.json", {"vocab_file": "/etc/passwd", "init_inputs": ["/etc/passwd"]}),
        ("tokenizer/tokenizer_config.json", {"tokenizer_class": "x.Y", "auto_map": {"AutoTokenizer": ["x.Y", None]}}),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 10**30, "pad_token": "x" * 100_000}),
        ("tokenizer/vocab.json", {"a": 10**30}),
    ):
        yield "checkpoint folder", f"{file}: {json.dumps(settings)[:60]}", changed(file, **settings)
    index = "unet/diffusion_pytorch_model.safetensors.index.json"
    told = {"metadata": {}, "weight_map": {"conv_in.weight": "../../../outside.safetensors"}}
    outside = replaced(index, lambda path: path.write_text(json.dumps(told)), which=1)
    yield "checkpoint folder", "an index that names a file elsewhere", outside
    for file in ("unet/diffusion_pytorch_model.bin", "text_encoder/pytorch_model.bin", "unet/evil.py"):
        content = b"\x80\x04cposix\nsystem\n(S'x'\ntR."
        yield "checkpoint folder", f"{file} beside the weights", replaced(file, lambda p, c=content: p.write_bytes(c))
    for file in (unet, "tokenizer/vocab.json", "scheduler/more.json", "unet/diffusion_pytorch_model.safetensors"):
        yield "checkpoint folder", f"{file} is a pipe", replaced(file, os.mkfifo)
        yield "checkpoint folder", f"{file} is a device", replaced(file, lambda path: path.symlink_to("/dev/zero"))


# ---- servers ---------------------------------------------------------------------------------------------------------


def _servers() -> Iterator[tuple[str, str, Prepare]]:
    def saved(*names: Any, **more: Any) -> Case:
        outputs = {"2": {"images": [{"filename": name, "subfolder": "", "type": "output"} | more for name in names]}}
        return hostile_server.script(history={"$PROMPT": {"outputs": outputs, "status": {"completed": True}}})

    for name in (
        "../../x.png", "..", "/etc/cron.d/x", "..\\..\\x.png", "C:\\x.png", "con.png", "a\0b.png", "\ud800.png", "",
        ".", "n" * 250, "ü" * 200, "x/" * 500, "~/x.png", ".bashrc", "a\x1b[2Jb.png", "\u202egnp.exe",
    ):  # fmt: skip
        yield "server", f"a file called {name[:20]!r}", saved(name).write
    yield "server", "50 files of one name", saved(*["a.png", "A.png"] * 25, subfolder="../..").write
    yield "server", "names that fall together", saved("a.png", "a.png", "output__a.png", "3_output__a.png").write
    yield "server", "100,000 files", saved(*(f"../{n}" for n in range(100_000))).write
    for file in ("queue", "history", "prompt", "upload"):
        for what, content in (("nested deeply", DEEP), ("20 MiB", b" " * (20 << 20)), ("no JSON", b"<html>")):
            yield "server", f"{file}: {what}", hostile_server.script(**{file: content}).write
        yield "server", f"{file}: packed", hostile_server.script(
            **{file: zlib.compress(b" " * (200 << 20)), "headers": {f"{file}.json": {"Content-Encoding": "deflate"}}}
        ).write
        away = {f"{file}.json": {"Location": "http://192.0.2.1/"}}
        yield "server", f"{file}: sent elsewhere", hostile_server.script(headers=away).write
    for given in ("../queue", "x\r\nHost: evil", "\ud800", "x" * 10_000, "", None, {"a": 1}):
        yield "server", f"an id of {str(given)[:20]!r}", hostile_server.script(prompt={"prompt_id": given}).write
    odd = [
        {"type": "progress", "data": {"node": "2", "value": 10**400, "max": 5, "prompt_id": "$PROMPT"}},
        {"type": "progress", "data": {"node": "2", "value": float("nan"), "max": float("inf"), "prompt_id": "$PROMPT"}},
        {"type": "progress", "data": {"node": ["2"], "value": 1, "max": 0, "prompt_id": "$PROMPT"}},
        {"type": "progress_state", "data": {"nodes": {"2": {"state": "running"}}, "prompt_id": "$PROMPT"}},
        {"type": "executing", "data": {"node": "\x1b[2J" * 1000, "prompt_id": "$PROMPT"}},
        {"type": ["executing"], "data": {"prompt_id": {"a": 1}}},
        [], None, 5,
    ]  # fmt: skip
    yield "server", "odd messages", hostile_server.script(ws=odd).write
    yield "server", "a message nested deeply", hostile_server.script(ws=DEEP).write
    yield "server", "a message of 30 MiB", hostile_server.script(ws=b" " * (30 << 20)).write

    for person in (corpus.PERSON, "../../x", "\ud800", "x" * 5000, 5, None, [], {"a": 1}):
        told = {"identity_id": person, "models": {"lora": {"identity_id": person}, "base": person}}
        body = b"identity_lock\0\0\0\0\0" + json.dumps(told).encode()
        answers = hostile_server.script(**{"view.bin": _with_text(b"iTXt", body)}).write
        yield "server", f"a picture of the person {str(person)[:20]!r}", answers
        lora = corpus.loras()[0].files["l.safetensors"]
        named = _with_metadata(lora, {"format": "identity-lock-lora/1", "identity_id": json.dumps(person)})
        yield "lora", f"trained on the person {str(person)[:20]!r}", _content("l.safetensors", named)

    def folder_is_a_link(folder: Path) -> Path:
        path = hostile_server.script().write(folder)
        (folder / "out").mkdir()
        (folder.parent / "outside").mkdir()
        (folder / "out" / "001_graph").symlink_to(folder.parent / "outside")
        return path

    yield "server", "the job's folder is a link to elsewhere", folder_is_a_link


# ---- prompts ---------------------------------------------------------------------------------------------------------


def _prompts() -> Iterator[tuple[str, str, Prepare]]:
    """As many readings as a prompt may have, of words that begin much and end nothing."""
    eight = "{a|b}{c|d}{e|f}{g|h}{i|j}{k|l}{m|n}{o|p}"
    texts = {
        "figures apart": eight + "1 2 3 4 /**/ " * 55,
        "letters apart": eight + "a b c d e f /**/ " * 42,
        "capitals inside": eight + "nE aB cD wE! /**/ " * 40,
        "figures apart, at length": eight[:30] + "1 2 3 4 /**/ " * 230,
        "a bracket that is never closed": "(" + "a|" * 4980 + eight[:20],
        "strokes": "(" + "|" * 9970 + eight[:20],
    }
    for what, text in texts.items():
        yield "prompt", what, _content("prompt.txt", text.encode())
