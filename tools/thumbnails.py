"""Composes workflows/*.jpg, the pictures that ComfyUI's Templates browser shows, from what the graphs themselves made.

    python -m tools.thumbnails --results DIR

DIR holds the results of the eight graphs on the two sample photos, each in a folder of its name. A server that has
the pack is asked for them so, from the repository's root:

    for name in full_pipeline train_only seed_search three_pass two_pass_stylize rescue_any_image batch_verify \\
        scene_continuity; do
      identity-lock queue workflows/api/$name.json --out DIR/$name --all \\
        --set "Photo 1.image=assets/photos/synthetic_1.png" --set "Photo 2.image=assets/photos/synthetic_2.png" \\
        --set "Identity.consent=Nobody is depicted: this person was rendered from shape data."
    done

No number is typed in here. A render's drift is the one in its own record. Pictures without a record (an anchor, the
picture before a rescue, a verified photo, the best seed) are measured, as the files stand, by the identity of the same
photos; it is used only if it gives a recorded render that render's own number. ComfyUI's Save Image rounds down, so the
saved copy and the saved negative of batch_verify may measure a little lower or higher than they did in the graph.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from identity_lock.comfy_client.journal import JOURNAL_NAME
from identity_lock.demo.settings import SIZE
from identity_lock.demo.subjects import PHOTOS
from identity_lock.errors import IdentityLockError
from identity_lock.identity.drift import LOCK_THRESHOLD, DriftMeter
from identity_lock.identity.faces import default_detector
from identity_lock.identity.identity import build_identity
from identity_lock.identity.photo import photo_from_array, read_photo
from identity_lock.identity.prepare import prepare_both
from identity_lock.safety.provenance import COMPOSITE, read_record, xmp_packet

from .workflows import FOLDER, SPEC, SUBJECT

FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
SIDE = 512  # px
BACKGROUND, TEXT, FAINT = (24, 32, 40), (220, 228, 235), (140, 152, 165)
LOCKED, MISSED = (96, 200, 140), (230, 110, 100)
MAX_BYTES = 60_000
QUALITIES = (88, 80, 70, 60)
LABEL = xmp_packet(COMPOSITE).encode()
AGREEMENT = 1e-4  # between a recorded drift and the same picture measured here

FIRST, SECOND = (PHOTOS / file for file in SUBJECT.photos)


# ---- what the graphs left


class Shot(NamedTuple):
    """A picture and its drift; None where it has none."""

    picture: Image.Image
    drift: float | None = None


@dataclass(frozen=True)
class Results:
    """The files of one graph's finished job, in the order of its journal: each node's own, node after node."""

    folder: Path
    files: tuple[Path, ...]

    @classmethod
    def read(cls, folder: Path) -> Results:
        journal = folder / JOURNAL_NAME
        if not journal.is_file():
            raise IdentityLockError(f"{folder} holds no {JOURNAL_NAME}; queue the graph with --out {folder}.")
        events = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
        done = [event for event in events if event["event"] == "done"]
        if not done:
            raise IdentityLockError(f"{journal} tells of no finished job; queue the graph {folder.name} again.")
        return cls(folder, tuple(folder / name for name in done[-1]["files"]))

    def named(self, prefix: str) -> list[Path]:
        """The files whose names begin so, by name."""
        found = sorted(path for path in self.files if path.name.startswith(f"{prefix}_"))
        if not found:
            raise IdentityLockError(f"{self.folder} holds no {prefix}_*.png; queue the graph again.")
        return found

    def render(self, prefix: str) -> Path:
        return self.named(prefix)[-1]

    def made_from(self, render: Path, count: int) -> list[Path]:
        """The pictures that a render was made from: its node shows them right before it."""
        at = self.files.index(render)
        if at < count:
            raise IdentityLockError(f"{self.folder} lacks what {render.name} was made from; queue it with --all.")
        return list(self.files[at - count : at])

    def largest(self) -> Image.Image:
        """The plot or the contact sheet. Previews have random names, and all other pictures are smaller."""
        pictures = [_open(path) for path in self.files]
        if not pictures:
            raise IdentityLockError(f"{self.folder} holds no picture; queue the graph again, with --all.")
        return max(pictures, key=lambda picture: picture.width * picture.height)


def recorded(path: Path) -> Shot:
    return Shot(_open(path), float(read_record(path)["drift"]))


def measured(path: Path, meter: DriftMeter) -> Shot:
    picture = _open(path)
    return Shot(picture, meter.measure_one(np.asarray(picture)).value)


def meter_of(photos: Sequence[Path], render: Path) -> DriftMeter:
    """What the graph with these photos, which made this render, measured with.

    Raises IdentityLockError where it gives the render another drift than the record tells.
    """
    record = read_record(render)
    prepared = prepare_both([read_photo(photo) for photo in photos], default_detector(), SPEC.prep)
    references = [photo_from_array(face.pixels, face.source) for face in prepared.references]
    identity = build_identity(references, name=SUBJECT.name, consent=SUBJECT.consent, selection=record["recogniser"])
    meter, _ = identity.meters()
    found = measured(render, meter).drift
    if found is None or abs(found - record["drift"]) > AGREEMENT:
        raise IdentityLockError(
            f"{render} has drift {record['drift']:.4f} by its record, but {found:.4f} by the sample photos; queue the "
            "graphs with the sample photos and the recognisers of this machine."
        )
    return meter


def _open(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


# ---- how a thumbnail is drawn


class Card:
    """A dark square under its title. Positions and sizes in pixels; x of a text is its middle."""

    def __init__(self, title: str) -> None:
        self.image = Image.new("RGB", (SIDE, SIDE), BACKGROUND)
        self._draw = ImageDraw.Draw(self.image)
        self.text(SIDE // 2, 34, title, 28)

    def text(self, x: int, y: int, text: str, size: int, colour: tuple[int, int, int] = TEXT) -> None:
        self._draw.text((x, y), text, font=ImageFont.truetype(FONT, size), fill=colour, anchor="mm")

    def drift(self, x: int, y: int, drift: float | None, size: int) -> None:
        if drift is not None:
            self.text(x, y, f"drift {drift:.3f}", size, _colour(drift))

    def picture(self, picture: Image.Image, x: int, y: int, width: int, height: int) -> None:
        """Fills the box; what does not fit is cut off evenly."""
        scale = max(width / picture.width, height / picture.height)
        size = round(picture.width * scale), round(picture.height * scale)
        enlarged = picture.resize(size, Image.Resampling.LANCZOS)
        left, top = (enlarged.width - width) // 2, (enlarged.height - height) // 2
        self.image.paste(enlarged.crop((left, top, left + width, top + height)), (x, y))

    def photos(self, x: int, y: int, side: int, gap: int) -> None:
        """The two sample photos, one above the other."""
        for row, photo in enumerate((FIRST, SECOND)):
            self.picture(_open(photo), x, y + row * (side + gap), side, side)

    def arrow(self, x: int, y: int, length: int) -> None:
        self._draw.line((x, y, x + length - 4, y), fill=TEXT, width=3)
        self._draw.polygon([(x + length, y), (x + length - 10, y - 6), (x + length - 10, y + 6)], fill=TEXT)

    def row(self, shots: Sequence[tuple[str, Shot]], x: int, y: int, width: int, height: int, gap: int) -> None:
        """Side by side, each with its label and its drift below."""
        size = 20 if width > 200 else 19
        for column, (label, shot) in enumerate(shots):
            left = x + column * (width + gap)
            middle, bottom = left + width // 2, y + height
            self.picture(shot.picture, left, y, width, height)
            self.text(middle, bottom + 27, label, size)
            self.drift(middle, bottom + 60, shot.drift, size)

    def grid(self, shots: Sequence[Shot], *, framed: bool = False) -> None:
        """Four, two in a row, each with its drift below. framed: in the drift's colour."""
        for index, shot in enumerate(shots):
            x, y = 60 + index % 2 * 204, 66 + index // 2 * 218
            self.picture(shot.picture, x, y, 188, 180)
            if framed and shot.drift is not None:
                self._draw.rectangle((x - 2, y - 2, x + 189, y + 181), outline=_colour(shot.drift), width=3)
            self.drift(x + 94, y + 200, shot.drift, 18)

    def jpeg(self) -> bytes:
        """At the best quality that keeps it small."""
        for quality in QUALITIES:
            stream = BytesIO()
            self.image.save(stream, "JPEG", quality=quality, optimize=True, progressive=True, xmp=LABEL)
            if stream.tell() <= MAX_BYTES:
                break
        else:
            raise IdentityLockError(f"A thumbnail takes {stream.tell()} bytes, more than {MAX_BYTES}; show less in it.")
        return stream.getvalue()


def _colour(drift: float) -> tuple[int, int, int]:
    return LOCKED if drift <= LOCK_THRESHOLD else MISSED


# ---- the eight


def full_pipeline(results: Results, meter: DriftMeter) -> Card:
    card = Card("Full pipeline")
    final = recorded(results.render("full_pipeline"))
    card.photos(24, 92, side=150, gap=20)
    card.text(99, 442, "two photos", 18, FAINT)
    card.arrow(180, 252, 26)
    card.picture(final.picture, 208, 92, 280, 320)
    card.drift(348, 442, final.drift, 22)
    return card


def train_only(results: Results, meter: DriftMeter) -> Card:
    card, curves = Card("Train a LoRA"), results.largest()
    card.photos(24, 76, side=100, gap=12)
    card.picture(curves, 142, 76, 346, round(curves.height * 346 / curves.width))
    card.text(SIDE // 2, 476, "  ·  ".join(phase.name for phase in SPEC.plan.phases), 18, FAINT)
    return card


def seed_search(results: Results, meter: DriftMeter) -> Card:
    """The sheet's top, and the drift of its first picture, the best."""
    card, sheet = Card("Seed search"), results.largest()
    best = meter.measure_one(np.asarray(sheet.crop((0, 0, SIZE, SIZE))))
    card.picture(sheet.crop((0, 0, sheet.width, min(sheet.height, round(sheet.width * 0.78)))), 24, 72, 464, 362)
    card.drift(SIDE // 2, 468, best.value, 22)
    return card


def three_pass(results: Results, meter: DriftMeter) -> Card:
    card = Card("Three passes")
    final = results.render("three_pass")
    anchor, styled = (measured(path, meter) for path in results.made_from(final, 2))
    card.row([("anchor", anchor), ("styled", styled), ("rescued", recorded(final))], 18, 110, 152, 220, gap=10)
    return card


def two_pass_stylize(results: Results, meter: DriftMeter) -> Card:
    card = Card("Two passes, two bases")
    final = results.render("two_pass")
    (anchor,) = (measured(path, meter) for path in results.made_from(final, 1))
    card.row([("anchor", anchor), ("another base", recorded(final))], 24, 96, 226, 290, gap=12)
    return card


def rescue_any_image(results: Results, meter: DriftMeter) -> Card:
    """Of the first photo's identity alone: the second one is what is rescued."""
    card = Card("Rescue any picture")
    final = results.render("rescue")
    (styled,) = results.made_from(final, 1)
    before = measured(styled, meter_of([FIRST], final))
    card.row([("before", before), ("after", recorded(final))], 24, 96, 226, 290, gap=12)
    return card


def batch_verify(results: Results, meter: DriftMeter) -> Card:
    card = Card("Verify a batch")
    batch = [*results.named("accepted"), *results.named("rejected")]
    card.grid([measured(path, meter) for path in batch], framed=True)
    return card


def scene_continuity(results: Results, meter: DriftMeter) -> Card:
    card = Card("One seed, four scenes")
    scenes = ("indoor", "field", "rooftop", "garden")
    card.grid([recorded(results.render(f"scene_{scene}")) for scene in scenes])
    return card


THUMBNAILS: dict[str, Callable[[Results, DriftMeter], Card]] = {
    draw.__name__: draw
    for draw in (
        full_pipeline,
        train_only,
        seed_search,
        three_pass,
        two_pass_stylize,
        rescue_any_image,
        batch_verify,
        scene_continuity,
    )
}


def thumbnails(folder: Path) -> dict[str, bytes]:
    """A JPEG for each graph, by the graph's name, from the results in `folder`. Raises IdentityLockError."""
    results = {name: Results.read(folder / name) for name in THUMBNAILS}
    meter = meter_of([FIRST, SECOND], results["full_pipeline"].render("full_pipeline"))
    return {name: draw(results[name], meter).jpeg() for name, draw in THUMBNAILS.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, metavar="DIR", help="the eight graphs' results")
    args = parser.parse_args()
    try:
        made = thumbnails(args.results)
    except IdentityLockError as error:
        parser.exit(1, f"{error}\n")
    for name, data in made.items():
        path = FOLDER / f"{name}.jpg"
        path.write_bytes(data)
        print(f"workflows/{path.name}: {len(data)} bytes")


if __name__ == "__main__":
    main()
