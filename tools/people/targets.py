"""Shape targets of MakeHuman: sparse vertex offsets, each blended in by a weight."""

from __future__ import annotations

import gzip
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np

from tools.people.mesh import Array, data_folder

ANCESTRIES = ("african", "asian", "caucasian")
FACE_FOLDERS = ("forehead", "eyebrows", "eyes", "nose", "mouth", "cheek", "chin", "ears", "head", "neck")
HEAD_SHAPES = ("diamond", "invertedtriangular", "oval", "rectangular", "round", "square", "triangular")
OPPOSITES = (
    ("decr", "incr"),
    ("down", "up"),
    ("in", "out"),
    ("backward", "forward"),
    ("concave", "convex"),
    ("compress", "uncompress"),
)
# Targets that move the whole head, change its age or only show in profile as defects.
UNWANTED = (
    "head-trans",
    "neck-trans",
    "measure",
    "head-angle",
    "mouth-trans-in",
    "nose-trans-in",
    "mouth-trans-out",
    "nose-trans-out",
    "ear-shape",
    "head-age",
    "laugh-lines",
    "push",
    "septum",
)
BODY_ASYMMETRIES = ("trunk", "breast", "shoulder", "hip")


def target_folder() -> Path:
    """Folder of the shape targets."""
    return data_folder() / "mpfb2/targets"


@cache
def load_target(path: Path) -> tuple[Array, Array]:
    """Vertex indices (K,) and offsets (K,3) of one target file, plain or gzipped."""
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    rows = np.array(" ".join(lines).split(), np.float32).reshape(-1, 4)
    return rows[:, 0].astype(np.int64), rows[:, 1:]


def add_target(vertices: Array, path: Path, weight: float) -> None:
    """Add weight times the target to the base vertices (V,3), in place."""
    if abs(weight) > 1e-4:
        indices, offsets = load_target(path)
        vertices[indices] += np.float32(weight) * offsets


def add_expression(vertices: Array, units: dict[str, float]) -> None:
    """Add facial action units, such as {'jawOpen': 0.3}, to the base vertices (V,3), in place."""
    for name, weight in units.items():
        add_target(vertices, data_folder() / f"faceunits01/targets/faceunits/{name}.target", weight)


@cache
def face_axes() -> dict[str, tuple[Path, Path]]:
    """Every local shape axis of the face with its target towards -1 and its target towards +1."""
    found: dict[str, dict[int, Path]] = defaultdict(dict)
    for folder in FACE_FOLDERS:
        for path in sorted((target_folder() / folder).glob("*.target.gz")):
            name = path.name.removesuffix(".target.gz")
            if any(word in name for word in UNWANTED):
                continue
            for (low, high), (sign, ending) in product(OPPOSITES, ((-1, 0), (1, 1))):
                suffix = "-" + (low, high)[ending]
                if name.endswith(suffix):
                    found[name.removesuffix(suffix)][sign] = path
    return {axis: (ends[-1], ends[1]) for axis, ends in found.items() if len(ends) == 2}


@cache
def head_shapes() -> tuple[Path, ...]:
    """Targets of the overall outline of the head."""
    return tuple(target_folder() / f"head/head-{shape}.target.gz" for shape in HEAD_SHAPES)


@cache
def asymmetries() -> tuple[Path, ...]:
    """Targets that make a face a little lopsided."""
    paths = sorted((target_folder() / "asym").glob("*.target.gz"))
    return tuple(path for path in paths if not any(word in path.name for word in BODY_ASYMMETRIES))


def macro_targets(
    masculinity: float, age: float, ancestry: Sequence[float], weight: float, muscle: float
) -> Iterator[tuple[Path, float]]:
    """Targets and weights of the overall figure.

    Only the adult targets are used: age 0 is MakeHuman's "young" (25 years), age 1 its "old" (90 years).
    `weight` and `muscle` run from -1 to 1 with 0 for average.
    """
    folder = target_folder() / "macrodetails"
    sexes = (("male", masculinity), ("female", 1 - masculinity))
    ages = (("old", age), ("young", 1 - age))
    for (sex, sex_share), (years, age_share) in product(sexes, ages):
        for name, share in zip(ANCESTRIES, ancestry, strict=True):
            yield folder / f"{name}-{sex}-{years}.target.gz", sex_share * age_share * share
        for (muscles, muscle_share), (fat, fat_share) in product(_thirds(muscle), _thirds(weight)):
            path = folder / f"universal-{sex}-{years}-{muscles}muscle-{fat}weight.target.gz"
            if path.exists():  # the all-average figure is the base mesh itself
                yield path, sex_share * age_share * muscle_share * fat_share
    for years, share in ages:  # a flat chest, which a painted-on shirt covers best
        path = target_folder() / f"breast/female-{years}-averagemuscle-averageweight-mincup-averagefirmness.target.gz"
        yield path, (1 - masculinity) * share


def _thirds(value: float) -> tuple[tuple[str, float], ...]:
    """Shares of the max, average and min targets for a value in -1..1."""
    value = max(-1.0, min(1.0, value))
    return ("max", max(value, 0.0)), ("average", 1 - abs(value)), ("min", max(-value, 0.0))
