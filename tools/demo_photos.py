"""Make the photos that the demo uses, from synthetic people that the demo base has never seen.

    python -m tools.demo_photos --out assets/photos

Writes three views of one person (two to learn from, one held out) and one portrait each of twenty others. Nobody is
depicted. The seeds lie far from those of the base's own people (see tools/pretrain.py).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from PIL import Image

from tools.people import Person, View, caption, render

SUBJECT_SEED = 500_005
OTHERS_FIRST_SEED = 600_000
OTHERS = 20
PHOTO_SIZE, OTHERS_SIZE = 512, 256


def subject_views() -> dict[str, View]:
    plain = dict(brightness="normal", scene="studio", pitch=0.0, roll=0.0, gaze=(0.0, 0.0), blur=0.0, wind=0.0, dx=0.0)
    return {
        "synthetic_1": View.sample(
            1, **plain, yaw=0.0, expression="neutral", light_tone="neutral", light_side="front", background="gray",
            shirt="blue",
        ),
        "synthetic_2": View.sample(
            2, **plain, yaw=-12.0, expression="smiling", light_tone="neutral", light_side="left", background="white",
            shirt="white",
        ),
        "synthetic_held_out": View.sample(
            3, **plain, yaw=8.0, expression="neutral", light_tone="warm", light_side="right", background="green",
            shirt="gray",
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=SUBJECT_SEED, help="seed of the subject")
    args = parser.parse_args()
    (args.out / "others").mkdir(parents=True, exist_ok=True)
    person = Person.sample(args.seed)
    captions = {}
    for name, view in subject_views().items():
        Image.fromarray(render(person, view, PHOTO_SIZE)).save(args.out / f"{name}.png")
        captions[f"{name}.png"] = caption(person, view)
    (args.out / "captions.json").write_text(json.dumps(captions, indent=1) + "\n")
    for index in range(OTHERS):
        seed = OTHERS_FIRST_SEED + index
        picture = render(Person.sample(seed), View.sample(seed, yaw=0.0, brightness="normal"), OTHERS_SIZE)
        Image.fromarray(picture).save(args.out / "others" / f"synthetic_other_{index + 1:02d}.jpg", quality=92)


if __name__ == "__main__":
    main()
