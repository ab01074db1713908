"""Source noise as a function of (seed, stream, row) alone.

Row i reads its own counters of the Philox4x64-10 generator (Salmon et al., SC 2011), so any worker, chunk size, order
or attempt gives the same bits. Streams keep uses apart; synthetic targets take two streams each (2 s and 2 s + 1).
"""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

TRAJECTORIES = 0
SAMPLES = 1
DATA = 2
FRESH_DATA = 3
TRAINING = 4

_WORDS = 4  # 64-bit words of one Philox counter


def standard_normal(seed: int, start: int, stop: int, dim: tuple[int, ...], *, stream: int) -> Tensor:
    """Give rows ``start <= i < stop`` of the endless standard normal array of a seed, ``[stop - start, *dim]`` float64.

    Box-Muller on 53-bit uniforms; costs about 30 ns a number. The last bits may differ between mathematical libraries,
    which float32 rounding nearly always hides.
    """
    size = math.prod(dim)
    uniforms = uniform(seed, start, stop, 2 * ((size + 1) // 2), stream=stream)
    radius = torch.sqrt(-2 * torch.log(uniforms[:, 0::2]))
    angle = (2 * math.pi) * uniforms[:, 1::2]
    pairs = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], -1)
    return pairs.reshape(stop - start, -1)[:, :size].reshape(stop - start, *dim)


def uniform(seed: int, start: int, stop: int, size: int, *, stream: int) -> Tensor:
    """Give rows ``start <= i < stop`` of the endless array of uniforms in (0, 1), ``[stop - start, size]`` float64."""
    words = _words(seed, start, stop, size, stream=stream)
    return torch.from_numpy(((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53)


def _words(seed: int, start: int, stop: int, size: int, *, stream: int) -> npt.NDArray[np.uint64]:
    counters = -(-size // _WORDS)
    generator = np.random.Philox(key=[seed, stream], counter=[start * counters, 0, 0, 0])
    words = generator.random_raw((stop - start) * counters * _WORDS)
    return np.asarray(words).reshape(stop - start, -1)[:, :size]
