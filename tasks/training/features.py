"""A map of states that the user names, in which a generator's pairs are compared as well.

It is code from outside, found by Python's own import on every machine that trains, so its folder must be on PYTHONPATH
by its full path: workers run elsewhere.
"""

from collections.abc import Callable
from importlib import import_module
from operator import attrgetter

import torch
from torch import Tensor, nn

from storage.errors import InputError
from tasks.training.device import CPU

Features = Callable[[Tensor], Tensor]

_TRIED_ROWS = 3


def load_features(name: str, *, device: torch.device = CPU) -> Features:
    """Give the map ``[batch, *dim] -> [batch, ...]`` that ``module:attribute`` names; a module frozen, to evaluate.

    Raises:
        InputError: it cannot be imported, or is neither a module instance nor a function.
    """
    place, _, attribute = name.partition(":")
    try:
        found = attrgetter(attribute)(import_module(place))
    except Exception as error:  # whatever the user's module raises
        raise InputError(
            f"generator.features = {name!r} cannot be imported ({_told(error)}); its folder must be on PYTHONPATH, by "
            "its full path, wherever workers run"
        ) from error
    if isinstance(found, type) or not callable(found):
        kind = f"the class {found.__name__}" if isinstance(found, type) else type(found).__name__
        raise InputError(f"generator.features = {name!r} must be a torch module or a function of states, got {kind}")
    if isinstance(found, nn.Module):
        found.eval().requires_grad_(False).to(device)
    features: Features = found
    return features


def require_features(name: str, dim: tuple[int, ...]) -> None:
    """Refuse a map that does not give every state of shape ``dim`` its features, or gives no gradient.

    Raises:
        InputError: as :func:`load_features`, or it fails, or gives something else.
    """
    features = load_features(name)
    x = torch.randn(_TRIED_ROWS, *dim, generator=torch.Generator().manual_seed(0)).requires_grad_()
    try:
        found = features(x)
    except Exception as error:
        raise InputError(
            f"generator.features = {name!r} fails on float32 states of shape {list(x.shape)}: {_told(error)}"
        ) from error
    if not isinstance(found, Tensor) or found.ndim == 0 or len(found) != _TRIED_ROWS:
        got = f"shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise InputError(
            f"generator.features = {name!r} must give a tensor with a row for each state, got {got} for "
            f"{_TRIED_ROWS} states"
        )
    if not found.requires_grad:
        raise InputError(f"generator.features = {name!r} must be differentiable, and what it gives has no gradient")


def feature_error(features: Features, prediction: Tensor, target: Tensor) -> Tensor:
    """Give the squared error of each row's features, ``[batch]``, a mean over them."""
    return ((features(prediction) - features(target)) ** 2).flatten(1).mean(1)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".split("\n", 1)[0]
