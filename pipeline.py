"""The whole way from photos to renders on one engine: prepare, embed, train, search, render, log.

`identity-lock demo` and `identity-lock run` both call `run_pipeline`; a ComfyUI graph does the same node by node.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .engines.lora_file import LoraWeights, write_lora
from .engines.protocol import Engine
from .errors import IdentityLockError, OutputError, PhotoError, RecogniserError, RenderError
from .identity.faces import default_detector
from .identity.identity import Identity, build_identity, load_identity, save_identity
from .identity.photo import Photo
from .identity.prepare import PreparedFace, PrepSettings, prepare_all
from .rendering.log import Meters
from .rendering.scenes import Renderer
from .rendering.search import SearchProgress, SearchReport, SearchSpec, search_seeds
from .rendering.three_pass import ThreePassResult, ThreePassSpec
from .rendering.two_pass import TwoPassResult, TwoPassSpec
from .safety.atomic import make_folder
from .safety.c2pa_signing import Signer
from .safety.consent import require_consent
from .safety.lock import only_one
from .safety.prompt import require_allowed
from .training.augment import JitterSpec
from .training.phases import TrainingPlan
from .training.report import Progress, TrainingReport
from .training.session import train_on

LORA_NAME, IDENTITY_NAME = "lora.safetensors", "identity.safetensors"
LOCK_NAME = ".run.lock"


@dataclass(frozen=True)
class Scene:
    """A scene to style into: its name in files and tables, and its prompt."""

    name: str
    prompt: str


@dataclass(frozen=True)
class PipelineSpec:
    """size: side of the renders, px. untrained: seeds rendered before training, for the comparison.
    three_pass, two_pass: templates whose style prompt each scene replaces. style_size: (width, height) of the two-pass
    mode's second base, None for that of the renders."""

    prep: PrepSettings
    jitter: JitterSpec
    plan: TrainingPlan
    search: SearchSpec
    scenes: tuple[Scene, ...]
    three_pass: ThreePassSpec
    two_pass: TwoPassSpec | None
    size: int
    untrained: int = 0
    style_size: tuple[int, int] | None = None


@dataclass
class PipelineResult:
    """Everything a report is made of. untrained: the same prompt without a LoRA, None where it was not asked for."""

    identity: Identity
    meters: Meters
    prepared: list[PreparedFace]
    lora: LoraWeights
    training: TrainingReport
    search: SearchReport
    untrained: SearchReport | None
    three_pass: dict[str, ThreePassResult]
    two_pass: dict[str, TwoPassResult]
    unknown_words: tuple[str, ...]
    seconds: dict[str, float] = field(default_factory=dict)


def only_run(folder: Path) -> AbstractContextManager[None]:
    """The folder, made, and nobody else's until the block ends. Raises OutputError where another run has it."""
    return only_one(
        make_folder(folder),
        LOCK_NAME,
        lambda holder: OutputError(
            f"Another identity-lock{holder} works in {folder}; wait for it, stop it, or give --out another folder."
        ),
    )


def run_pipeline(
    engine: Engine,
    style_engine: Engine | None,
    photos: Sequence[Photo],
    captions: Mapping[str, str],
    spec: PipelineSpec,
    folder: Path,
    *,
    name: str,
    consent: str,
    models_dir: Any = None,
    should_stop: Callable[[], bool] = lambda: False,
    signer: Signer | None = None,
) -> PipelineResult:
    """captions: by photo name. folder: keeps every result; started again on it, finished stages are not repeated.
    signer: signs every picture before it gets its name.

    Raises the IdentityLockError family; TrainingStopped and SearchStopped keep the work.
    """
    require_consent(consent)
    _require_prompts(captions, spec)  # before the hours, not after them
    seconds: dict[str, float] = {}
    with _stage("prepare", seconds):
        prepared = prepare_all(photos, default_detector(models_dir), spec.prep, models_dir=models_dir)
        missing = [face.source for face in prepared if face.source not in captions]
        if missing:
            raise PhotoError(f"There is no caption for {missing[0]}; give one for each photo.")
    with _stage("embed", seconds):
        identity = build_identity(photos, name=name, consent=consent, models_dir=models_dir)
        meters = Meters.of(identity, models_dir)
        _refuse_other_person(identity, folder / IDENTITY_NAME)
        size = (spec.size, spec.size)
        renders = Renderer(engine, style_engine, None, identity, meters, 0, size, folder / "renders", signer)
        renders.refuse_swapped([scene.name for scene in spec.scenes])
        save_identity(identity, make_folder(folder) / IDENTITY_NAME)
    untrained = None
    with _stage("untrained", seconds):
        if spec.untrained:
            plain = replace(spec.search, count=spec.untrained, control=spec.untrained, rungs=())
            untrained = _search(
                engine, None, identity, meters, plain, spec.size, folder / "untrained", should_stop, signer
            )
    with _stage("train", seconds):
        lora, training = _train(engine, prepared, captions, meters, spec, folder, identity, should_stop)
    with _stage("search", seconds):
        search = _search(engine, lora, identity, meters, spec.search, spec.size, folder / "seeds", should_stop, signer)
    renders = replace(renders, lora=lora, seed=search.best.seed)
    three: dict[str, ThreePassResult] = {}
    with _stage("three_pass", seconds):
        for scene in tqdm(spec.scenes, desc="three-pass", unit="scene"):
            _stop_between_scenes(should_stop, len(three), spec.scenes, folder)
            three[scene.name] = renders.three_pass(scene.name, styled_for(spec.three_pass, scene.prompt))
    two: dict[str, TwoPassResult] = {}
    with _stage("two_pass", seconds):
        if style_engine is not None and spec.two_pass is not None:
            for scene in tqdm(spec.scenes, desc="two-pass", unit="scene"):
                _stop_between_scenes(should_stop, len(two), spec.scenes, folder)
                template = spec.two_pass
                passes = replace(template, style=replace(template.style, prompt=scene.prompt))
                two[scene.name] = renders.two_pass(scene.name, passes, spec.style_size)
    unknown = dict.fromkeys(
        word
        for text in [*captions.values(), spec.search.render.prompt, *(s.prompt for s in spec.scenes)]
        for word in engine.encode_prompt(text).unknown_words
    )
    return PipelineResult(
        identity, meters, prepared, lora, training, search, untrained, three, two, tuple(unknown), seconds
    )


def _refuse_other_person(identity: Identity, path: Path) -> None:
    """Before the first file is replaced. A file that cannot be read is no reason: it is written anew."""
    try:
        before = load_identity(path)
    except IdentityLockError:
        return
    folder = path.parent
    if before.id != identity.id:
        raise PhotoError(
            f"{path} belongs to other photos ({', '.join(photo.name for photo in before.photos)}); give another "
            "folder, or delete this one to start afresh."
        )
    for role, old, new in (
        ("face recogniser", before.selection, identity.selection),
        ("reporting recogniser", before.reporting, identity.reporting),
    ):
        if old != new or (new and before.embedding(new).recogniser_sha256 != identity.embedding(new).recogniser_sha256):
            raise RecogniserError(
                f"The {role} of the work in {folder} was {_weights(before, old)} and is {_weights(identity, new)} now; "
                "put back the file that it was, or give another folder."
            )


def _weights(identity: Identity, recogniser: str | None) -> str:
    if recogniser is None:
        return "none"
    return f"{recogniser} ({identity.embedding(recogniser).recogniser_sha256[:12]}...)"


def _require_prompts(captions: Mapping[str, str], spec: PipelineSpec) -> None:
    for caption in captions.values():
        require_allowed(caption, field="caption")
    spec.search.render.require_allowed()
    for scene in spec.scenes:
        passes = styled_for(spec.three_pass, scene.prompt)
        asked = [passes.anchor, passes.style, passes.rescue]
        if spec.two_pass is not None:
            asked += [spec.two_pass.anchor, replace(spec.two_pass.style, prompt=scene.prompt)]
        for one in asked:
            one.require_allowed(f"prompt of the scene {scene.name}")


def styled_for(spec: ThreePassSpec, prompt: str) -> ThreePassSpec:
    return replace(spec, style=replace(spec.style, prompt=prompt), rescue=replace(spec.rescue, prompt=prompt))


def _train(
    engine: Engine,
    prepared: Sequence[PreparedFace],
    captions: Mapping[str, str],
    meters: Meters,
    spec: PipelineSpec,
    folder: Path,
    identity: Identity,
    should_stop: Callable[[], bool],
) -> tuple[LoraWeights, TrainingReport]:
    """Goes on from the folder's checkpoint; a finished training is finished at once."""
    with tqdm(total=spec.plan.max_steps, desc="train", unit="step") as bar:

        def tell(progress: Progress) -> None:
            bar.n = progress.step
            drift = "-" if progress.drift is None else f"{progress.drift:.3f}"
            bar.set_description(f"train {progress.phase}", refresh=False)
            bar.set_postfix(loss=f"{progress.loss:.4f}", drift=drift)

        outcome = train_on(
            engine, prepared, [captions[face.source] for face in prepared], meters.selection, spec.plan, spec.jitter,
            lambda fingerprint: folder, person=identity.person, reporting=meters.reporting, name=identity.name,
            size=spec.size, on_progress=tell, should_stop=should_stop,
        )  # fmt: skip
    write_lora(outcome.lora, folder / LORA_NAME)
    return outcome.lora, outcome.report


def _search(
    engine: Engine,
    lora: LoraWeights | None,
    identity: Identity,
    meters: Meters,
    spec: SearchSpec,
    size: int,
    folder: Path,
    should_stop: Callable[[], bool],
    signer: Signer | None,
) -> SearchReport:
    with tqdm(total=spec.count, desc="seeds" if lora else "untrained", unit="seed") as bar:

        def tell(progress: SearchProgress) -> None:
            bar.n = progress.done
            if progress.best is not None:
                bar.set_postfix(best=f"{progress.best.drift:.3f}", seed=progress.best.seed)

        return search_seeds(
            engine, lora, identity, meters, spec, (size, size), folder, on_progress=tell, should_stop=should_stop,
            signer=signer,
        )  # fmt: skip


def _stop_between_scenes(
    should_stop: Callable[[], bool], done: int, scenes: Sequence[Scene], folder: Path
) -> None:
    if should_stop():
        raise RenderStopped(
            f"Rendering stopped after {done} of {len(scenes)} scenes; the LoRA, the seeds and the finished pictures "
            f"are kept in {folder}, and the same command goes on from there."
        )


class RenderStopped(RenderError):
    """The user asked to stop while scenes were rendered."""


@contextmanager
def _stage(name: str, seconds: dict[str, float]) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - started, 2)

