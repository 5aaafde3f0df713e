"""report.html: one self-contained page with the pictures, the curves and the table."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..identity.photo import read_photo
from ..pipeline import PipelineResult
from ..rendering.sheet import contact_sheet, search_sheet
from ..safety.provenance import MIXED, XMP_KEY, encode_png, png_text, xmp_packet
from .subjects import PHOTOS, Subject

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:.25em .7em;text-align:right}
td:first-child,th:first-child{text-align:left}img{max-width:100%;margin:.3em 0}
h2{margin-top:2.2em;border-top:1px solid #ccc;padding-top:1em}
.no{color:#a33}.yes{color:#2a7a3f}.note{color:#555;font-size:90%}
"""

PHOTO_NOTICE = "Photos that the subject or a licence allows to use, and the crops that Identity Lock made of them."

ROWS = (
    ("untrained", "Before training (median; a picture without a face counts 1)"),
    ("best_seed", "Best seed"),
    ("median", "Median over the seeds rendered in full"),
    ("three_pass", "Three passes, median over the scenes"),
    ("rescue_before", "Styled renders that missed the lock: before the rescue"),
    ("rescue_after", "... after the rescue"),
    ("two_pass", "Two passes (second base), median over the scenes"),
    ("held_out", "Best seed to the held-out photo"),
    ("held_out_photo", "Held-out photo to the identity (yardstick)"),
    ("other_people_p5", "Renders to 20 other people, 5th percentile"),
)


def page(sections: Sequence[str], minutes: float, quick: bool) -> str:
    """The whole page; nothing in it is fetched."""
    lower = "Quick run, of lower quality by design. " if quick else ""
    head = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Identity Lock: demonstration</title>",
        f"<style>{STYLE}</style><h1>Identity Lock: demonstration</h1>",
        "<p>Every picture here is synthetic except the photos named as such. Drift is 1 - cosine between face "
        "embeddings, raw; a render counts as locked at 0.18 or below. One recogniser chooses seeds, blends and "
        "stopping points; the other is never consulted and is shown beside it. Similarity is no evidence of who "
        "somebody is.</p>",
        f"<p class='note'>{lower}Made in {minutes:.1f} minutes.</p>",
    ]
    return "\n".join([*head, *sections]) + "</html>\n"


def subject_section(subject: Subject, result: PipelineResult, numbers: dict[str, Any]) -> str:
    """One subject's part of the page."""
    best = result.search.best
    verdict = (
        f"<b class='yes'>Locked</b> at seed {best.seed}: drift {best.drift:.3f}."
        if numbers["locked"]
        else f"<b class='no'>Not locked.</b> The best seed, {best.seed}, has drift {best.drift:.3f}; "
        "the lock is at 0.18."
    )
    training = "".join(f"<li>{html.escape(line)}</li>" for line in result.training.summary().splitlines())
    lines = [
        f"<h2>{html.escape(subject.title)}</h2><p class='note'>{html.escape(subject.note)}</p><p>{verdict}</p>",
        "<h3>Photos, and what the trainer sees of them</h3>",
        _tag(encode_png(_photo_strip(subject, result), {XMP_KEY: xmp_packet(MIXED, PHOTO_NOTICE)})),
        "<h3>Numbers</h3>",
        _table(numbers),
        _counts(numbers),
        "<h3>Training</h3>",
        f"<ul>{training}</ul>",
        _file(Path(result.search.folder).parent / "training.png"),
        "<h3>Seeds, best first</h3>",
        _picture(search_sheet(result.search)),
        _file(Path(result.search.folder).parent / "histogram.png"),
        "<h3>Three passes: anchor, styled, rescued</h3>",
        _picture(_three_pass_sheet(result)),
        "<ul class='note'>"
        + "".join(f"<li>{html.escape(n)}: {html.escape(t.rescue.note)}</li>" for n, t in result.three_pass.items())
        + "</ul>",
        "<h3>Two passes: the second base's look</h3>" if result.two_pass else "",
        _picture(_two_pass_sheet(result)) if result.two_pass else "",
    ]
    return "\n".join(lines)


def _table(numbers: dict[str, Any]) -> str:
    report = numbers["report_drift"] or {}
    head = f"<tr><th>Drift</th><th>{numbers['recogniser']}</th><th>{numbers['report_recogniser'] or '-'}</th></tr>"
    rows = "".join(
        f"<tr><td>{label}</td><td>{_number(numbers['drift'][key])}</td><td>{_number(report.get(key))}</td></tr>"
        for key, label in ROWS
    )
    return f"<table>{head}{rows}</table>"


def _counts(numbers: dict[str, Any]) -> str:
    seeds, detection, hue = numbers["seeds"], numbers["detection"], numbers["background_hue"]
    lines = [
        f"Faces found: {_percent(detection['untrained'])} of the seeds before training, "
        f"{_percent(detection['trained'])} after it.",
        f"{seeds['looked_at']} seeds looked at, {seeds['full']} of them rendered in full and {seeds['locked']} locked, "
        f"for {_percent(seeds['cost'])} of the cost of rendering all.",
        f"Nearer to the subject than to each of 20 other people: {_percent(numbers['rank_1'])} of the renders.",
        f"The background's hue is the one asked for in {_percent(hue['share'])} of the styled renders that name one.",
        "Seconds: " + ", ".join(f"{stage} {value:.0f}" for stage, value in numbers["seconds"].items()) + ".",
    ]
    if numbers["unknown_words"]:
        lines.append(f"Words that the base does not know: {', '.join(numbers['unknown_words'])}.")
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _photo_strip(subject: Subject, result: PipelineResult) -> np.ndarray:
    files = [*subject.photos, *([subject.held_out] if subject.held_out else [])]
    pictures = [read_photo(PHOTOS / file).pixels for file in files] + [p.pixels for p in result.prepared]
    labels = [f"photo: {f}" for f in files] + [f"prepared: {p.transform}" for p in result.prepared]
    if subject.held_out:
        labels[len(subject.photos)] = "held out"
    return contact_sheet([_square(p, 200) for p in pictures], labels, columns=5)


def _three_pass_sheet(result: PipelineResult) -> np.ndarray:
    images, labels, marked = [], [], []
    for column in ("anchor", "styled", "final"):
        for name, three in result.three_pass.items():
            drift = {"anchor": three.anchor_drift, "styled": three.rescue.before, "final": three.drift}[column]
            images.append(getattr(three, column))
            labels.append(f"{name} {drift.value:.3f}")
            marked.append(drift.locked())
    return contact_sheet(images, labels, columns=len(result.three_pass), marked=marked)


def _two_pass_sheet(result: PipelineResult) -> np.ndarray:
    shown = list(result.two_pass.items())
    return contact_sheet(
        [two.image for _, two in shown],
        [f"{name} {two.drift.value:.3f}" for name, two in shown],
        columns=len(shown),
        marked=[two.locked for _, two in shown],
    )


def _square(pixels: np.ndarray, side: int) -> np.ndarray:
    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    frame = Image.new("RGB", (side, side), (24, 24, 24))
    frame.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return np.asarray(frame)


def _picture(sheet: np.ndarray) -> str:
    """A sheet of generated pictures."""
    return _tag(encode_png(sheet, png_text(None, composite=True)))


def _file(path: Path) -> str:
    return _tag(path.read_bytes())


def _tag(png: bytes) -> str:
    return f"<img alt='' src='data:image/png;base64,{base64.b64encode(png).decode()}'>"
