"""One training, from prepared pictures and captions to a LoRA: checked, encoded, trained, its report written down."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..engines.lora_file import LoraWeights
from ..engines.protocol import Engine
from ..errors import TrainingError
from ..identity.drift import DriftMeter
from ..safety import index
from ..safety.prompt import require_allowed, require_renderable
from .augment import JitterSpec, MaskedPicture, training_images
from .loop import CHECKPOINT_NAME, train, training_fingerprint
from .phases import TrainingPlan
from .report import Progress, TrainingReport
from .training_set import build_training_set

REPORT_NAME, PLOT_NAME = "training.json", "training.png"


@dataclass(frozen=True)
class TrainingOutcome:
    """folder: holds the checkpoint, training.json and training.png. unknown_words: of the captions, to this model."""

    lora: LoraWeights
    report: TrainingReport
    folder: Path
    unknown_words: tuple[str, ...]

    @property
    def plot(self) -> Path:
        return self.folder / PLOT_NAME

    def summary(self) -> str:
        lines = [self.report.summary()]
        if self.report.resumed_at:
            lines.append(f"Went on from a checkpoint at step {', '.join(map(str, self.report.resumed_at))}.")
        if self.unknown_words:
            lines.append(f"Words of the captions that this model does not know: {', '.join(self.unknown_words)}.")
        lines.append(f"Checkpoint, numbers and plot: {self.folder}")
        return "\n".join(lines)


def captions_for(text: str, pictures: int) -> list[str]:
    """One caption a picture. text: one line for all, or lines that divide the pictures evenly, in their order (as many
    as there were photos). Raises TrainingError."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise TrainingError("The caption is empty; describe the photo, such as 'photo of sks person'.")
    if pictures % len(lines):
        raise TrainingError(
            f"{len(lines)} caption lines do not divide {pictures} training pictures evenly; give one line for all of "
            "them, or one line for each photo."
        )
    each = pictures // len(lines)
    return [line for line in lines for _ in range(each)]


def train_on(
    engine: Engine,
    pictures: Sequence[MaskedPicture],
    captions: Sequence[str],
    meter: DriftMeter,
    plan: TrainingPlan,
    jitter: JitterSpec,
    folder_for: Callable[[str], Path],
    *,
    person: index.Person,
    reporting: DriftMeter | None = None,
    name: str = "identity",
    size: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainingOutcome:
    """pictures and captions pair up; pictures are squares. size: side that is trained on, px; None for the model's own.
    folder_for: the folder of a training by its fingerprint, so that the same training goes on where it was stopped.
    person: whom the pictures show; every file of the training is filed under them, the LoRA carries their consent.

    Captions and probe prompts pass the prompt guard before anything is computed. Raises PromptRefused, TrainingError,
    TrainingStopped.
    """
    _require_packages(plan)
    for caption in dict.fromkeys(captions):
        require_allowed(caption, field="caption")
    probe = plan.identity_probe
    for prompt in probe.prompts:
        require_renderable(prompt, probe.negative, probe.cfg, field="probe prompt")
    for number, picture in enumerate(pictures, 1):
        height, width = picture.pixels.shape[:2]
        if height != width:
            raise TrainingError(
                f"Training picture {number} of {len(pictures)} is {width} x {height} px; give squares, "
                "such as prepared faces are."
            )
    size = size or engine.card.native_size
    if size % engine.latent_factor:
        raise TrainingError(
            f"A resolution of {size} px does not fit this model; give a multiple of {engine.latent_factor}."
        )
    plan = _fit(plan, engine)
    images = training_images(pictures, captions, size, jitter)
    data = build_training_set(engine, images, background_weight=plan.background_weight)
    folder = folder_for(training_fingerprint(engine, data, meter, plan, size, reporting))
    index.introduce(person)
    index.made(person.id, index.FOLDER, folder)
    index.made(person.id, "checkpoint", folder / CHECKPOINT_NAME)
    index.made(person.id, "report", folder / REPORT_NAME, folder / PLOT_NAME)
    lora, report = train(
        engine, data, meter, plan, folder, reporting=reporting, person=person, name=name, size=size,
        on_progress=on_progress, should_stop=should_stop,
    )  # fmt: skip
    report.write_json(folder / REPORT_NAME)
    report.plot(folder / PLOT_NAME)
    unknown = dict.fromkeys(word for conditioning in data.conditioning for word in conditioning.unknown_words)
    return TrainingOutcome(lora, report, folder, tuple(unknown))


def _require_packages(plan: TrainingPlan) -> None:
    """What is imported late in a training is missed before it."""
    adamp = any(phase.optimizer == "adamp" for phase in plan.phases)
    needed = {"peft": "peft", "matplotlib": "matplotlib"}
    needed |= {"pytorch_optimizer": "pytorch-optimizer"} if adamp else {}
    missing = [package for module, package in needed.items() if importlib.util.find_spec(module) is None]
    if missing:
        names = " ".join(missing)
        raise TrainingError(f"Training needs Python packages that are not installed here: pip install {names}.")


def _fit(plan: TrainingPlan, engine: Engine) -> TrainingPlan:
    """A flow model is probed by the sampler and the schedule that it was made for."""
    if engine.card.prediction != "flow":
        return plan
    return replace(plan, identity_probe=replace(plan.identity_probe, sampler="euler", scheduler="normal"))
