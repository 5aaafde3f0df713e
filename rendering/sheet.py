"""Pictures of pictures: the contact sheet with drifts, and the histogram of a search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..identity.drift import LOCK_THRESHOLD
from ..safety import index
from ..safety.atomic import replacing
from ..safety.c2pa_signing import Signer
from ..safety.provenance import PERSON_KEY, chart_info, write_png
from .search import SearchReport

LABEL_HEIGHT = 16
LOCKED_COLOUR, MISSED_COLOUR = (40, 130, 60), (70, 70, 70)


def contact_sheet(
    images: Sequence[np.ndarray], labels: Sequence[str], *, columns: int = 8, marked: Sequence[bool] = ()
) -> np.ndarray:
    """uint8 RGB. Equal pictures in rows of `columns`, each with its label under it; `marked` ones in green."""
    from PIL import Image, ImageDraw, ImageFont

    height, width = images[0].shape[:2]
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * width, rows * (height + LABEL_HEIGHT)), (24, 24, 24))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(11)
    for place, (image, label) in enumerate(zip(images, labels, strict=True)):
        x, y = place % columns * width, place // columns * (height + LABEL_HEIGHT)
        sheet.paste(Image.fromarray(image), (x, y))
        colour = LOCKED_COLOUR if place < len(marked) and marked[place] else MISSED_COLOUR
        draw.rectangle((x, y + height, x + width - 1, y + height + LABEL_HEIGHT - 1), fill=colour)
        draw.text((x + 3, y + height + 1), label, fill=(255, 255, 255), font=font)
    return np.asarray(sheet)


def search_sheet(report: SearchReport, *, limit: int = 64, threshold: float = LOCK_THRESHOLD) -> np.ndarray:
    """The finished seeds, best first, each with its seed and drift."""
    shown = report.finished[:limit]
    images = [report.picture(r) for r in shown]
    labels = [f"{r.seed}  {r.drift:.3f}" if r.detected else f"{r.seed}  no face" for r in shown]
    marked = [r.drift is not None and r.drift <= threshold for r in shown]
    return contact_sheet(images, labels, marked=marked)


def write_sheet(report: SearchReport, path: Path, person: str, signer: Signer | None = None) -> None:
    """The contact sheet as a PNG. person: the id of the identity, which it carries. Raises OutputError."""
    index.made(person, "sheet", path)
    write_png(search_sheet(report), path, composite=True, text={PERSON_KEY: person}, signer=signer)


def drift_histogram(report: SearchReport, bins: int = 20) -> tuple[list[int], list[float]]:
    """Counts of the finished seeds by drift, and the edges of the bins (one more than counts)."""
    drifts = [r.drift for r in report.finished if r.drift is not None]
    counts, edges = np.histogram(drifts, bins=bins, range=(0.0, max(0.5, *drifts)))
    return [int(count) for count in counts], [round(float(edge), 4) for edge in edges]


def plot_histogram(report: SearchReport, path: Path, threshold: float = LOCK_THRESHOLD) -> None:
    """Drifts of the full renders (no selection) and of those that previews selected, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axis = figure.subplots()
    full = [r.drift for r in report.full if r.drift is not None]
    chosen = [r.drift for r in report.finished if not r.full and r.drift is not None]
    bins = np.linspace(0.0, max(0.5, max(full + chosen)), 41)
    axis.hist([full, chosen], bins=list(bins), stacked=True, label=["rendered in full", "selected by previews"])
    axis.axvline(threshold, color="0.3", ls="--", lw=1)
    axis.annotate("lock", (threshold, 0.95), xycoords=("data", "axes fraction"), fontsize=8)
    axis.set_xlabel("drift (1 - cosine; 1.0 where no face was found)")
    axis.set_ylabel("seeds")
    axis.legend(fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, pil_kwargs={"pnginfo": chart_info()})
