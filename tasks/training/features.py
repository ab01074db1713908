"""A map of states that the user names, in which a generator's pairs, or laws, are compared as well.

It is code from outside, found by Python's own import on every machine that uses it, so its folder must be on PYTHONPATH
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

_KEY = "generator.features"
_TRIED_ROWS = 3


def load_features(name: str, *, key: str = _KEY, device: torch.device = CPU) -> Features:
    """Give the map ``[batch, *dim] -> [batch, ...]`` that ``module:attribute`` names; a module frozen, to evaluate.

    Args:
        name: ``module:attribute``.
        key: of the configuration, for messages.
        device: that a module is put on.

    Raises:
        InputError: it cannot be imported, or is neither a module instance nor a function.
    """
    place, _, attribute = name.partition(":")
    try:
        found = attrgetter(attribute)(import_module(place))
    except Exception as error:  # whatever the user's module raises
        raise InputError(
            f"{key} = {name!r} cannot be imported ({told(error)}); its folder must be on PYTHONPATH, by "
            "its full path, wherever workers run"
        ) from error
    if isinstance(found, type) or not callable(found):
        kind = f"the class {found.__name__}" if isinstance(found, type) else type(found).__name__
        raise InputError(f"{key} = {name!r} must be a torch module or a function of states, got {kind}")
    if isinstance(found, nn.Module):
        found.eval().requires_grad_(False).to(device)
    features: Features = found
    return features


def require_features(name: str, dim: tuple[int, ...]) -> None:
    """Refuse a map that does not give every state of shape ``dim`` its features, or gives no gradient.

    Raises:
        InputError: as :func:`load_features`, or it fails, or gives something else.
    """
    found = features_of(load_features(name), tried_states(dim).requires_grad_(), name=name)
    if not found.requires_grad:
        raise InputError(f"{_KEY} = {name!r} must be differentiable, and what it gives has no gradient")


def tried_states(dim: tuple[int, ...]) -> Tensor:
    """Give a few random states of a shape, to try a map on."""
    return torch.randn(_TRIED_ROWS, *dim, generator=torch.Generator().manual_seed(0))


def features_of(features: Features, x: Tensor, *, name: str, key: str = _KEY) -> Tensor:
    """Give the features of states ``x [batch, *dim]``, ``[batch, ...]``.

    Raises:
        InputError: the map, called ``name`` under ``key``, fails, or gives something else.
    """
    try:
        found = features(x)
    except Exception as error:
        raise InputError(f"{key} = {name!r} fails on float32 states of shape {list(x.shape)}: {told(error)}") from error
    if not isinstance(found, Tensor) or found.ndim == 0 or len(found) != len(x):
        got = f"shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise InputError(
            f"{key} = {name!r} must give a tensor with a row for each state, got {got} for {len(x)} states"
        )
    return found


def feature_error(features: Features, prediction: Tensor, target: Tensor) -> Tensor:
    """Give the squared error of each row's features, ``[batch]``, a mean over them."""
    return ((features(prediction) - features(target)) ** 2).flatten(1).mean(1)


def told(error: Exception) -> str:
    """Give the kind and the first line of an error of code from outside."""
    return f"{type(error).__name__}: {error}".split("\n", 1)[0]
