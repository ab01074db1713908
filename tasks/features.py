"""The features that an evaluation compares laws in: code from outside, perhaps with weights of a file."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from storage.checksum import digest
from storage.errors import InputError
from storage.trajectories import Floats
from tasks.specs import EvaluationSpec
from tasks.training.checkpoint import weights_of_file
from tasks.training.device import CPU, block_rows
from tasks.training.features import Features, features_of, load_features, told, tried_states

MOST_FEATURES = 4096  # of a state: their covariance, and its root, take the square and the cube of that

_KEY, _WEIGHTS, _DIGEST = "evaluation.features", "evaluation.features_weights", "evaluation.features_digest"
_NAMED = 3  # weights that do not fit, of any number


@dataclass(frozen=True, kw_only=True)
class LawFeatures:
    """A map of states in data units, images in [-1, 1], to the points between which laws are compared."""

    name: str  # module:attribute
    digest: str  # of the file of its weights; empty where none was named
    device: torch.device
    map: Features

    def points(self, x: Floats) -> Floats:
        """Give the features of states ``x [rows, *dim]``, ``[rows, d]`` float64; some states at once.

        Raises:
            InputError: the map fails on them, or gives something else than 1 to 4096 finite numbers of each.
        """
        step = block_rows(x.shape[1:], self.device)
        return np.concatenate([self._points(x[start : start + step]) for start in range(0, len(x), step)])

    def _points(self, x: Floats) -> Floats:
        states = torch.from_numpy(np.ascontiguousarray(x, np.float32)).to(self.device)
        with torch.no_grad():
            found = features_of(self.map, states, name=self.name, key=_KEY)
        flat = found.reshape(len(x), found.numel() // len(x)).cpu().to(torch.float64).numpy()
        if not 1 <= flat.shape[1] <= MOST_FEATURES:
            raise InputError(
                f"{_KEY} = {self.name!r} must give 1 to {MOST_FEATURES} numbers for each state, got {flat.shape[1]}"
            )
        if not np.isfinite(flat).all():
            raise InputError(f"{_KEY} = {self.name!r} must give finite numbers, and gives others")
        return flat


def load_law_features(spec: EvaluationSpec, *, device: torch.device = CPU) -> LawFeatures:
    """Import the features that a configuration names, with the weights that it names.

    Raises:
        InputError: they cannot be imported; or the file of the weights is missing, is no file of weights, has another
            digest than was promised, or does not fit.
    """
    features = load_features(spec.features, key=_KEY, device=device)
    found = ""
    if spec.features_weights:
        content = _read(spec.features_weights)
        found = digest(content)
        if spec.features_digest not in ("", found):
            raise InputError(
                f"{_WEIGHTS} = {spec.features_weights!r} has digest {found}, and {_DIGEST} promises "
                f"{spec.features_digest}"
            )
        features = _with_weights(features, content, spec)
    return LawFeatures(name=spec.features, digest=found, device=device, map=features)


def count_features(features: LawFeatures, dim: tuple[int, ...]) -> int:
    """Give how many numbers the features of a state of shape ``dim`` are; raises ``InputError`` as they do."""
    return int(features.points(tried_states(dim).numpy()).shape[1])


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{_WEIGHTS} = {path!r} cannot be read: {error.strerror}") from error


def _with_weights(features: Features, content: bytes, spec: EvaluationSpec) -> Features:
    """Give a copy of the module with other weights: the user's own may be in use for the generator."""
    subject = f"{_WEIGHTS} = {spec.features_weights!r}"
    if not isinstance(features, nn.Module):
        raise InputError(f"{subject} needs a torch module, and {_KEY} = {spec.features!r} is a function")
    try:
        weights = weights_of_file(content)
    except ValueError as error:
        raise InputError(f"{subject} is no file of weights: {error}") from error
    _require_names(features.state_dict(), weights, subject=f"{subject} does not fit {_KEY} = {spec.features!r}")
    module = copy.deepcopy(features)
    try:
        module.load_state_dict(weights)
    except Exception as error:  # whatever the user's module raises
        raise InputError(f"{subject} does not fit {_KEY} = {spec.features!r}: {told(error)}") from error
    return module


def _require_names(needed: Mapping[str, Tensor], found: Mapping[str, Tensor], *, subject: str) -> None:
    wrong = {
        "misses": [name for name in needed if name not in found],
        "has unknown": [name for name in found if name not in needed],
        "has other shapes of": [name for name in needed if name in found and found[name].shape != needed[name].shape],
    }
    for what, names in wrong.items():
        if names:
            more = ", ..." if len(names) > _NAMED else ""
            raise InputError(f"{subject}: it {what} {', '.join(names[:_NAMED])}{more}")
