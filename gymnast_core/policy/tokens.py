"""Action tokens: a normalised action dimension in [-1, 1] is one of `n_bins` tokens at the end of the vocabulary."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


class ActionTokens:
    """Bins of OpenVLA's action tokeniser.

    A bin index j in 0 .. n_bins - 1 is the column of the action logits and the vocabulary id minus the first action
    id, so a higher index is a lower value (index 0 is +1). Between the n_bins edges lie n_bins - 1 centres, so indices
    0 and 1 both decode to the highest centre.
    """

    def __init__(self, n_bins: int) -> None:
        self.n_bins = n_bins
        self.edges = np.linspace(-1.0, 1.0, n_bins)
        self.centers = (self.edges[:-1] + self.edges[1:]) / 2.0

    def encode(self, normalised: Array) -> Array:
        """Bin indices (int64) of values clipped to [-1, 1], same shape."""
        return self.n_bins - np.digitize(np.clip(normalised, -1.0, 1.0), self.edges)

    def decode(self, tokens: Array) -> Array:
        """Bin centres (float64, in [-1, 1]) of bin indices, same shape."""
        return self.centers[np.clip(self.n_bins - np.asarray(tokens) - 1, 0, self.n_bins - 2)]
