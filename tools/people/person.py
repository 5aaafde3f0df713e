"""A synthetic adult: everything that stays the same from picture to picture."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from tools.people import hair as hair_module
from tools.people.eyes import EyeLook
from tools.people.hair import Curtain, HairLook, hang_curtain, scalp_depth
from tools.people.light import ambient_occlusion
from tools.people.mesh import Array, Material, figure_mesh
from tools.people.skin import SkinLook
from tools.people.targets import add_target, asymmetries, face_axes, head_shapes, macro_targets

SEXES = ("woman", "man")
# Shares of MakeHuman's adult range, from "young" (25 years) to "old" (90 years).
AGES = {"young": (0.0, 0.20), "middle-aged": (0.38, 0.60), "old": (0.78, 1.0)}
STYLE_SHARES = {
    "woman": {"bald": 0.03, "short": 0.20, "full": 0.17, "long": 0.60},
    "man": {"bald": 0.15, "short": 0.55, "full": 0.18, "long": 0.12},
}
BEARD_SHARE = 0.45
# How strongly each ancestry's figure goes with dark skin.
_MELANIN = np.array([0.80, 0.35, 0.20])
# The tip of the chin on the template figure.
CHIN = np.array([0.0, 6.25, 1.4])
# Spread of the local shape axes; wider turns faces into caricatures, narrower makes them look alike.
_AXIS_SPREAD = 0.31


@dataclass(frozen=True)
class Person:
    """An identity. `sample` draws one; the heavy parts (shape, occlusion) are computed on first use and kept."""

    seed: int
    sex: str
    age_group: str
    age: float
    masculinity: float
    ancestry: tuple[float, float, float]
    weight: float
    muscle: float
    skin: SkinLook = field(repr=False)
    eyes: EyeLook = field(repr=False)
    hair: HairLook = field(repr=False)

    @classmethod
    def sample(cls, seed: int) -> Person:
        """The person of this seed. Consecutive seeds spread evenly over sex, age, hair and beard."""
        rng = np.random.default_rng([seed, 0])
        man = seed % 2 == 1
        sex = SEXES[man]
        age_group = tuple(AGES)[int(_spread(seed, 2) * len(AGES))]
        age = rng.uniform(*AGES[age_group])
        ancestry = rng.dirichlet([0.5] * 3)
        melanin = float(np.clip(ancestry @ _MELANIN + rng.normal(0, 0.1), 0.02, 1))
        colour = _pick(_spread(seed, 3), _hair_shares(age_group, melanin))
        style = _pick(_spread(seed, 5), STYLE_SHARES[sex])
        look = HairLook.sample(rng, seed, style, colour, man, age)
        bearded = man and _spread(seed, 7) < BEARD_SHARE
        return cls(
            seed=seed,
            sex=sex,
            age_group=age_group,
            age=age,
            masculinity=float(rng.beta(7, 1) if man else rng.beta(1, 7)),
            ancestry=(float(ancestry[0]), float(ancestry[1]), float(ancestry[2])),
            weight=rng.normal(0, 0.5),
            muscle=rng.normal(0, 0.4),
            skin=SkinLook.sample(rng, seed, man, bearded, age, melanin, look.colour),
            eyes=EyeLook.sample(rng, seed, melanin),
            hair=look,
        )

    @property
    def age_years(self) -> float:
        """Age in years, 25 to 90."""
        return 25 + 65 * self.age

    @property
    def bearded(self) -> bool:
        """Whether there is a beard worth naming."""
        return self.skin.beard > 0

    @property
    def hair_length(self) -> str:
        """'bald', 'short' or 'long'."""
        return {"full": "short"}.get(self.hair.style, self.hair.style)

    def with_hair(self, style: str | None = None, colour: str | None = None) -> Person:
        """The same face with hair cut to another style or dyed; brows and beard keep their natural colour."""
        return replace(self, hair=self.hair.restyled(style, colour))

    @cached_property
    def shape(self) -> Array:
        """Base vertices (V,3) of this person with a neutral expression."""
        rng = np.random.default_rng([self.seed, 1])
        vertices = figure_mesh().base.copy()
        for path, share in macro_targets(self.masculinity, self.age, self.ancestry, self.weight, self.muscle):
            add_target(vertices, path, share)
        # Both sides of the face share a value, plus a little asymmetry.
        values: dict[str, float] = {}
        for axis, (low, high) in face_axes().items():
            paired = axis[:2] in ("l-", "r-")
            name = axis[2:] if paired else axis
            if name not in values:
                values[name] = float(np.clip(rng.normal(0, _axis_spread(name)), -1, 1))
            value = values[name] + (rng.normal(0, 0.06) if paired else 0.0)
            add_target(vertices, high if value > 0 else low, abs(value))
        add_target(vertices, head_shapes()[rng.integers(len(head_shapes()))], rng.uniform(0.2, 0.8))
        for index in rng.choice(len(asymmetries()), 6, replace=False):
            add_target(vertices, asymmetries()[index], abs(rng.normal(0, 0.25)))
        return vertices

    @cached_property
    def head_size(self) -> float:
        """Height of the head from chin to crown, as a factor of the template's height."""
        mesh = figure_mesh()
        used = np.unique(mesh.base_triangles)
        chin = used[np.argmin(((mesh.base[used] - CHIN) ** 2).sum(1))]
        heights = [vertices[used, 1].max() - vertices[chin, 1] for vertices in (self.shape, mesh.base)]
        return float(heights[0] / heights[1])

    @cached_property
    def occlusion(self) -> Array:
        """Share of the sky each vertex (N,) sees, 0..1."""
        mesh = figure_mesh()
        return mesh.subdivide @ ambient_occlusion(self.shape, mesh.base_triangles)

    @cached_property
    def scalp(self) -> Array:
        """Signed distance (N,) of every vertex from the hairline."""
        return scalp_depth(self.hair, figure_mesh().template)

    @cached_property
    def shell_offset(self) -> Array:
        """How far (N,) the hair shell stands off every vertex."""
        return hair_module.shell_offset(self.hair, figure_mesh().template, self.scalp)

    @cached_property
    def curtain(self) -> Curtain:
        """Long hair in neutral pose."""
        mesh = figure_mesh()
        points = mesh.subdivide @ self.shape
        skin = np.unique(mesh.triangles[mesh.materials == Material.SKIN])
        return hang_curtain(self.hair, points[skin[mesh.template[skin, 1] > 6.7]])


def _axis_spread(name: str) -> float:
    # Proportions that make an adult look like a child or a caricature: kept near the average.
    if name.startswith(("neck", "ear-", "head-scale", "eye-scale")):
        return 0.14
    if name.startswith("eye-"):
        return 0.33
    if "cleft" in name or "jaw-drop" in name:
        return 0.25
    return _AXIS_SPREAD


def _hair_shares(age_group: str, melanin: float) -> dict[str, float]:
    """Shares of the natural hair colours, for an age and a skin."""
    light = max(0.0, 1 - 1.6 * melanin)
    gray = {"young": 0.0, "middle-aged": 0.15, "old": 1.6}[age_group]
    return {"black": 0.15 + 1.2 * melanin, "brown": 0.45, "blond": 0.75 * light, "red": 0.5 * light, "gray": gray}


def _spread(seed: int, prime: int) -> float:
    """Value in 0..1 that fills the interval evenly over consecutive seeds; one independent sequence per prime."""
    return (0.5 + seed * np.sqrt(prime)) % 1.0


def _pick(value: float, shares: dict[str, float]) -> str:
    """The name at a value in 0..1 when the names are laid out by their shares."""
    limits = np.cumsum(list(shares.values()))
    index = int(np.searchsorted(limits / limits[-1], value, side="right"))
    return tuple(shares)[min(index, len(shares) - 1)]
