"""Whether samples have the classes that they should, by the class that a classifier gives each of them."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from tasks.evaluation.comparison import Measured
from tasks.evaluation.distance import Distance, Floats

Labels = npt.NDArray[np.integer[Any]]


def class_balance(label: Labels, shares: Floats) -> Measured:
    """Give the total variation between the classes' shares among samples and those that they should have.

    It is half the sum of the absolute differences. The standard error is the delta method's, up to twice too large
    near the floor, where the signs of the differences are chance. The floor is what as many exact draws have on
    average (:func:`balance_floor`), so its standard error is 0.

    Args:
        label: class of each sample, ``[n]``, from 0.
        shares: of the classes, ``[classes]``, with sum 1; at least two are positive.

    Raises:
        ValueError: a label is no class, or fewer than two shares are positive.
    """
    if (shares > 0).sum() < 2:
        raise ValueError(f"a balance needs at least 2 classes, got {int((shares > 0).sum())}")
    if label.min() < 0 or label.max() >= len(shares):
        raise ValueError(f"labels must be in [0, {len(shares)}), got {label.min()} to {label.max()}")
    n = len(label)
    found = np.bincount(label, minlength=len(shares)) / n
    value, sign = float(abs(found - shares).sum() / 2), np.sign(found - shares)
    error = math.sqrt(max(0.0, float(found @ sign**2 - (found @ sign) ** 2)) / n) / 2
    floor = balance_floor(shares, n=n)
    return Measured(
        distance=Distance(name="class_balance", value=value, standard_error=error, n=n),
        floor=Distance(name="class_balance_floor", value=floor, standard_error=0.0, n=n),
        ratio=Distance(name="class_balance_ratio", value=value / floor, standard_error=error / floor, n=n),
    )


def balance_floor(shares: Floats, *, n: int) -> float:
    """Give the mean total variation between ``shares [classes]`` and those of ``n`` draws from them.

    De Moivre's mean deviation of a binomial, E|X - nq| = 2 v (1 - q) P(X = v) with v the least integer above nq, half
    of its sum over the classes.
    """
    q = shares[(shares > 0) & (shares < 1)]
    v = np.floor(n * q) + 1
    choose = gammaln(n + 1) - gammaln(v + 1) - gammaln(n - v + 1)
    chance = np.exp(choose + v * np.log(q) + (n - v) * np.log1p(-q))
    return float((v * (1 - q) * chance).sum() / n)


def class_agreement(label: Labels, asked: Labels) -> Distance:
    """Give the share of samples whose class, ``label [n]``, is the one that was asked for, with a binomial error."""
    share, n = float((label == asked).mean()), len(label)
    return Distance(name="class_agreement", value=share, standard_error=math.sqrt(share * (1 - share) / n), n=n)
