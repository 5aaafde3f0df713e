"""Renders a person in a view."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from tools.people.background import paint_background, paint_leaves
from tools.people.eyes import eye_albedo
from tools.people.grade import LOOKS, develop
from tools.people.hair import SHELLS, blow, curtain_opacity, scalp_depth, shell_opacity
from tools.people.light import LightRig, ShadowMap
from tools.people.mesh import Array, Material, figure_mesh
from tools.people.noise import fractal_noise, smoothstep, value_noise
from tools.people.palette import draw_colour, to_linear
from tools.people.person import Person
from tools.people.pose import Camera, Pose
from tools.people.raster import Hits, rasterise, vertex_normals
from tools.people.skin import shirt_cover, skin_albedo, skin_bump
from tools.people.targets import add_expression
from tools.people.view import View

_MOUTH_COLOURS = {
    Material.MOUTH: np.array([0.25, 0.05, 0.045]),
    Material.TEETH: np.array([0.75, 0.70, 0.60]),
    Material.TONGUE: np.array([0.40, 0.12, 0.10]),
}
# The colour of a layer's pixels (n,3) and their opacity (n,).
Layer = Callable[[Hits], tuple[Array, Array]]


@dataclass(frozen=True)
class Figure:
    """A person posed for a view: lashes (V,3) on the base mesh, vertices (N,3) and normals, the curtain's points."""

    base: Array
    points: Array
    normals: Array
    curtain: Array | None


class Canvas:
    """A picture being composed, linear RGB (p,p,3), with its depth buffer (p,p)."""

    def __init__(self, picture: Array, camera: Camera) -> None:
        self.picture = picture
        self.camera = camera
        self.pixels = picture.shape[0]
        self.depth = np.zeros(picture.shape[:2], np.float32)

    def cover(self, points: Array, triangles: Array, cull: bool = False) -> Hits:
        """Pixels where a mesh would be visible."""
        return rasterise(self.camera.project(points, self.pixels), triangles, self.depth, cull)

    def blend(self, hits: Hits, colour: Array, opacity: Array) -> None:
        """Lay colour (n,3) over the picture; what is more than half opaque hides what is behind it."""
        flat, depth = self.picture.reshape(-1, 3), self.depth.reshape(-1)
        flat[hits.pixels] += opacity[:, None] * (colour - flat[hits.pixels])
        solid = opacity > 0.5
        depth[hits.pixels[solid]] = hits.depth[solid]


def render(person: Person, view: View, size: int = 128, look: str = "studio", supersample: int = 2) -> Array:
    """Picture of a person: RGB (size, size, 3) uint8. `look` is 'studio' or 'film'; same arguments, same pixels."""
    if look not in LOOKS:
        raise ValueError(f"look is one of {LOOKS}, not {look!r}")
    film = look == "film"
    pixels = size * supersample
    figure = pose_figure(person, view)
    rig = LightRig.of(view, film)
    # Hair casts no shadow: the side of the face that the light comes from must be the bright one.
    shadows = ShadowMap.cast(figure.points, figure_mesh().triangles, rig.key_direction)
    background = cv2.resize(paint_background(view, size, film), (pixels, pixels), interpolation=cv2.INTER_LINEAR)
    canvas = Canvas(background, Camera.of(view, figure.points, person.head_size))

    draw_body(canvas, person, view, figure, rig, shadows)
    if person.hair.style != "bald":
        draw_shells(canvas, person, figure, rig)
    if figure.curtain is not None:
        draw_curtain(canvas, person, figure.curtain, rig)
    draw_lashes(canvas, person, figure)

    picture = cv2.resize(canvas.picture, (size, size), interpolation=cv2.INTER_AREA)
    leaves = paint_leaves(view, size, _face_circle(canvas.camera, figure))
    if leaves is not None:
        picture += leaves[1][..., None] * (leaves[0] * rig.key.mean() - picture)
    return develop(picture.astype(np.float32), view, look)


def pose_figure(person: Person, view: View) -> Figure:
    """Apply expression, pose and wind."""
    mesh = figure_mesh()
    base = person.shape.copy()
    add_expression(base, view.action_units)
    points = mesh.subdivide @ base
    pose = Pose.of(view, points)
    posed = pose(points)
    curtain = None
    if person.hair.style == "long":
        curtain = pose(blow(person.curtain.points, person.curtain.grid, view.wind))
    return Figure(pose(base), posed, vertex_normals(posed, mesh.triangles), curtain)


def draw_body(canvas: Canvas, person: Person, view: View, figure: Figure, rig: LightRig, shadows: ShadowMap) -> None:
    """Draw skin, shirt, mouth and eyes, and paint the scalp in the colour of the hair."""
    mesh = figure_mesh()
    hits = canvas.cover(figure.points, mesh.triangles, cull=True)
    columns = [mesh.template, figure.normals, figure.points]
    columns += [column[:, None] for column in (person.occlusion, mesh.lip, mesh.lid)]
    gathered = hits.gather(np.concatenate(columns, 1))
    template, normals, points = gathered[:, :3], gathered[:, 3:6], gathered[:, 6:9]
    occlusion, lip, lid = gathered[:, 9:].T
    material = mesh.materials[hits.triangles]
    lit = shadows.lit(points)
    colour = np.zeros_like(points)

    skin = material == Material.SKIN
    colour[skin] = _skin_light(
        person, view, rig, template[skin], normals[skin], occlusion[skin], lit[skin], lip[skin], lid[skin]
    )
    for part, albedo in _MOUTH_COLOURS.items():
        at = material == part
        shade = np.maximum(occlusion[at] * 0.5, 0.22) if part == Material.TEETH else occlusion[at] * 0.2
        colour[at] = rig.shade(normals[at], np.tile(albedo, (at.sum(), 1)), shade, lit[at] * 0.5)
    eye = material == Material.EYE
    colour[eye] = _eye_light(person, view, rig, template[eye], normals[eye], occlusion[eye], lit[eye])
    canvas.blend(hits, colour, np.ones(len(colour), np.float32))


def _skin_light(
    person: Person,
    view: View,
    rig: LightRig,
    template: Array,
    normals: Array,
    occlusion: Array,
    lit: Array,
    lip: Array,
    lid: Array,
) -> Array:
    """Light (n,3) from skin, from the shirt over it and from the scalp under the hair."""
    albedo, beard = skin_albedo(person.skin, template, lip, lid)
    gloss = person.skin.gloss * (1 + 1.5 * lip) * (1 - 0.8 * beard)
    gloss = gloss * (0.6 + 0.8 * value_noise(template, 25, person.seed))
    bumpy = normals + skin_bump(person.skin, template)
    bumpy /= np.linalg.norm(bumpy, axis=1, keepdims=True)
    colour = rig.shade(bumpy, albedo, occlusion, lit, gloss, bleed=0.55)

    shirt = shirt_cover(person.skin, template)
    under = shirt > 0
    if under.any():
        cloth = _shirt_light(view, rig, template[under], normals[under], occlusion[under], lit[under])
        colour[under] += shirt[under, None] * (cloth - colour[under])
    if person.hair.style != "bald":
        depth = scalp_depth(person.hair, template)
        hairy = depth > -0.05
        tint = np.tile(person.hair.colour, (hairy.sum(), 1))
        scalp = rig.shade(bumpy[hairy], tint, occlusion[hairy] * 0.6, lit[hairy])
        colour[hairy] += smoothstep(-0.03, 0.05, depth[hairy])[:, None] * (scalp - colour[hairy])
    return colour


def _shirt_light(view: View, rig: LightRig, template: Array, normals: Array, occlusion: Array, lit: Array) -> Array:
    """Light (n,3) from a shirt of the named colour, with weave and folds."""
    dye = to_linear(draw_colour(view.shirt, np.random.default_rng([view.seed, 6])))
    weave = 0.92 + 0.16 * value_noise(template, 20, view.seed)
    folds = np.stack([fractal_noise(template, 2.2, view.seed + axis, 2) for axis in range(3)], 1) - 0.5
    folded = normals + 0.55 * folds
    folded /= np.linalg.norm(folded, axis=1, keepdims=True)
    # Only some of the light's tint, so that the colour keeps its name.
    return rig.paler(0.65).shade(folded, dye * weave[:, None], np.maximum(occlusion, 0.4), np.maximum(lit, 0.15))


def _eye_light(
    person: Person, view: View, rig: LightRig, template: Array, normals: Array, occlusion: Array, lit: Array
) -> Array:
    """Light (n,3) from the eyes, with the catch light that makes them look alive."""
    albedo = eye_albedo(person.eyes, template, view.gaze)
    shade = np.maximum(occlusion, 0.45) * 0.85
    colour = rig.shade(normals, albedo, shade, np.maximum(lit, 0.35))
    catch_light = 2.2 * np.clip(normals @ rig.halfway, 0, 1) ** 180
    return colour + catch_light[:, None] * rig.key


def draw_shells(canvas: Canvas, person: Person, figure: Figure, rig: LightRig) -> None:
    """Draw the layers of hair that stand off the scalp."""
    mesh = figure_mesh()
    scalp = mesh.skin_triangles[(person.scalp[mesh.skin_triangles] > 0).any(1)]
    used, triangles = np.unique(scalp, return_inverse=True)
    triangles = triangles.reshape(-1, 3).astype(np.int32)
    for layer, share in enumerate(SHELLS):
        offset = (person.shell_offset[used] * share)[:, None]
        points = (figure.points[used] + figure.normals[used] * offset).astype(np.float32)
        normals = vertex_normals(points, triangles)
        hits = canvas.cover(points, triangles, cull=True)
        gathered = hits.gather(np.concatenate([mesh.template[used], normals, person.occlusion[used, None]], 1))
        opacity, strands = shell_opacity(person.hair, gathered[:, :3], share, layer)
        occlusion = (0.35 + 0.65 * share) * np.clip(gathered[:, 6] + 0.15, 0, 1)
        colour = _hair_light(person, rig, gathered[:, 3:6], strands, occlusion)
        canvas.blend(hits, colour, opacity)


def draw_curtain(canvas: Canvas, person: Person, points: Array, rig: LightRig) -> None:
    """Draw long hanging hair; its inside, seen under the jaw, lies in shadow."""
    curtain = person.curtain
    hits = canvas.cover(points, curtain.triangles)
    gathered = hits.gather(np.concatenate([curtain.grid, curtain.points, vertex_normals(points, curtain.triangles)], 1))
    normals = gathered[:, 5:8]
    inside = normals[:, 2] < 0
    opacity, strands = curtain_opacity(person.hair, gathered[:, :2], gathered[:, 2:5])
    occlusion = np.where(inside, 0.30, 0.85)
    lit = np.where(inside, 0.05, 0.85)
    normals = np.where(inside[:, None], -normals, normals)
    canvas.blend(hits, _hair_light(person, rig, normals, strands, occlusion, lit), opacity)


def draw_lashes(canvas: Canvas, person: Person, figure: Figure) -> None:
    """Draw the eyelashes as dark strands."""
    mesh = figure_mesh()
    hits = canvas.cover(figure.base, mesh.lash_triangles)
    u, v = hits.gather(mesh.lash_uvs).T
    strands = value_noise(np.stack([u * 900, v * 60, u * 0], 1), 1, 3)
    opacity = np.clip((strands > 0.5) * person.skin.lashes * 0.8, 0, 1)
    canvas.blend(hits, np.tile(person.skin.brow_colour * 0.25, (len(u), 1)), opacity)


def _hair_light(
    person: Person, rig: LightRig, normals: Array, strands: Array, occlusion: Array, lit: Array | float = 0.85
) -> Array:
    """Light (n,3) from hair with strand coordinates (n,3): streaks, and a band of sheen across the strands."""
    coarse = value_noise(strands, 1, person.seed + 41)
    fine = value_noise(strands, 2.3, person.seed + 42)
    albedo = person.hair.colour * (0.45 + 0.75 * coarse + 0.45 * fine)[:, None]
    visible = np.broadcast_to(np.asarray(lit, np.float32), coarse.shape)
    sheen = np.clip(1 - np.abs(normals @ rig.halfway - 0.9) * 3.2, 0, 1) * (0.5 + coarse) * 0.05 * visible
    shine = rig.key * (0.2 + 3 * person.hair.colour)
    return rig.shade(normals, albedo, occlusion, visible) + sheen[:, None] * shine


def _face_circle(camera: Camera, figure: Figure) -> tuple[float, float, float]:
    """Circle around eyes, nose and mouth in shares of the picture: x, y, radius."""
    template = figure_mesh().template
    face = (template[:, 2] > 1.0) & (template[:, 1] > 6.35) & (template[:, 1] < 7.75)
    seen = camera.project(figure.points[face], 1)[:, :2]
    centre = (seen.min(0) + seen.max(0)) / 2
    return float(centre[0]), float(centre[1]), float(np.linalg.norm(seen - centre, axis=1).max())
