"""Whether samples are copies of training points.

A sample counts as memorised when it is far nearer to one training point than to any other: the ratio test of
Yoon et al. (2023) and Gu et al. (arXiv 2310.02664), with their threshold 1/3 on distances, not squares.
"""

import numpy as np

from tasks.evaluation.neighbours import Neighbours


def memorised_fraction(found: Neighbours, *, ratio: float = 1 / 3) -> float:
    """Give the share of samples nearer to one point of the data than ``ratio`` times the second nearest.

    Near-duplicates among the data are not merged, so the share is then a lower bound. Where data lie evenly in d
    (intrinsic) dimensions, chance alone gives about ``ratio`` to the power d: 11 % in the plane.

    Args:
        found: the two nearest distinct points of each sample, or more.
        ratio: threshold, in (0, 1].

    Raises:
        ValueError: the data have fewer than two distinct points, or ``ratio`` is not in (0, 1].
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio must be in (0, 1], got {ratio}")
    two = found.distances[:, :2]
    if not np.isfinite(two[0, 1]):
        raise ValueError(f"memorisation needs at least 2 distinct training points, got {int(np.isfinite(two[0, 0]))}")
    return float((two[:, 0] < ratio * two[:, 1]).mean())
