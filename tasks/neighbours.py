"""What the training points that lie nearest to samples tell: copies, classes, and what samples resemble."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from storage.data import DataStore, Labels
from storage.trajectories import Floats
from tasks.distances import data_blocks, take
from tasks.evaluation.classes import class_agreement, class_balance
from tasks.evaluation.comparison import Measured
from tasks.evaluation.distance import Distance
from tasks.evaluation.memorisation import memorised_fraction
from tasks.evaluation.neighbours import Neighbours, find_neighbours
from tasks.rows import take_labels
from tasks.sample import sample_labels
from tasks.train_generator import StoredGenerator

NEAREST = 3  # that are sought of each sample; two tell of copies

_COMPARED_POINTS = 4000  # samples whose nearest training points are sought, fewer for many dimensions
_COMPARED_VALUES = 2**22  # coordinates of them, at most


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Samples from 0 on, ``[n, *dim]`` in data units, and their nearest training points."""

    samples: Floats
    found: Neighbours

    def nearest(self, data: DataStore, *, count: int) -> list[Floats]:
        """Give the nearest training points of the first samples, then the second nearest, as far as there are any."""
        rows = self.found.rows[:count]
        return [take(data, each) for each in rows.T if (each >= 0).all()]


def compare_with_data(samples: Sequence[Floats], data: DataStore) -> Compared:
    """Find the nearest training points of the first samples of the sets, 4000 or fewer."""
    count = max(1, min(_COMPARED_POINTS, _COMPARED_VALUES // math.prod(data.dim)))
    compared = np.concatenate([each[:count] for each in samples])[:count]
    return Compared(samples=compared, found=find_neighbours(compared, data_blocks(data), k=NEAREST))


def measure_memorised(compared: Compared) -> Distance:
    """Give the share of samples that sit on a training point, with its binomial standard error."""
    share, n = memorised_fraction(compared.found), len(compared.samples)
    return Distance(name="memorised_fraction", value=share, standard_error=math.sqrt(share * (1 - share) / n), n=n)


def measure_balance(compared: Compared, data: DataStore) -> list[Measured]:
    """Give ``class_balance``, a sample's class being its nearest neighbour's, where data have two classes or more."""
    label = _classes(compared, data)
    if label is None or (data.class_shares > 0).sum() < 2:
        return []
    return [class_balance(label, data.class_shares)]


def measure_agreement(compared: Compared, data: DataStore, stored: StoredGenerator, *, seed: int) -> list[Distance]:
    """Give ``class_agreement``, a sample's class being its nearest neighbour's, of a generator that has classes."""
    asked = sample_labels(stored, start=0, stop=len(compared.samples), seed=seed, label=None)
    label = _classes(compared, data)
    return [] if asked is None or label is None else [class_agreement(label, asked.numpy())]


def _classes(compared: Compared, data: DataStore) -> Labels | None:
    return take_labels(data, compared.found.rows[:, 0])
