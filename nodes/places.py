"""Where files lie in a ComfyUI: LoRAs, identities, training and search folders, renders, face models, sample photos."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, IdentityLockError
from ..safety import index
from ..safety.atomic import NameTaken, make_folder
from ..safety.files import resolve_inside

if TYPE_CHECKING:
    from ..engines.lora_file import LoraWeights
    from ..identity.identity import Identity
    from ..rendering.log import RenderLog

OURS = "identity_lock"  # the folder of everything this pack writes into ComfyUI's output folder
IDENTITIES = "identities"
SUFFIX = ".safetensors"
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".jxl"}
SAMPLES = {"synthetic_1.png": "identity_lock_sample_1.png", "synthetic_2.png": "identity_lock_sample_2.png"}
_PHOTOS = Path(__file__).resolve().parent.parent / "assets" / "photos"


def set_up() -> None:
    """At extension load: the identities folder is known to ComfyUI, its folders are searched for face models, and its
    input folder holds the sample photos of the bundled graphs."""
    import folder_paths

    from ..identity.recognisers.store import register_folder

    models = Path(folder_paths.models_dir)
    folder_paths.add_model_folder_path(IDENTITIES, str(models / IDENTITIES))  # after those of extra_model_paths
    listed, _ = folder_paths.folder_names_and_paths[IDENTITIES]
    folder_paths.folder_names_and_paths[IDENTITIES] = (listed, {SUFFIX})  # never a pickle
    register_folder(models)
    for key in ("insightface", "rembg", OURS):
        for folder in folder_paths.folder_names_and_paths.get(key, ((), ()))[0]:
            register_folder(folder)
    copy_samples(Path(folder_paths.get_input_directory()))


def copy_samples(folder: Path) -> None:
    """Those that are not there yet; where the folder cannot be written the graphs just lack their picture."""
    for source, name in SAMPLES.items():
        with suppress(OSError):
            if not (folder / name).exists():
                shutil.copyfile(_PHOTOS / source, folder / name)


# ---- LoRAs and identities: a name is taken once --------------------------------------------------------------------


def save_lora(lora: LoraWeights, name: str) -> str:
    """Writes `<name>.safetensors` into the first LoRA folder, and returns the name by which LoraLoader lists it.

    The same LoRA keeps its file; another one under that name gets _2, _3, ... Raises OutputError.
    """
    import folder_paths

    return lora_into(Path(folder_paths.get_folder_paths("loras")[0]), lora, name)


def lora_into(folder: Path, lora: LoraWeights, name: str) -> str:
    from ..engines.lora_file import read_lora, write_lora

    def same(path: Path) -> bool:
        try:
            return read_lora(path).sha256 == lora.sha256
        except CheckpointError:
            return False

    path, _ = _claimed(folder, name, same, lambda path: write_lora(lora, path, keep=True))
    return str(path.relative_to(folder.resolve()))


def save_identity(identity: Identity, name: str) -> str:
    """Writes `<name>.safetensors` into the first identities folder; returns the name by which LoadIdentity lists it.

    An identity of the same photos replaces its file; another one under that name gets _2, _3, ... Raises OutputError.
    """
    import folder_paths

    return identity_into(Path(folder_paths.get_folder_paths(IDENTITIES)[0]), identity, name)


def identity_into(folder: Path, identity: Identity, name: str) -> str:
    from ..identity.identity import load_identity
    from ..identity.identity import save_identity as write

    photos = [photo.fingerprint for photo in identity.photos]

    def same(path: Path) -> bool:
        try:
            return [photo.fingerprint for photo in load_identity(path).photos] == photos
        except IdentityLockError:
            return False

    path, written = _claimed(folder, name, same, lambda path: write(identity, path, keep=True))
    if not written:
        write(identity, path)  # of the same photos, and perhaps with another name or consent
    return str(path.relative_to(folder.resolve()))


def introduce(identity: Identity, inputs: Sequence[Path] = ()) -> None:
    """Whoever comes into a graph stands in the index from then on, with the photos of ComfyUI's input folder that they
    were made of, and with the folders in which other nodes leave pictures of them. Raises OutputError."""
    import folder_paths

    index.introduce(identity.person)
    index.made(identity.id, "input", *inputs)
    for folder in (folder_paths.get_output_directory(), folder_paths.get_temp_directory()):
        index.made(identity.id, index.PLACE, Path(folder))


def loaded_files(prompt: Mapping[str, Any] | None, node_id: Any, name: str) -> list[Path]:
    """The files of ComfyUI's input folder that the input `name` of a node comes from, through all nodes before it; the
    sample photos are nobody's. prompt: the graph in API format, None where the host tells none."""
    import folder_paths

    graph, seen, found = prompt or {}, set[str](), dict[Path, None]()
    waiting = [(graph.get(str(node_id)) or {}).get("inputs", {}).get(name)]
    folder = Path(folder_paths.get_input_directory())
    while waiting:
        value = waiting.pop()
        if isinstance(value, list) and len(value) == 2 and str(value[0]) in graph and str(value[0]) not in seen:
            seen.add(str(value[0]))
            waiting += (graph[str(value[0])].get("inputs") or {}).values()
        elif isinstance(value, str):
            bare, elsewhere = folder_paths.annotated_filepath(value)
            path = Path(elsewhere or folder, bare)
            if path.suffix.lower() in PICTURES and path.name not in SAMPLES.values() and _inside(path, folder):
                found[path] = None
    return list(found)


def _inside(path: Path, folder: Path) -> bool:
    return path.is_file() and path.resolve().is_relative_to(folder.resolve())


def identity_files() -> list[str]:
    import folder_paths

    return list(folder_paths.get_filename_list(IDENTITIES))


def identity_file(name: str) -> Path | None:
    """The file that LoadIdentity lists as `name`; None where there is none."""
    import folder_paths

    path = folder_paths.get_full_path(IDENTITIES, name)
    return None if path is None else Path(path)


def check_name(name: str) -> None:
    """Refuses a file name that leaves its folder, before any work. Raises OutputError."""
    resolve_inside(output("training"), name, SUFFIX)


def _claimed(folder: Path, name: str, same: Callable[[Path], bool], write: Callable[[Path], Any]) -> tuple[Path, bool]:
    """`name` inside the folder, or with _2, _3, ... after it: the first that is free, or whose file is the `same`; and
    whether `write` has put the file there.

    `write` raises NameTaken where there is a file already, and it alone decides who gets a name that several processes
    find free: a look at the disk may be out of date by the next line.
    """
    wanted = resolve_inside(folder, name, SUFFIX)
    make_folder(wanted.parent)
    path, number = wanted, 1
    while True:
        if not path.exists():
            with suppress(NameTaken):
                write(path)
                return path, True
        if same(path):
            return path, False
        number += 1
        path = wanted.with_name(f"{wanted.stem}_{number}{wanted.suffix}")


# ---- what runs leave behind ----------------------------------------------------------------------------------------


def output(*parts: str) -> Path:
    import folder_paths

    return Path(folder_paths.get_output_directory()).joinpath(OURS, *parts)


def training_folder(name: str, fingerprint: str) -> Path:
    """One folder for each training, so that the same one goes on where it was stopped."""
    stem = name.removesuffix(SUFFIX)
    return resolve_inside(output("training"), f"{stem}-{short(fingerprint)}")


def search_folder(fingerprint: str) -> Path:
    return output("seeds") / short(fingerprint)


def render_log(prefix: str, text: Mapping[str, str] | None = None) -> tuple[RenderLog, str]:
    """The log that a render goes into, and its file prefix without folders. prefix: as typed, subfolders allowed.

    Its pictures are signed where the environment names a certificate. Raises OutputError."""
    from ..rendering.log import RenderLog
    from ..safety.c2pa_signing import signer_from_environment

    path = resolve_inside(output("renders"), prefix)
    return RenderLog(path.parent, text, signer_from_environment()), path.name


def short(fingerprint: str) -> str:
    """12 hex digits over the whole of it: some fingerprints begin with a part that many runs share."""
    return hashlib.sha256(fingerprint.encode()).hexdigest()[:12]


def entry(path: Path, root: Path | None = None) -> dict[str, Any]:
    """A file of the output folder as ComfyUI's front end names it."""
    if root is None:
        import folder_paths

        root = Path(folder_paths.get_output_directory())
    inside = path.resolve().relative_to(root.resolve())
    return {"filename": inside.name, "subfolder": inside.parent.as_posix().removeprefix("."), "type": "output"}
