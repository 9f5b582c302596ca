"""Objects to place on a table: solids that are drawn and shaded here, and objects cut out of other pictures.

A solid is drawn by casting parallel rays at it under the camera's elevation: far enough away, a camera sees no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from gymnast_core.data.pictures import read_cutout, read_image, read_mask
from gymnast_core.data.sidecar import read_description
from gymnast_core.errors import DataError
from gymnast_core.files import files_below, is_number, user_path

Colour = tuple[float, float, float]
LIGHT = np.array([-0.40, -0.35, 0.85]) / np.linalg.norm([-0.40, -0.35, 0.85])
"""Where the lamp is, as seen from an object: to the left, towards the camera, up. Axes: right, away, up."""
AMBIENT = 0.48
FINER = 3
"""Rays for each pixel and direction."""
CUT_HEIGHT_M = 0.07
"""Height of an object that was cut out and of which nobody says how high it is."""
MASK_END = ".mask.png"


@dataclass(frozen=True)
class Cutout:
    """An object's picture: colour (h, w, 3) float32, 0 to 255, and how much of it covers what is behind, alpha (h, w)
    float32, 0 to 1. foot: column and row at which its middle stands on the table."""

    colour: np.ndarray
    alpha: np.ndarray
    foot: tuple[float, float]


@dataclass(frozen=True)
class Solid:
    """An object that is drawn. shape: "box", "can" or "ball". width, height: metres. colour, band: RGB, 0 to 1; band:
    around a can's middle."""

    name: str
    shape: str
    width: float
    height: float
    colour: Colour
    band: Colour | None = None

    def draw(self, elevation: float, yaw: float, rows_per_metre: float, squash: float) -> Cutout:
        """Its picture from `elevation` radians above, turned by `yaw` radians about the vertical."""
        scale = rows_per_metre * FINER
        reach = int(np.ceil(0.75 * (self.width + self.height) * scale)) + FINER
        across, up = np.meshgrid(np.arange(-reach, reach + 1) / scale, np.arange(reach, -reach - 1, -1) / scale)
        sight = np.array([0.0, np.cos(elevation), -np.sin(elevation)])
        upward = np.array([0.0, np.sin(elevation), np.cos(elevation)])
        origins = across[..., None] * np.array([1.0, 0.0, 0.0]) + up[..., None] * upward - 10.0 * sight
        hit, normals, heights = self._cast(origins, sight, yaw)
        shade = AMBIENT + (1.0 - AMBIENT) * np.clip(normals @ LIGHT, 0.0, None)
        colour = np.broadcast_to(np.array(self.colour), (*hit.shape, 3)).copy()
        if self.band is not None:
            side = (np.abs(normals[..., 2]) < 0.5) & (np.abs(heights / self.height - 0.5) < 0.24)
            colour[side] = self.band
        painted = np.clip(255.0 * colour * shade[..., None], 0.0, 255.0) * hit[..., None]
        size = max(1, round(hit.shape[1] / FINER * squash)), max(1, round(hit.shape[0] / FINER))
        alpha = cv2.resize(hit.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        premultiplied = cv2.resize(painted.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        colour = premultiplied / np.maximum(alpha, 1e-3)[..., None]
        return _trimmed(colour.astype(np.float32), alpha, (size[0] / 2, size[1] / 2))

    def _cast(self, origins: np.ndarray, sight: np.ndarray, yaw: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where rays hit (h, w) bool, with the normals (h, w, 3) and heights (h, w), metres, of what they hit."""
        half = self.width / 2
        level = _between(origins, sight, np.array([0.0, 0.0, 1.0]), 0.0, self.height)
        if self.shape == "ball":
            centre, radii = np.array([0.0, 0.0, self.height / 2]), np.array([half, half, self.height / 2])
            parts = [_inside(origins, sight, centre, radii)]
        elif self.shape == "can":
            parts = [level, _inside(origins, sight, np.zeros(3), np.array([half, half, np.inf]))]
        else:
            along = np.array([np.cos(yaw), np.sin(yaw), 0.0]), np.array([-np.sin(yaw), np.cos(yaw), 0.0])
            parts = [level, *(_between(origins, sight, one, -half, half) for one in along)]
        enters = np.stack([enter for enter, _, _ in parts])
        first = np.argmax(enters, axis=0)
        enter, leave = enters.max(axis=0), np.min([leave for _, leave, _ in parts], axis=0)
        normals = np.take_along_axis(np.stack([n for _, _, n in parts]), first[None, ..., None], axis=0)[0]
        hit = np.isfinite(enter) & (enter < leave)
        heights = origins[..., 2] + np.where(hit, enter, 0.0) * sight[2]
        return hit, normals, heights


Crossing = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Of each ray: where it enters and leaves a shape (metres along it), and the normal where it enters."""


def _between(origins: np.ndarray, sight: np.ndarray, normal: np.ndarray, low: float, high: float) -> Crossing:
    """Crossings of the space between two parallel planes."""
    slope = float(sight @ normal)
    slope = slope if abs(slope) > 1e-9 else 1e-9
    one, other = (low - origins @ normal) / slope, (high - origins @ normal) / slope
    facing = -np.sign(slope) * normal
    return np.minimum(one, other), np.maximum(one, other), np.broadcast_to(facing, origins.shape)


def _inside(origins: np.ndarray, sight: np.ndarray, centre: np.ndarray, radii: np.ndarray) -> Crossing:
    """Crossings of an ellipsoid; an endless radius makes a tube of it."""
    start, way = (origins - centre) / radii, sight / radii
    a, b, c = float(way @ way), start @ way, (start * start).sum(axis=-1) - 1.0
    root = np.sqrt(np.maximum(b * b - a * c, 0.0))
    met = b * b - a * c > 0.0
    enter = np.where(met, (-b - root) / a, np.inf)
    normal = (start + np.where(met, enter, 0.0)[..., None] * way) / radii
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-9)
    return enter, np.where(met, (-b + root) / a, -np.inf), normal


SOLIDS = (
    Solid("red tin", "can", 0.066, 0.10, (0.80, 0.16, 0.12), (0.93, 0.90, 0.82)),
    Solid("green tin", "can", 0.066, 0.085, (0.22, 0.48, 0.24), (0.90, 0.86, 0.50)),
    Solid("white beaker", "can", 0.05, 0.06, (0.90, 0.90, 0.88)),
    Solid("blue block", "box", 0.04, 0.04, (0.16, 0.32, 0.75)),
    Solid("yellow block", "box", 0.035, 0.035, (0.93, 0.78, 0.15)),
    Solid("grey box", "box", 0.05, 0.075, (0.55, 0.57, 0.60)),
    Solid("orange fruit", "ball", 0.065, 0.065, (0.95, 0.52, 0.10)),
    Solid("lime", "ball", 0.048, 0.055, (0.55, 0.72, 0.18)),
    Solid("plum", "ball", 0.042, 0.045, (0.42, 0.14, 0.38)),
)


@dataclass(frozen=True)
class Cut:
    """An object cut out of another picture. pixels: (h, w, 4) uint8 RGBA. height: metres."""

    name: str
    pixels: np.ndarray
    height: float

    def draw(self, elevation: float, yaw: float, rows_per_metre: float, squash: float) -> Cutout:
        """Its picture at the size it has there; it is not turned, but mirrored where `yaw` is above pi."""
        pixels = self.pixels[:, ::-1] if yaw > np.pi else self.pixels
        rows = max(1, round(self.height * rows_per_metre))
        columns = max(1, round(pixels.shape[1] * rows / pixels.shape[0] * squash))
        alpha = pixels[..., 3].astype(np.float32) / 255.0
        smaller = rows <= pixels.shape[0] and columns <= pixels.shape[1]
        how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        size = (columns, rows)
        premultiplied = cv2.resize(pixels[..., :3] * alpha[..., None], size, interpolation=how)
        alpha = cv2.resize(alpha, size, interpolation=how)
        colour = premultiplied / np.maximum(alpha, 1e-3)[..., None]
        return Cutout(colour, alpha, (columns / 2, 0.92 * rows))


Object = Solid | Cut


def cut_out(name: str, frame: np.ndarray, mask: np.ndarray, height: float = CUT_HEIGHT_M) -> Cut:
    """The object that a mask shows in a frame (H, W, 3), with soft edges. Raises: DataError where the mask is empty."""
    if not mask.any():
        raise DataError(f"{name}: its mask is black everywhere; needed white where the object is")
    alpha = cv2.GaussianBlur(mask.astype(np.float32) * 255.0, (3, 3), 0)
    pixels = np.dstack([frame, np.minimum(alpha, 255.0 * mask).astype(np.uint8)])
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return Cut(name, pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], height)


def read_objects(folder: str | Path) -> list[Object]:
    """Objects below a folder, by path: pictures with transparency, or X.png with X.mask.png that is white where the
    object is. X.json beside either may hold {"height": metres, "name": "..."}.

    Raises: DataError naming the file that is wrong, and where there is none.
    """
    folder = user_path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of objects")
    found: list[Object] = []
    for path in files_below(folder, ".png"):
        if path.name.lower().endswith(MASK_END):
            continue
        name, height = _described(path)
        mask = path.with_name(path.name[:-4] + MASK_END)
        if mask.exists():
            frame, shown = read_image(path), read_mask(mask)
            if shown.shape != frame.shape[:2]:
                raise DataError(f"{mask}: found shape {shown.shape}, needed {frame.shape[:2]}, that of {path.name}")
            found.append(cut_out(name, frame, shown, height))
        else:
            pixels = read_cutout(path)
            solid = pixels[..., 3] > 127
            rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
            found.append(Cut(name, pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], height))
    if not found:
        raise DataError(f"{folder}: no object below it; needed PNG files with transparency, or X.png with X.mask.png")
    return found


def _described(path: Path) -> tuple[str, float]:
    """Name and height, metres, of the object in a file."""
    file = path.with_suffix(".json")
    content = read_description(file)
    name, height = content.get("name", path.stem.replace("_", " ")), content.get("height", CUT_HEIGHT_M)
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"{file}: name: found {name!r:.40}, needed text")
    if not is_number(height) or not 0.005 <= height <= 0.5:
        raise DataError(f"{file}: height: found {height!r:.40}, allowed is 0.005 to 0.5 metres")
    return name.strip(), float(height)


def _trimmed(colour: np.ndarray, alpha: np.ndarray, foot: tuple[float, float]) -> Cutout:
    rows, columns = np.flatnonzero(alpha.max(axis=1) > 0.02), np.flatnonzero(alpha.max(axis=0) > 0.02)
    if not len(rows):  # smaller than a ray
        return Cutout(colour[:1, :1], alpha[:1, :1], (0.0, 0.0))
    part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return Cutout(colour[part], alpha[part], (foot[0] - columns[0], foot[1] - rows[0]))
