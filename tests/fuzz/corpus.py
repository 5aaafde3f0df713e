"""Valid small files of every kind, written by the code itself, and a few that a person with bad intentions would write.

Nothing of it is in the repository: it is made when a run starts.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import re
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image, ImageCms
from safetensors.torch import save

from identity_lock.comfy_client.fan_out import fan_out
from identity_lock.comfy_client.graph import Graph
from identity_lock.comfy_client.journal import Journal
from identity_lock.comfy_client.lock import LOCK_NAME
from identity_lock.engines import demo_base
from identity_lock.engines.diffusers import lora_key, open_checkpoint
from identity_lock.engines.lora_file import ALPHA, DOWN, UP, safetensors_bytes
from identity_lock.errors import CheckpointError
from identity_lock.identity.drift import Drift
from identity_lock.identity.identity import Embedding, Identity, PhotoRecord, save_identity
from identity_lock.rendering.log import RenderLog, RenderRecord, outcome
from identity_lock.rendering.search import SeedResult, _Journal
from identity_lock.safety import c2pa_signing, index
from identity_lock.safety.provenance import write_png
from identity_lock.safety.rulebook import rules
from identity_lock.tests.fixtures import tiny_checkpoint
from identity_lock.tests.fixtures.tiny_engine import CONSENT, phase, request, tiny_data, tiny_engine, tiny_plan
from identity_lock.tests.fixtures.tiny_folder import write_folder
from identity_lock.tests.identity.onnx_models import write_arcface
from identity_lock.training.loop import CHECKPOINT_NAME, TrainingStopped, train

from .case import Case
from .mutators import chunks_of, png_of

PERSON = "0123456789abcdef"
SEARCH = "base:0123456789abcdef settings:0123456789abcdef"
PICTURE = np.full((64, 64, 3), 90, np.uint8)
GRAPH: dict[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "color": 7, "on": True}, "_meta": {"title": "Colour"}},
    "2": {
        "class_type": "SaveImage",
        "inputs": {"images": ["1", 0], "filename_prefix": "test"},
        "_meta": {"title": "Keep"},
    },
}
PHOTO_GRAPH: dict[str, Any] = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "{{PHOTO_1: a portrait}}"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "photo"}},
}
PLAN = tiny_plan([phase("COARSE", 1e-3, 8.0, "mse", "adamw"), phase("MID_FINE", 1e-3, 2.0, "charbonnier", "adamp")])

Seeds = Callable[[], list[Case]]


def _once(make: Seeds) -> Seeds:
    return functools.lru_cache(maxsize=1)(make)


def _written(write: Callable[[Path], object], *, main: str) -> Case:
    """What `write` leaves in an empty folder."""
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as home:
        folder = Path(name)
        with mock.patch.dict(os.environ, {index.HOME_VARIABLE: home}):  # not this user's own index
            write(folder)
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    return Case(files, main)


# ---- pictures --------------------------------------------------------------------------------------------------------


def gradient(mode: str, side: int = 72) -> Image.Image:
    ramp = np.add.outer(np.arange(side), np.arange(side)) * 255 // (2 * side)
    grey = Image.fromarray(ramp.astype(np.uint8))
    if mode == "I;16":
        return Image.fromarray((ramp * 257).astype(np.uint16))
    if mode == "F":
        return Image.fromarray((ramp / 255).astype(np.float32))
    return grey.convert("RGB").convert(mode) if mode == "P" else grey.convert(mode)


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, format=kind, **options)
    return out.getvalue()


@_once
def photos() -> list[Case]:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a portrait"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    rgb = gradient("RGB")
    found = {
        "a.png": encoded(rgb, "PNG", exif=exif, icc_profile=srgb),
        "b.png": encoded(gradient("I;16"), "PNG"),
        "c.png": encoded(gradient("P"), "PNG", transparency=3),
        "d.png": encoded(gradient("LA"), "PNG"),
        "e.png": encoded(rgb, "PNG", save_all=True, append_images=[rgb.rotate(90)]),
        "a.jpg": encoded(rgb, "JPEG", exif=exif, icc_profile=srgb),
        "b.jpg": encoded(gradient("CMYK"), "JPEG", progressive=True),
        "c.jpg": encoded(gradient("L"), "JPEG", icc_profile=profile),
        "a.tif": encoded(gradient("F"), "TIFF", compression="tiff_lzw"),
        "b.tif": encoded(rgb, "TIFF", compression="tiff_adobe_deflate", exif=exif),
        "c.tif": encoded(rgb, "TIFF", save_all=True, append_images=[rgb]),
        "a.gif": encoded(gradient("P"), "GIF", save_all=True, append_images=[gradient("P").rotate(90)]),
        "a.bmp": encoded(rgb, "BMP"),
        "a.ppm": encoded(rgb, "PPM"),
    }
    for name, kind in (("a.webp", "WEBP"), ("a.jp2", "JPEG2000"), ("a.avif", "AVIF")):
        if kind in Image.SAVE:
            found[name] = encoded(rgb, kind)
    return [Case.single(name, content) for name, content in found.items()]


_MODELS = {"models": {"base": {"name": "tiny", "sha256": "ab" * 32}}}


def record(*, seed: int = 5, **changes: Any) -> RenderRecord:
    return RenderRecord(
        kind="three_pass",
        seed=seed,
        passes={"anchor": {"prompt": "photo of a woman", "cfg": 5.8, "steps": 24}},
        identity="Grace",
        identity_id=PERSON,
        consent=CONSENT,
        fingerprint=SEARCH,
        **(outcome(Drift(0.15, None, "sface"), None) | _MODELS | changes),
    )


@_once
def records() -> list[Case]:
    def written(composite: bool) -> Case:
        def write(folder: Path) -> None:
            told = asdict(record(composite=composite))
            write_png(PICTURE, folder / "a.png", told, composite=composite, text={"prompt": "{}"})

        return _written(write, main="a.png")

    whole = written(False)
    chunks = chunks_of(whole.files["a.png"])
    told = next(body for kind, body in chunks if kind == b"iTXt" and body.startswith(b"identity_lock\0"))
    text = told.partition(b"\0\0\0\0\0")[2]
    rest = [(kind, body) for kind, body in chunks if body is not told]
    packed = png_of([rest[0], (b"zTXt", b"identity_lock\0\0" + zlib.compress(text)), *rest[1:]])
    late = png_of([*rest[:-1], (b"iTXt", told), rest[-1]])
    return [whole, written(True), Case.single("a.png", packed), Case.single("a.png", late), *signed()]


def signed() -> list[Case]:
    """A signed picture, where the package for it and the openssl that docs/signing.md uses are here."""
    if not c2pa_signing.available() or shutil.which("openssl") is None:
        return []
    told = (Path(__file__).resolve().parents[2] / "docs" / "signing.md").read_text(encoding="utf-8")
    (commands,) = re.findall(r"^```sh\n(.*?)^```", told, re.DOTALL | re.MULTILINE)

    def write(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as keys:
            subprocess.run(["sh", "-e", "-c", commands], cwd=keys, check=True, capture_output=True)
            signer = c2pa_signing.read_signer(f"{keys}/chain.pem", f"{keys}/signer.key")
        write_png(PICTURE, folder / "a.png", asdict(record()), composite=False, signer=signer)

    return [_written(write, main="a.png")]


# ---- identities, LoRAs, training -------------------------------------------------------------------------------------


@_once
def identities() -> list[Case]:
    def written(**changes: Any) -> Case:
        vectors = {"sface": np.ones(128, np.float32) / 128**0.5, "dlib": np.ones(128, np.float32) / 128**0.5}
        told: dict[str, Any] = dict(
            name="Grace",
            embeddings={name: Embedding(vector, name, "ab" * 32, 128) for name, vector in vectors.items()},
            selection="sface",
            reporting="dlib",
            photos=(PhotoRecord("a.jpg", "0123456789abcdef", 0.8, 0.6, 0.9),) * 2,
            yardstick={"sface": (0.2,), "dlib": (0.1,)},
            consent=CONSENT,
            created="2025-05-03T10:00:00+00:00",
            warnings=("b.jpg was left out: no face was found in it.",),
        )
        identity = Identity(**(told | changes))
        return _written(lambda folder: save_identity(identity, folder / "i.safetensors"), main="i.safetensors")

    return [written(), written(reporting=None, warnings=(), name="Zoë"), *loras()[:1]]


@functools.lru_cache(maxsize=1)
def engine() -> Any:
    torch.set_num_threads(1)  # threads do not live on in a forked process
    return tiny_engine()


def warm_engine() -> None:
    engine().sample(request(engine(), seeds=(1,), steps=1, cfg=1.0))


def warm_training() -> None:
    warm_engine()
    training_parts()


@_once
def loras() -> list[Case]:
    engine_ = engine()
    names = [name for name, module in engine_.unet.named_modules() if name.endswith(("to_q", "conv1"))][:4]
    tensors = {}
    for name in names:
        weight = engine_.unet.get_submodule(name).weight
        out, inp, *kernel = weight.shape
        key = lora_key(name)
        tensors[key + DOWN] = torch.full((2, inp, *kernel), 0.01)
        tensors[key + UP] = torch.full((out, 2, *[1] * len(kernel)), 0.01)
        tensors[key + ALPHA] = torch.tensor(2.0)
    metadata = {"format": "identity-lock-lora/1", "base_model": "tiny", "plan": json.dumps({"rank": 2})}
    halves = {key: value.half() for key, value in tensors.items()}
    return [
        Case.single("l.safetensors", safetensors_bytes(tensors, metadata)),
        Case.single("l.safetensors", safetensors_bytes(halves, {})),
    ]


@functools.lru_cache(maxsize=1)
def training_parts() -> tuple[Any, Any, Any]:
    from identity_lock.identity import build_identity, read_photo
    from identity_lock.tests.fixtures.tiny_engine import HOPPER

    meter, _ = build_identity([read_photo(HOPPER)], name="Grace", consent=CONSENT).meters()
    return engine(), tiny_data(engine()), meter


@_once
def trainings() -> list[Case]:
    def written(steps: int) -> Case:
        def write(folder: Path) -> None:
            looked = iter(range(1000))
            engine_, data, meter = training_parts()
            try:
                train(engine_, data, meter, PLAN, folder, size=64, should_stop=lambda: next(looked) >= steps)
            except TrainingStopped:
                assert (folder / CHECKPOINT_NAME).is_file()

        return _written(write, main=CHECKPOINT_NAME)

    return [written(3), written(6)]


# ---- models ----------------------------------------------------------------------------------------------------------


def _small() -> Any:
    """The fixture's layouts at the smallest widths that the networks can be built with."""
    return mock.patch.multiple(tiny_checkpoint, MODEL_CHANNELS=32, CLIP_VOCABULARY=64, TAESD_WIDTH=8)


def _checkpoint(**options: Any) -> bytes:
    with _small():
        unet = tiny_checkpoint.unet_tensors(
            levels=(1, 1), attention=(0, 1), blocks_per_level=1, middle_depth=1, context=768
        )
        parts = {
            "model.diffusion_model.": unet,
            "cond_stage_model.transformer.": tiny_checkpoint.clip_l_tensors(layers=1, width=64),
            "first_stage_model.": tiny_checkpoint.taesd_tensors(scale=0.18215)
            if options.get("taesd", True)
            else tiny_checkpoint.vae_kl_tensors(channels=(32, 32)),
        }
    tensors = {
        prefix + name: tensor.half().contiguous() if tensor.ndim else tensor
        for prefix, part in parts.items()
        for name, tensor in part.items()
    }
    if options.get("v_prediction"):
        tensors["v_pred"] = torch.tensor([])
    return save(tensors)


@_once
def checkpoint_files() -> list[Case]:
    return [
        Case.single("c.safetensors", _checkpoint()),
        Case.single("c.safetensors", _checkpoint(taesd=False, v_prediction=True)),
    ]


@_once
def checkpoint_folders() -> list[Case]:
    whole = _written(write_folder, main="")
    part = "unet/diffusion_pytorch_model"
    sharded = dict(whole.files)
    content = sharded.pop(f"{part}.safetensors")
    sharded[f"{part}-00001-of-00001.safetensors"] = content
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    names = {name: "diffusion_pytorch_model-00001-of-00001.safetensors" for name in header if name != "__metadata__"}
    sharded[f"{part}.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": names}).encode()
    return [whole, Case(sharded, "")]


def warm_models() -> None:
    """What diffusers and transformers only import when the first model is built."""
    demo_base.new_unet()
    with tempfile.TemporaryDirectory() as name:
        for case in (*checkpoint_files(), *checkpoint_folders()):
            folder = Path(tempfile.mkdtemp(dir=name))
            with contextlib.suppress(CheckpointError):
                open_checkpoint(case.write(folder))


@_once
def demo_bases() -> list[Case]:
    """The format with the real layout of its small parts; its UNet is left out, so that it is refused late."""
    words = ("photo", "woman", "red", "shirt")
    text, codec = demo_base.PhraseEncoder(words), demo_base.PatchPCA()
    tensors = {f"text.{k}": v.half() for k, v in text.state_dict().items()}
    tensors |= {f"codec.{k}": v for k, v in codec.state_dict().items()}
    tensors["unet.conv_in.weight"] = torch.zeros(64, 32, 3, 3)
    told = {"format": demo_base.FORMAT, "vocabulary": json.dumps(words)}
    return [Case.single("demo.safetensors", safetensors_bytes(tensors, told))]


@_once
def recognisers() -> list[Case]:
    return [
        _written(lambda folder: write_arcface(folder / "w600k_r50.onnx"), main="w600k_r50.onnx"),
        _written(lambda folder: write_arcface(folder / "w600k_r50.onnx", dimension=128), main="w600k_r50.onnx"),
    ]


# ---- journals --------------------------------------------------------------------------------------------------------


@_once
def seed_journals() -> list[Case]:
    def write(folder: Path) -> None:
        journal = _Journal(folder, SEARCH, "")
        for seed, drift in ((1, 0.15), (2, None), (3, 0.4)):
            name = f"seed_{seed}.png" if drift else None
            if name:
                write_png(PICTURE, folder / name, {"seed": seed}, composite=False)
            result = SeedResult(seed, drift, bool(drift), 0.3, (0.5, None), None if drift else 0, True, name)
            journal.add([result], seed)

    return [_written(write, main="seeds.jsonl")]


@_once
def render_logs() -> list[Case]:
    def write(folder: Path) -> None:
        log = RenderLog(folder)
        for seed in (3, 4):
            log.write_next(PICTURE, "portrait", record(seed=seed))

    return [_written(write, main="renders.jsonl")]


@_once
def indexes() -> list[Case]:
    place = f"home/made/{PERSON}.jsonl"
    lines = [
        {"kind": index.PERSON, "name": "Grace", "photos": [PERSON]},
        {"kind": "render", "path": "/nowhere/portrait_00001.png"},
        {"kind": index.LINE, "path": "/nowhere/renders.jsonl", "field": "identity_id", "value": PERSON},
        {"kind": index.FOLDER, "path": "/nowhere"},
        {"kind": index.PLACE, "path": "/nowhere/output"},
        {"kind": "sheet", "path": "/nowhere/sheet.png", "together": True},
    ]
    return [Case.single(place, b"".join(json.dumps(line).encode() + b"\n" for line in lines))]


@_once
def owned() -> list[Case]:
    return [*records()[:2], *identities()[:1], *loras()[:1], *render_logs()]


@_once
def queue_journals() -> list[Case]:
    def write(folder: Path) -> None:
        graph = Graph("graph.json", GRAPH)
        journal = Journal(folder, graph.name, "fingerprint")
        done, failed, waiting = journal.plan(fan_out(graph, ['Keep.filename_prefix=["a", "b", "c"]']).jobs)
        journal.queued(done, "1234", "http://127.0.0.1:8188")
        journal.done(done, [f"{done.name}/picture.png"], 2.5, "0.150 locked")
        journal.failed(failed, "It was lost.")
        journal.queued(waiting, "5678", "http://127.0.0.1:8188")

    return [_written(write, main="queue.jsonl")]


@_once
def queue_locks() -> list[Case]:
    return [Case.single(LOCK_NAME, b'{"pid": 123}\n'), Case.single(LOCK_NAME, b"")]


# ---- workflows and lists ---------------------------------------------------------------------------------------------


@_once
def workflows() -> list[Case]:
    shipped = Path(__file__).resolve().parents[2] / "workflows"
    return [
        Case.single("graph.json", json.dumps(GRAPH).encode()),
        Case.single("graph.json", json.dumps(PHOTO_GRAPH).encode()),
        Case.single("graph.json", (shipped / "api" / "three_pass.json").read_bytes()),
        Case.single("graph.json", (shipped / "three_pass.json").read_bytes()),
    ]


@_once
def text_lists() -> list[Case]:
    return [
        Case.single("values.txt", b"a library\n\na meadow = green\nna\xc3\xafve\n"),
        Case.single("values.txt", json.dumps(["one", 2, None, {"three": [4]}]).encode()),
    ]


@_once
def prompts() -> list[Case]:
    texts = [
        "golden hour field, (rim light:1.2), {red|blue {scarf|hat}}, [fog:sun:0.5] BREAK sks woman, 42 years old",
        "a dram of 16-year-old whisky, n u d e l i p s, l.o.r.a: x, f1v3 y34r 0ld, thr*e, nnuuddee, __wild/card__",
        *(text for listed in rules() for text in (*listed.refused[:2], *listed.allowed[:2])),
    ]
    return [Case.single("prompt.txt", text.encode()) for text in texts]


@_once
def picture_lists() -> list[Case]:
    files = {name: encoded(gradient("RGB"), "PNG") for name in ("one.png", "two.png")}
    return [Case(files | {"photos.txt": b"one.png\ntwo.png\n"}, "photos.txt")]
