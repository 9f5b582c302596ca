"""Picture error."""

from __future__ import annotations

import numpy as np


def psnr(truth: np.ndarray, guess: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of uint8 arrays of one shape; capped at 99 for equal pictures."""
    error = np.mean((truth.astype(np.float32) - guess.astype(np.float32)) ** 2)
    return 99.0 if error < 1e-9 else float(min(99.0, 10 * np.log10(255.0**2 / error)))
