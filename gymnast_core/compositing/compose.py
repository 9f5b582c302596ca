"""Objects placed on the bare table of a frame. They cover nothing else, so the task stays as possible as it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from gymnast_core.compositing.masks import grow
from gymnast_core.compositing.objects import Cutout, Object
from gymnast_core.compositing.plane import TablePlane

TRIES = 80
"""Places that are tried for each object."""
SHADOW = 0.42
"""Share of the light that an object takes from the table right beside it."""
SMALLEST = 5
"""Rows; what is smaller is no object to a camera."""


@dataclass(frozen=True)
class Placed:
    """What was placed where. box: left, top, width, height in pixels. foot: column and row where it stands.
    height: of the object, metres."""

    name: str
    box: tuple[int, int, int, int]
    foot: tuple[int, int]
    height: float


@dataclass(frozen=True)
class Scene:
    """A frame (H, W, 3) uint8 with what is known of it: protected (H, W) bool pixels, which never change; the bare
    table (H, W) bool; how the camera sees the table."""

    frame: np.ndarray
    protected: np.ndarray
    table: np.ndarray
    plane: TablePlane


def compose(
    scene: Scene, objects: Sequence[Object], count: int, clearance: int, random: np.random.Generator
) -> tuple[np.ndarray, list[Placed]]:
    """The frame with up to `count` different objects on the table, and what was placed where; fewer where there is no
    room for more. Every pixel that is protected, or less than `clearance` pixels from one, is the frame's own.
    """
    free = scene.table & ~grow(scene.protected, clearance)
    picture = scene.frame.astype(np.float32)
    placed: list[Placed] = []
    for number in random.permutation(len(objects))[:count].tolist():
        found = _find_place(scene, objects[number], free, random)
        if found is None:
            continue
        cutout, left, top, foot = found
        height, width = cutout.alpha.shape
        placed.append(Placed(objects[number].name, (left, top, width, height), foot, objects[number].height))
        _cast_shadow(picture, cutout, left, top, foot, free)
        _paint(picture, cutout, left, top, scene)
        taken = np.zeros_like(free)
        taken[top : top + height, left : left + width] = True
        free &= ~grow(taken, 1)
    edited = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    return np.where(scene.protected[..., None], scene.frame, edited), placed


def _find_place(
    scene: Scene, thing: Object, free: np.ndarray, random: np.random.Generator
) -> tuple[Cutout, int, int, tuple[int, int]] | None:
    """A picture of the object that covers free pixels alone, its left and top, and its foot; None without a place."""
    rows, columns = np.nonzero(free)
    for _ in range(TRIES if len(rows) else 0):
        pick = int(random.integers(len(rows)))
        row, column = int(rows[pick]), int(columns[pick])
        yaw = float(random.uniform(0.0, 2.0 * np.pi))
        scale = scene.plane.rows_per_metre(row)
        if not SMALLEST <= thing.height * scale <= 0.6 * scene.plane.rows:
            continue
        cutout = thing.draw(max(0.05, scene.plane.elevation(row)), yaw, scale, scene.plane.squash)
        height, width = cutout.alpha.shape
        left, top = round(column - cutout.foot[0]), round(row - cutout.foot[1])
        if left < 0 or top < 0 or left + width > free.shape[1] or top + height > free.shape[0]:
            continue
        if free[top : top + height, left : left + width][cutout.alpha > 0.0].all():
            return cutout, left, top, (column, row)
    return None


def _cast_shadow(
    picture: np.ndarray, cutout: Cutout, left: int, top: int, foot: tuple[int, int], free: np.ndarray
) -> None:
    """Darken the table around an object's foot, away from the lamp; free pixels alone."""
    height, width = cutout.alpha.shape
    dark = np.zeros(free.shape, dtype=np.float32)
    axes = max(2, round(0.62 * width)), max(1, round(0.24 * width))
    cv2.ellipse(dark, (foot[0] + round(0.12 * width), min(foot[1], top + height - 1)), axes, 0, 0, 360, 1.0, -1)
    side = 2 * max(1, width // 6) + 1
    dark = cv2.GaussianBlur(dark, (side, side), 0)
    picture *= 1.0 - SHADOW * (dark * free)[..., None]


def _paint(picture: np.ndarray, cutout: Cutout, left: int, top: int, scene: Scene) -> None:
    """Lay the object over the picture, as bright as the place where it stands."""
    height, width = cutout.alpha.shape
    part = picture[top : top + height, left : left + width]
    light = scene.frame.astype(np.float32).mean(axis=2)
    here = light[top : top + height, left : left + width].mean()
    gain = float(np.clip(here / max(1.0, float(np.median(light[scene.table]))), 0.7, 1.25))
    gain *= float(np.clip(light.mean() / 120.0, 0.65, 1.15))
    cover = cutout.alpha[..., None]
    part[:] = part * (1.0 - cover) + np.clip(cutout.colour * gain, 0.0, 255.0) * cover
