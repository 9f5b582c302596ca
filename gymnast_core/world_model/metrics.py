"""Picture error."""

from __future__ import annotations

import numpy as np


def psnr(truth: np.ndarray, guess: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of uint8 arrays of one shape; capped at 99 for equal pictures."""
    error = np.mean((truth.astype(np.float32) - guess.astype(np.float32)) ** 2)
    return 99.0 if error < 1e-9 else float(min(99.0, 10 * np.log10(255.0**2 / error)))


def ssim(truth: np.ndarray, guess: np.ndarray) -> float:
    """Structural similarity of two pictures (H, W, 3) uint8, sides of at least 11; 1 for equal ones.

    With the Gaussian window and constants of Wang et al., "Image quality assessment" (2004).
    """
    from skimage.metrics import structural_similarity

    return float(
        structural_similarity(
            truth, guess, channel_axis=-1, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
    )
