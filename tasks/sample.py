"""STEP sample: noise becomes samples in data units, one network evaluation each, or a few along the times."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from storage.atomic import write_atomic
from storage.data import DataStore, Standardisation
from storage.errors import InputError
from storage.export import check_sample_path, write_samples
from storage.trajectories import Floats
from tasks.evaluation import plots
from tasks.train_generator import StoredGenerator, load_generator
from tasks.transport.noise import SAMPLES, standard_normal

_BATCH = 4096


def write_sample_file(generator: Path, data: Path, *, out: Path, count: int, steps: int, seed: int) -> tuple[int, ...]:
    """Draw samples as :func:`sample` does, write them in the format of the file's suffix, and give their shape.

    A ``.png`` shows images as a grid, points in the plane as a scatter, and other vectors as histograms.

    Raises:
        InputError: the file cannot be written, or an argument is out of range.
    """
    check_sample_path(out)
    x = sample(generator, data, count=count, steps=steps, seed=seed)
    if out.suffix == ".png":
        write_atomic(out, picture(x))
    else:
        write_samples(out, x)
    return x.shape


def picture(x: Floats) -> bytes:
    """Give a PNG of samples ``[count, *dim]`` in data units."""
    if image_shape(x.shape[1:]):
        return plots.image_grid(x)
    return plots.scatter(x) if x.shape[1:] == (2,) else plots.histograms(x)


def sample(generator: Path, data: Path, *, count: int, steps: int, seed: int) -> Floats:
    """Draw samples in data units, ``[count, *dim]`` float32; sample i is a function of (seed, i).

    Args:
        generator: folder of the published generator.
        data: the ingested dataset, whose standardisation is undone.
        count: number of samples.
        steps: network evaluations a sample; more than one goes through evenly spaced times of the trajectories.
        seed: of the source noise.

    Raises:
        InputError: ``steps`` is not in [1, K].
    """
    stored = load_generator(generator)
    standardisation = DataStore(data).standardisation
    out = np.empty((count, *stored.dim), np.float32)
    for start in range(0, count, _BATCH):
        stop = min(start + _BATCH, count)
        out[start:stop] = sample_rows(stored, standardisation, start=start, stop=stop, steps=steps, seed=seed)
    return out


def sample_rows(
    stored: StoredGenerator, standardisation: Standardisation, *, start: int, stop: int, steps: int, seed: int
) -> Floats:
    """Draw samples ``start <= i < stop`` of a seed, ``[stop - start, *dim]`` float32 in data units."""
    last = len(stored.times) - 1
    if not 1 <= steps <= last:
        raise InputError(f"--steps must be in [1, {last}], got {steps}")
    path = [stored.times[round(k * last / steps)] for k in range(steps + 1)]
    x = standard_normal(seed, start, stop, stored.dim, stream=SAMPLES).to(torch.float32)
    with torch.no_grad():
        for t, s in pairwise(path):
            x = stored.generator(torch.tensor(t), torch.tensor(s), x)
    return np.asarray(standardisation.to_data(x.numpy()))


def image_shape(dim: tuple[int, ...]) -> tuple[int, int, int] | None:
    """Give ``(channels, height, width)`` if a state is an image, else None."""
    if len(dim) == 3 and dim[0] in (1, 3):
        return dim
    if len(dim) == 2 and min(dim) > 1:
        return (1, *dim)
    return None
