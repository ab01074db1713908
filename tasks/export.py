"""STEP export: a generator as files that need no charflow: weights, specification, a program of ``torch.export``."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from storage.atomic import atomic_folder
from storage.data import DataStore
from storage.errors import InputError
from storage.models import read_model
from storage.paths import Location
from storage.records import pretty
from storage.samples import require_folder
from tasks.train_generator import StoredGenerator, load_generator
from tasks.transport.noise import SAMPLES, standard_normal

PROGRAM, WEIGHTS, SPEC = "generator.pt2", "model.safetensors", "spec.json"

_ROWS = 3  # of the example; more than one, because torch takes sizes of one for constants
_TOLERANCE = 1e-5  # of the largest output


@dataclass(frozen=True, kw_only=True)
class ExportSummary:
    """What was written."""

    files: tuple[str, ...]
    difference: float  # largest of the program's outputs from the generator's, in standardised units


def check_export_path(out: Path) -> None:
    """Raise :class:`InputError` unless a generator can be exported to that folder."""
    require_folder(out)
    if out.exists() and not (out.is_dir() and _is_replaceable({p.name for p in out.iterdir()})):
        raise InputError(
            f"--out {str(out)!r} is there and holds no export, or more; name another place, or remove it first"
        )


def _is_replaceable(names: set[str]) -> bool:
    return not names or {PROGRAM} <= names <= {PROGRAM, WEIGHTS, SPEC}


def export_generator(generator: Location, data: Location, *, out: Path) -> ExportSummary:
    """Write a published generator to the folder ``out``, whole or not at all, replacing an earlier export.

    The program maps (t, s, x_t) and, where there are classes, label (int64, -1: none), each with any number of rows, to
    x_s in standardised units: a sample is ``mean + scale * g(0, T, noise)`` with the numbers of ``spec.json``.

    Args:
        generator: folder of the published generator.
        data: the ingested dataset, for its units and the names of its classes.
        out: the folder.

    Raises:
        InputError: the folder cannot be made.
        ArithmeticError: the program's outputs are not the generator's.
    """
    check_export_path(out)
    model, stored, store = read_model(generator), load_generator(generator), DataStore(data)
    spec = {
        **model.spec,
        "mean": store.standardisation.mean.tolist(),
        "scale": store.standardisation.scale.tolist(),
        "class_names": list(store.classes) if stored.classes else [],
        "sample": {"t": stored.times[0], "s": stored.times[-1]},
    }
    with atomic_folder(out) as folder:
        torch.export.save(_program(stored), folder / PROGRAM)
        difference = _compare(stored, folder / PROGRAM)
        (folder / WEIGHTS).write_bytes(model.weights)
        (folder / SPEC).write_bytes(pretty(spec))
    return ExportSummary(files=(PROGRAM, WEIGHTS, SPEC), difference=difference)


def _program(stored: StoredGenerator) -> torch.export.ExportedProgram:
    example = _arguments(stored, start=0, stop=_ROWS)
    batch = torch.export.Dim("batch", min=1)
    return torch.export.export(stored.generator, example, dynamic_shapes=tuple({0: batch} for _ in example))


def _compare(stored: StoredGenerator, file: Path) -> float:
    """Give how far the program in a file is from the generator, on other numbers of rows than it was made with."""
    program = torch.export.load(file).module()
    largest, difference = 0.0, 0.0
    for start, stop in ((0, 1), (1, 6)):
        arguments = _arguments(stored, start=start, stop=stop)
        with torch.no_grad():
            expected, found = stored.generator(*arguments), program(*arguments)
        largest = max(largest, float(expected.abs().max()))
        difference = max(difference, float((found - expected).abs().max()))
    if not difference <= _TOLERANCE * max(1.0, largest):
        raise ArithmeticError(f"the exported program differs from the generator by {difference:g}; nothing was written")
    return difference


def _arguments(stored: StoredGenerator, *, start: int, stop: int) -> tuple[Tensor, ...]:
    """Give rows of states at various times, and labels of every kind where there are classes."""
    rows = torch.arange(start, stop)
    first, last = stored.times[0], stored.times[-1]
    t = first + (last - first) * (rows % 4).float() / 5
    x = standard_normal(0, start, stop, stored.dim, stream=SAMPLES).float()
    label = (rows % (stored.classes + 1) - 1,) if stored.classes else ()
    return (t, torch.full_like(t, last), x, *label)
