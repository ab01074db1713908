"""STEP sample: noise becomes samples in data units, one network evaluation each, or a few along the times."""

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from storage.atomic import write_atomic
from storage.data import DataStore, Standardisation
from storage.errors import InputError
from storage.paths import Location
from storage.samples import PICTURE, check_sample_path, sample_file
from storage.trajectories import Floats
from tasks.evaluation import images, plots
from tasks.facts import Progress
from tasks.train_generator import StoredGenerator, load_generator
from tasks.training.device import block_rows, local_device
from tasks.training.fitting import labelled
from tasks.transport.losses import TwoTimeMap
from tasks.transport.noise import SAMPLE_LABELS, SAMPLES, class_labels, standard_normal

_BATCH = 4096  # samples that are held
_PICTURED = 10_000  # samples that a picture shows
_SHOWN_CLASSES = 40


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """Which samples are asked for on the command line; checked when drawn."""

    count: int
    steps: int  # network evaluations a sample
    seed: int  # of the source noise
    label: str | None = None  # a class's name or index; None: classes as often as the trajectories have them
    guidance: float = 1.0  # weight w of the map g_none + w (g_label - g_none)


def write_sample_file(
    generator: Location, data: Location, request: SampleRequest, *, out: Path, progress: Progress
) -> tuple[int, ...]:
    """Draw samples, write them in the format of the file's suffix, and give the shape of what was written.

    A ``.png`` shows the first 10,000, images as a grid, points in the plane as a scatter, and other vectors as
    histograms. A path without suffix becomes a folder of images. Where the generator has classes, ``.npz`` and
    ``.zarr`` also hold ``label [count]``, and a folder of images has a folder a class. ``progress`` is told of samples
    once all is found to be right, and after each batch.

    Raises:
        InputError: the file cannot be written, or an argument is out of range.
    """
    stored, store = load_generator(generator, device=local_device("auto")), DataStore(data)
    check_sample_path(out, dim=stored.dim)
    label = find_class(request.label, store.classes, count=stored.classes) if request.label is not None else None
    _require(stored, steps=request.steps, guidance=request.guidance)
    if out.suffix == PICTURE:
        request = replace(request, count=min(request.count, _PICTURED))
    progress(0, request.count, "samples")
    if out.suffix == PICTURE:
        x = _draw(stored, store.standardisation, request, stop=request.count, label=label)
        progress(request.count, request.count, "samples")
        write_atomic(out, picture(x))
        return x.shape
    classes = store.classes if stored.classes else None
    with sample_file(out, count=request.count, dim=stored.dim, classes=classes) as write:
        for start in range(0, request.count, _BATCH):
            stop = min(start + _BATCH, request.count)
            labels = sample_labels(stored, start=start, stop=stop, seed=request.seed, label=label)
            x = _draw(stored, store.standardisation, request, start=start, stop=stop, label=label)
            write(x, None if labels is None else labels.numpy())
            progress(stop, request.count, "samples")
    return (request.count, *stored.dim)


def find_class(text: str, names: tuple[str, ...], *, count: int) -> int:
    """Give the index of the class of that name or, where none is called so, of that number.

    Args:
        text: what a person wrote.
        names: of the classes, in order of index.
        count: number of classes that the generator knows; 0 for an unconditional one.

    Raises:
        InputError: there is no such class, or the generator is unconditional.
    """
    if count == 0:
        raise InputError(f"--label needs a generator with classes (velocity.conditional = true), got {text!r}")
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < count:
        return int(text)
    known = [f"{k} ({names[k]})" if k < len(names) and names[k] != str(k) else str(k) for k in range(count)]
    more = ", ..." if count > _SHOWN_CLASSES else ""
    raise InputError(f"--label {text!r} is unknown; known: {', '.join(known[:_SHOWN_CLASSES])}{more}")


def picture(x: Floats) -> bytes:
    """Give a PNG of samples ``[count, *dim]`` in data units."""
    if image_shape(x.shape[1:]):
        return images.image_grid(x)
    return plots.scatter(x) if x.shape[1:] == (2,) else plots.histograms(x)


def sample(
    generator: Location,
    data: Location,
    *,
    count: int,
    steps: int,
    seed: int,
    label: int | None = None,
    guidance: float = 1.0,
) -> Floats:
    """Draw samples in data units, ``[count, *dim]`` float32; sample i is a function of (seed, i).

    Args:
        generator: folder of the published generator.
        data: the ingested dataset, whose standardisation is undone.
        count: number of samples.
        steps: network evaluations a sample; more than one goes through evenly spaced times of the trajectories.
        seed: of the source noise.
        label: class of all samples; None: each class as often as in the trajectories, if there are classes.
        guidance: weight w of the map g_none + w (g_label - g_none).

    Raises:
        InputError: ``steps`` is not in [1, K], or the generator cannot follow the label or the guidance.
    """
    request = SampleRequest(count=count, steps=steps, seed=seed, guidance=guidance)
    stored = load_generator(generator, device=local_device("auto"))
    return _draw(stored, DataStore(data).standardisation, request, stop=count, label=label)


def sample_rows(
    stored: StoredGenerator,
    standardisation: Standardisation,
    *,
    start: int,
    stop: int,
    steps: int,
    seed: int,
    label: int | None = None,
    guidance: float = 1.0,
) -> Floats:
    """Draw samples ``start <= i < stop`` of a seed, ``[stop - start, *dim]`` float32 in data units.

    Sample i has the same bits whichever others are drawn: the network takes whole blocks of rows, always the same. On
    another device it differs in the last bits.
    """
    times = torch.tensor(_require(stored, steps=steps, guidance=guidance), device=stored.device)
    rows = block_rows(stored.dim, stored.device)
    low, high = start // rows * rows, -(-stop // rows) * rows
    x = np.empty((high - low, *stored.dim), np.float32)
    for first in range(low, high, rows):
        labels = sample_labels(stored, start=first, stop=first + rows, seed=seed, label=label)
        jump = _guided(stored, None if labels is None else labels.to(stored.device), guidance=guidance)
        noise = standard_normal(seed, first, first + rows, stored.dim, stream=SAMPLES)
        state = noise.to(torch.float32).to(stored.device)
        with torch.no_grad():
            for t, s in pairwise(times):
                state = jump(t, s, state)
        x[first - low : first - low + rows] = state.cpu().numpy()
    return np.asarray(standardisation.to_data(x[start - low : stop - low]))


def sample_labels(stored: StoredGenerator, *, start: int, stop: int, seed: int, label: int | None) -> Tensor | None:
    """Give the classes of samples ``start <= i < stop``, int64 ``[stop - start]``; None where there are no classes.

    Args:
        stored: the generator.
        start: first sample.
        stop: one past the last.
        seed: of the samples.
        label: class of all of them; None: class i is a function of (seed, i), as frequent as in the trajectories.

    Raises:
        InputError: the generator has no such class.
    """
    if label is not None:
        if not 0 <= label < stored.classes:
            raise InputError(f"label must be a class of the generator, which has {stored.classes}, got {label}")
        return torch.full((stop - start,), label)
    if stored.classes == 0:
        return None
    return class_labels(seed, start, stop, shares=stored.class_shares, unlabelled_share=0.0, stream=SAMPLE_LABELS)


def _draw(
    stored: StoredGenerator,
    standardisation: Standardisation,
    request: SampleRequest,
    *,
    start: int = 0,
    stop: int,
    label: int | None,
) -> Floats:
    return sample_rows(
        stored,
        standardisation,
        start=start,
        stop=stop,
        steps=request.steps,
        seed=request.seed,
        label=label,
        guidance=request.guidance,
    )


def _require(stored: StoredGenerator, *, steps: int, guidance: float) -> list[float]:
    """Give the times of a sample's path; raise :class:`InputError` where the generator cannot follow it."""
    last = len(stored.times) - 1
    if not 1 <= steps <= last:
        raise InputError(f"--steps must be in [1, {last}], got {steps}")
    _require_guidance(stored, guidance)
    return [stored.times[round(k * last / steps)] for k in range(steps + 1)]


def _require_guidance(stored: StoredGenerator, guidance: float) -> None:
    if not 0 <= guidance < math.inf:
        raise InputError(f"--guidance must be at least 0, got {guidance:g}")
    if guidance == 1:
        return
    if stored.classes == 0:
        raise InputError(f"--guidance other than 1 needs a generator with classes, got {guidance:g}")
    if stored.unlabelled_share == 0:
        raise InputError(
            f"--guidance other than 1 needs trajectories.unlabelled_share above 0, got {guidance:g} and a share of 0"
        )


def _guided(stored: StoredGenerator, label: Tensor | None, *, guidance: float) -> TwoTimeMap:
    """Give the map g_none + w (g_label - g_none) of a batch."""
    plain, none = labelled(stored.generator, label), labelled(stored.generator, None)
    if label is None or guidance == 1:
        return plain

    def jump(t: Tensor, s: Tensor, x: Tensor) -> Tensor:
        without = none(t, s, x)
        return without + guidance * (plain(t, s, x) - without)

    return jump


def image_shape(dim: tuple[int, ...]) -> tuple[int, int, int] | None:
    """Give ``(channels, height, width)`` if a state is an image, else None."""
    if len(dim) == 3 and dim[0] in (1, 3):
        return dim
    if len(dim) == 2 and min(dim) > 1:
        return (1, *dim)
    return None
