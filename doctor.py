"""`identity-lock doctor`: what is installed, what is missing, which licences apply, and the command that mends it."""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from .errors import IdentityLockError, OutputError
from .identity.background import available_models
from .identity.recognisers import RecogniserInfo, available, default_pair
from .identity.recognisers.store import YUNET, Folders, require
from .safety import index
from .safety.c2pa_signing import CERTIFICATE_VARIABLE, KEY_VARIABLE, signer_from_environment
from .safety.c2pa_signing import available as c2pa_available
from .safety.offline import quiet_onnxruntime
from .safety.tensors import read_header
from .safety.untrusted import FileRefused

State = Literal["ok", "note", "warning", "broken"]
MARKS: dict[State, str] = {"ok": "ok     ", "note": "note   ", "warning": "WARNING", "broken": "BROKEN "}

# import name -> what pip calls it; without one of these the embedded pipeline does not run.
NEEDED = {
    "torch": "torch",
    "diffusers": "diffusers",
    "peft": "peft",
    "transformers": "transformers",
    "safetensors": "safetensors",
    "pytorch_optimizer": "pytorch-optimizer",
    "scipy": "scipy",
    "matplotlib": "matplotlib",
    "tqdm": "tqdm",
    "cv2": "opencv-python-headless",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
}
CV2_DISTRIBUTIONS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
GPU_RUNTIMES = ("onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-rocm")
GPU_PROVIDERS = {
    "onnxruntime-gpu": "CUDAExecutionProvider",
    "onnxruntime-directml": "DmlExecutionProvider",
    "onnxruntime-openvino": "OpenVINOExecutionProvider",
    "onnxruntime-rocm": "ROCMExecutionProvider",
}


@dataclass(frozen=True)
class Finding:
    """One line of the report. broken: the embedded pipeline cannot run. remedy: what to do, empty for nothing."""

    state: State
    topic: str
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Report:
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether the embedded pipeline can run; warnings do not count."""
        return all(finding.state != "broken" for finding in self.findings)

    def text(self) -> str:
        lines = []
        for finding in self.findings:
            lines.append(f"{MARKS[finding.state]}  {finding.topic}: {finding.text}")
            if finding.remedy:
                lines.append(f"         -> {finding.remedy}")
        verdict = "The embedded pipeline can run." if self.healthy else "The embedded pipeline cannot run as it is."
        return "\n".join([*lines, verdict])


def examine(models_dir: Folders = None) -> Report:
    """Looks at this Python and at the model folders; changes nothing and opens no connection."""
    return Report(
        (
            Finding("ok", "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
            *_packages(),
            *_torch(),
            *onnxruntime_findings(_installed_runtimes(), _live_providers()),
            *cv2_findings(_installed(CV2_DISTRIBUTIONS)),
            *_faces(models_dir),
            *_backgrounds(models_dir),
            *_demo_base(),
            *_index(),
            *_signing(),
            Finding("ok", "Network", "not needed; nothing is ever fetched, and models are read from local files only"),
        )
    )


def _packages() -> Iterator[Finding]:
    missing = [pip for name, pip in NEEDED.items() if importlib.util.find_spec(name) is None]
    if not missing:
        yield Finding("ok", "Packages", "all that the embedded pipeline needs are installed")
        return
    # torch is the user's own choice of build, so it is never part of a command given here
    rest = [name for name in missing if name != "torch"]
    if rest:
        yield Finding("broken", "Packages", f"missing: {', '.join(rest)}", f"pip install {' '.join(rest)}")
    if "torch" in missing:
        yield Finding("broken", "torch", "missing", "install the build for your device, as pytorch.org shows")


def _torch() -> Iterator[Finding]:
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    if torch.cuda.is_available():
        device = f"CUDA, {torch.cuda.get_device_name(0)}"
    elif torch.backends.mps.is_available():
        device = "MPS is there, but the embedded engine uses the CPU"
    else:
        device = "CPU; checkpoints are slow on it, the demo base is made for it"
    yield Finding("ok", "torch", f"{torch.__version__}, device: {device}")


# ---- packages that displace each other -------------------------------------------------------------------------------


def _installed(names: Sequence[str]) -> list[str]:
    found = []
    for name in names:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        found.append(name)
    return found


def _installed_runtimes() -> list[str]:
    return _installed(("onnxruntime", *GPU_RUNTIMES))


def _live_providers() -> tuple[str, ...] | None:
    """The execution providers of the onnxruntime that is imported; None where it cannot be imported."""
    try:
        onnxruntime = quiet_onnxruntime()
    except Exception:  # a wheel broken by another one fails in many ways
        return None
    get = getattr(onnxruntime, "get_available_providers", None)
    return None if get is None else tuple(get())


def onnxruntime_findings(installed: Sequence[str], providers: Sequence[str] | None) -> Iterator[Finding]:
    """Which wheel is live. All of them install into one folder, so of two the last one written wins."""
    topic = "onnxruntime"
    gpu = [name for name in installed if name in GPU_RUNTIMES]
    kept = gpu[0] if gpu else "onnxruntime"
    others = [name for name in installed if name != kept]
    mend = f"pip install --force-reinstall --no-deps {kept}"
    if others:
        mend = f"pip uninstall -y {' '.join(others)} && {mend}"
    if providers is None:
        if installed:
            yield Finding("broken", topic, f"{' and '.join(installed)} cannot be imported", mend)
        return
    live = ", ".join(providers)
    shadowed = bool(gpu) and GPU_PROVIDERS[kept] not in providers
    if others:
        which = "the CPU wheel is live and shadows the GPU one" if shadowed else f"{kept} is live"
        yield Finding("warning", topic, f"{' and '.join(installed)} are both installed; {which} ({live})", mend)
    elif shadowed:
        yield Finding(
            "note", topic, f"{kept} is live without {GPU_PROVIDERS[kept]} ({live}): no GPU or no driver was found"
        )
    else:
        yield Finding("ok", topic, f"{kept} is live ({live})")
    yield Finding("ok", "Embedding", "faces are embedded on the CPU whichever wheel is live; a face takes milliseconds")


def cv2_findings(installed: Sequence[str]) -> Iterator[Finding]:
    """Several OpenCV distributions write the same cv2 folder."""
    if len(installed) > 1:
        kept = "opencv-contrib-python-headless" if any("contrib" in name for name in installed) else installed[0]
        kept = next((name for name in installed if "contrib" in name), kept)
        yield Finding(
            "warning",
            "cv2",
            f"{len(installed)} distributions fight over it: {', '.join(installed)}",
            f"pip uninstall -y {' '.join(installed)} && pip install --no-deps {kept}",
        )
    elif installed:
        yield Finding("ok", "cv2", f"{installed[0]} {metadata.version(installed[0])}")


# ---- models ----------------------------------------------------------------------------------------------------------


def _faces(models_dir: Folders) -> Iterator[Finding]:
    try:
        detector = require(YUNET, models_dir)
        yield Finding("ok", "Face detector", f"YuNet, {detector.licence}, {detector.path}")
    except IdentityLockError as error:
        yield Finding("broken", "Face detector", "YuNet is missing or altered", str(error))
    infos = available(models_dir)
    for info in infos:
        yield _recogniser(info)
    found = [info.name for info in infos if info.found]
    if not found:
        yield Finding("broken", "Recognisers", "none can be used, and drift cannot be measured without one")
        return
    selection, reporting = default_pair(models_dir)
    if reporting is None:
        yield Finding(
            "warning",
            "Recognisers",
            f"{selection} chooses, and there is no second one to report beside it: a score that chose cannot witness",
            "add another of the recognisers above",
        )
    else:
        yield Finding("ok", "Recognisers", f"{selection} chooses; {reporting} only reports, and is never consulted")


def _recogniser(info: RecogniserInfo) -> Finding:
    told = f"{info.dimension}-D, licence: {info.licence}"
    if not info.found:
        return Finding("note", f"Recogniser {info.name}", f"cannot be used here ({told})", info.remedy)
    use = "commercial use allowed" if info.commercial_use else "no commercial use, as far as is known"
    return Finding("ok", f"Recogniser {info.name}", f"{told}; {use}; {info.path}")


def _backgrounds(models_dir: Folders) -> Iterator[Finding]:
    models = available_models(models_dir)
    here = [model for model in models if model.found]
    library = importlib.util.find_spec("rembg") is not None
    for model in here:
        text = f"{model.name}, {model.licence}, {model.path}"
        if library:
            yield Finding("ok", "Background", text)
        else:
            mend = "pip install --no-deps rembg pooch pymatting"
            yield Finding("note", "Background", f"{text}; rembg is missing", mend)
    if not here:
        yield Finding(
            "note",
            "Background",
            f"no model is here, so photos keep their background; known: {', '.join(model.name for model in models)}",
            models[0].remedy,
        )


def _demo_base() -> Iterator[Finding]:
    assets = Path(__file__).resolve().parent / "assets"
    restore = "restore it from the repository: git checkout -- assets"
    base, look = assets / "demo_base.safetensors", assets / "demo_look.safetensors"
    if not base.is_file():
        yield Finding(
            "broken",
            "Demo base",
            f"missing at {base}: neither the demo nor a run without --checkpoint can start",
            restore,
        )
        return
    fault = _header_fault(base)
    if fault:
        yield Finding("broken", "Demo base", f"{base} is damaged ({fault})", restore)
        return
    second = "with its second look" if look.is_file() else "without its second look, so two-pass renders are left out"
    yield Finding("ok", "Demo base", f"{base.stat().st_size / 1e6:.0f} MB, {second}")


# ---- what is kept and stated -----------------------------------------------------------------------------------------


def _index() -> Iterator[Finding]:
    """Nothing is made where the index cannot be written, so that all of it can be found again."""
    folder = index.folder()
    try:
        writable = _writable(folder)
    except OSError:  # not even the right to look
        writable = False
    if not writable:
        yield Finding(
            "broken", "Index", f"{folder} cannot be written, and nothing is made that `forget` could not find",
            f"set {index.HOME_VARIABLE} to a folder that you may write",
        )  # fmt: skip
        return
    people = index.people()
    files = sum(len(person.made) for person in people)
    yield Finding("ok", "Index", f"{len(people)} people, {files} entries, {folder}; `identity-lock forget` goes by it")
    damaged = [line for person in people for line in person.damaged]
    if damaged:
        yield Finding(
            "warning", "Index", f"damaged: {', '.join(damaged)}",
            "what these lines named has to be looked for by hand before `forget` can end",
        )  # fmt: skip


def _writable(folder: Path) -> bool:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    files = folder.glob("*.jsonl")
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK) and all(os.access(f, os.W_OK) for f in files)


def _signing() -> Iterator[Finding]:
    asked = os.environ.get(CERTIFICATE_VARIABLE) or os.environ.get(KEY_VARIABLE)
    if not c2pa_available():
        told = "asked for by the environment, and no picture can be written" if asked else "neither made nor read"
        yield Finding("warning" if asked else "note", "Signing", told, "pip install c2pa-python")
        return
    try:
        signer = signer_from_environment()
    except OutputError as error:
        yield Finding("warning", "Signing", "the certificate that the environment names cannot be used", str(error))
        return
    told = f"off; {CERTIFICATE_VARIABLE} or --sign-certificate turns it on" if signer is None else signer.algorithm
    yield Finding("ok", "Signing", f"C2PA, {told}")


def _header_fault(path: Path) -> str:
    """Why a safetensors file cannot be opened, '' where it can."""
    try:
        return "" if read_header(path).metadata.get("format") else "it names no format"
    except FileRefused as error:
        return str(error)
