"""Meters of hallucination: how little an imagined rollout is like anything that the world model learned.

Each is divided by how much the picture moves, and needs nothing but the model itself (arXiv 2606.27326):

* round trip: ||z - Enc(Dec(z))||, how far a frame's latents lie from those of a picture;
* instability: how far the clean frame that the first denoising step foresees lies from the one that is drawn;
* noise: how far frames of the same actions with other noise lie apart.

What they are worth is measured on replayed episodes: how well each tells those that end otherwise than they really did
(AUROC), and the limit above which a rollout had better not be believed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gymnast_core.estimates import area_under_curve
from gymnast_core.world_model.imagine import Imagination

ROUND_TRIP, INSTABILITY, NOISE = "round trip", "instability", "noise"
OWN = (ROUND_TRIP, INSTABILITY)
"""Meters that a rollout has by itself, without replays."""
STILL = 0.05
"""Motion is taken for at least this share of the latents' size, so that a scene at rest is no hallucination."""
MOST_DOUBTED = 0.1
"""A limit doubts at most this share of replayed episodes."""
STANDARD_ERRORS = 2.0
FRAMES_AT_ONCE = 256


@dataclass(frozen=True)
class MeterFigure:
    """What a meter is worth on `episodes` replayed episodes, of which `differed` ended otherwise than they really did.

    auroc: probability that one of these has the higher reading, .5 is chance; NaN is None. limit: rollouts above it are
    not believed; None where the meter tells nothing. agreement: of the episodes within the limit; doubted: share above.
    """

    auroc: float | None
    standard_error: float | None
    episodes: int
    differed: int
    limit: float | None = None
    agreement: float | None = None
    doubted: float | None = None


@torch.no_grad()
def read_meters(imagination: Imagination, rows: Sequence[int] | None = None) -> dict[str, np.ndarray]:
    """The meters `OWN` of each rollout and imagined frame, (N, T) float32. rows: of these N rollouts alone."""
    latents, instability = torch.stack(imagination.latents, dim=1), torch.stack(imagination.instability, dim=1)
    if rows is not None:
        latents, instability = latents[list(rows)], instability[list(rows)]
    return {
        ROUND_TRIP: over_motion(_round_trip(imagination, latents[:, 1:]), latents),
        INSTABILITY: over_motion(instability, latents),
    }


def spread(replays: Sequence[Tensor]) -> np.ndarray:
    """The meter `NOISE`, (N, T) float32, of at least two replays' latents (N, T + 1, h, w, C) of the same actions."""
    stacked = torch.stack(list(replays))
    deviation = stacked[:, :, 1:].std(dim=0, correction=1).square().mean(dim=(2, 3, 4)).sqrt()
    return over_motion(deviation, stacked[0])


def over_motion(readings: Tensor, latents: Tensor) -> np.ndarray:
    """Readings (N, T) of frames 1 .. T over the mean motion of each rollout's latents (N, T + 1, h, w, C) so far."""
    moved = (latents[:, 1:] - latents[:, :-1]).float().square().mean(dim=(2, 3, 4)).sqrt()
    count = torch.arange(1, moved.shape[1] + 1, device=moved.device)
    least = STILL * latents[:, :1].float().square().mean(dim=(2, 3, 4)).sqrt()
    return (readings.float() / torch.maximum(moved.cumsum(1) / count, least)).cpu().numpy()


def of_rollout(readings: np.ndarray, steps: int | None = None) -> float:
    """One number for a rollout's readings (T,), over its first `steps`: their mean."""
    return float(np.mean(readings[:steps]))


def calibrate_meter(readings: np.ndarray, differed: np.ndarray) -> MeterFigure:
    """What a meter's readings (n,) say of `differed` (n,) bool, and its limit.

    The limit is that which leaves the highest agreement while it doubts at most a tenth; there is none for a meter that
    is not better than chance by two standard errors.
    """
    area = area_under_curve(readings, differed)
    n, wrong = len(readings), int(differed.sum())
    figure = MeterFigure(_known(area.mean), _known(area.standard_error), n, wrong)
    if not area.mean - STANDARD_ERRORS * area.standard_error > 0.5:
        return figure
    order = np.argsort(readings, kind="stable")
    least = int(np.ceil(n * (1 - MOST_DOUBTED)))
    agreeing = np.cumsum(~differed[order])
    # Equal readings stand on one side of a limit.
    counts = [kept for kept in range(least, n + 1) if kept == n or readings[order[kept - 1]] < readings[order[kept]]]
    best = max(counts, key=lambda kept: (agreeing[kept - 1] / kept, kept))
    return MeterFigure(
        figure.auroc,
        figure.standard_error,
        n,
        wrong,
        limit=float(readings[order[best - 1]]),
        agreement=float(agreeing[best - 1] / best),
        doubted=float(1 - best / n),
    )


def doubts(readings: Mapping[str, np.ndarray], limits: Mapping[str, float]) -> list[str]:
    """For each rollout why it is not believed, in words, "" where it is. readings: (N, T) by meter."""
    count = len(next(iter(readings.values())))
    words = [""] * count
    for name, limit in limits.items():
        for row in range(count):
            value = of_rollout(readings[name][row])
            if not value <= limit:
                words[row] = words[row] or f"not believed: {name} {value:.2f} is above {limit:.2f}"
    return words


def _round_trip(imagination: Imagination, latents: Tensor) -> Tensor:
    """(N, T) root mean square of z - Enc(Dec(z)) for latents (N, T, h, w, C)."""
    autoencoder = imagination.loaded.autoencoder
    flat = latents.flatten(0, 1)
    parts = []
    for begin in range(0, len(flat), FRAMES_AT_ONCE):
        part = flat[begin : begin + FRAMES_AT_ONCE]
        again = autoencoder.encode(autoencoder.decode(part)).to(part.device)
        parts.append((again.float() - part.float()).square().mean(dim=(1, 2, 3)).sqrt())
    return torch.cat(parts).reshape(latents.shape[:2])


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None
