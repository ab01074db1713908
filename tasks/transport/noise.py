"""Source noise as a function of (seed, stream, row) alone.

Row i reads its own counters of the Philox4x64-10 generator (Salmon et al., SC 2011), so any worker, chunk size, order
or attempt gives the same bits. Streams keep uses apart; a synthetic target drawn with stream s takes 2 s and 2 s + 1,
so that 4 to 7 belong to ``DATA`` and ``FRESH_DATA``. Rows of different sizes share bits: one size a stream. Class
labels are such noise, too.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

TRAJECTORIES = 0
SAMPLES = 1
DATA = 2
FRESH_DATA = 3
TRAINING = 8
LABELS = 9
SAMPLE_LABELS = 10
MEASURES = 11
EMBEDDING = 12

UNLABELLED = -1

_WORDS = 4  # 64-bit words of one Philox counter


def standard_normal(seed: int, start: int, stop: int, dim: tuple[int, ...], *, stream: int) -> Tensor:
    """Give rows ``start <= i < stop`` of the endless standard normal array of a seed, ``[stop - start, *dim]`` float64.

    Box-Muller on 52-bit uniforms, so no value exceeds sqrt(106 log 2) = 8.6. The last bits may differ between
    mathematical libraries, which float32 rounding nearly always hides.

    Raises:
        ValueError: the seed is not in [0, 2^64).
    """
    size = math.prod(dim)
    uniforms = uniform(seed, start, stop, 2 * ((size + 1) // 2), stream=stream)
    radius = torch.sqrt(-2 * torch.log(uniforms[:, 0::2]))
    angle = (2 * math.pi) * uniforms[:, 1::2]
    pairs = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], -1)
    return pairs.flatten(1)[:, :size].reshape(stop - start, *dim)


def uniform(seed: int, start: int, stop: int, size: int, *, stream: int) -> Tensor:
    """Give rows ``start <= i < stop`` of the endless array of uniforms in (0, 1), ``[stop - start, size]`` float64.

    Raises:
        ValueError: the seed is not in [0, 2^64).
    """
    words = _words(seed, start, stop, size, stream=stream)
    # 52 bits and a half are exact in float64; with 53 the largest would round to 1, which is outside
    return torch.from_numpy(((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52)


def class_labels(
    seed: int, start: int, stop: int, *, shares: Sequence[float], unlabelled_share: float, stream: int
) -> Tensor:
    """Give the labels of rows ``start <= i < stop``, ``[stop - start]`` int64, each a function of (seed, stream, i).

    A row is ``UNLABELLED`` with probability ``unlabelled_share``, else class k with probability ``shares[k]`` over the
    sum of the shares. It reads two uniforms, so the class of a labelled row does not depend on ``unlabelled_share``.

    Raises:
        ValueError: the shares are no probabilities, or the seed is not in [0, 2^64).
    """
    cumulative = torch.tensor(shares, dtype=torch.float64).cumsum(0)
    if not (min(shares, default=-1.0) >= 0 and 0 < cumulative[-1] < math.inf):
        raise ValueError(f"class shares must be numbers of at least 0 with a positive sum, got {list(shares)}")
    hide, choose = uniform(seed, start, stop, 2, stream=stream).unbind(1)
    # divided by itself the last one is 1 exactly, as are those before it that only classes without share follow
    label = torch.searchsorted(cumulative / cumulative[-1], choose.contiguous(), right=True)
    return torch.where(hide < unlabelled_share, UNLABELLED, label)


def _words(seed: int, start: int, stop: int, size: int, *, stream: int) -> npt.NDArray[np.uint64]:
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be in [0, 2^64), got {seed}")
    counters = -(-size // _WORDS)
    # uint64 arrays, because numpy reads a list with a number above 2^63 as floats and so merges neighbouring seeds
    key = np.array([seed, stream], np.uint64)
    counter = np.array([start * counters, 0, 0, 0], np.uint64)
    words = np.random.Philox(key=key, counter=counter).random_raw((stop - start) * counters * _WORDS)
    return np.asarray(words).reshape(stop - start, counters * _WORDS)[:, :size]
