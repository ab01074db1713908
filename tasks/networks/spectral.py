"""Spectral normalisation: no layer that a state passes through stretches it (after Miyato et al., arXiv 1802.05957).

A layer's weight W is used as W / max(1, sigma), with sigma the norm of the layer as a linear map: for a convolution the
convolution itself at its own side, not its kernel as a matrix, whose norm may be three times too small. Weights of
norm below 1 are left alone, so layers that begin at zero need no care: dividing by sigma would make them noise.
"""

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_input
from torch.nn.utils.parametrize import is_parametrized, register_parametrization, remove_parametrizations

_DIRECTIONS = 4  # that are followed; their costs are those of as many rows of a batch
_FIRST_ITERATIONS = 30  # when made
_TRAINING_ITERATIONS = 1  # a forward pass; weights move slowly and the directions are kept
_EVALUATION_ITERATIONS = 10  # a forward pass; averaged weights come with averaged directions, near theirs


def bound_norms(backbone: nn.Module, dim: tuple[int, ...]) -> None:
    """Bound the norm of every linear and convolution layer of a backbone that a state passes through, by 1.

    Layers that see times and labels alone are left free: they do not enter the Lipschitz constant in x.

    Args:
        backbone: maps ``(x, t)`` to the shape of ``x``; changed in place.
        dim: shape of one state.
    """
    layers = [layer for layer in backbone.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    shapes: dict[nn.Module, torch.Size] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        shapes[layer] = inputs[0].shape

    hooks = [layer.register_forward_hook(note) for layer in layers]
    with torch.no_grad():
        backbone(torch.zeros(2, *dim), torch.tensor(0.5))  # one time for two states: embeddings have one row
    for hook in hooks:
        hook.remove()
    for layer in layers:
        if layer in shapes and shapes[layer][0] == 2:
            register_parametrization(layer, "weight", NormBound(layer, shapes[layer]))


def settle_norms(network: nn.Module) -> None:
    """Replace bounded weights by their present values, so that using a finished network costs nothing extra."""
    network.eval()
    for layer in list(network.modules()):
        if is_parametrized(layer, "weight"):
            remove_parametrizations(layer, "weight")


class NormBound(nn.Module):
    """The parametrisation W -> W / max(1, sigma), with sigma by orthogonal iteration.

    The few directions that the layer stretches most are a buffer, so a resumed training goes on with them; they move
    in training mode only. One direction alone would follow the second largest stretch long after the two have crossed.

    Args:
        layer: whose weight is bounded.
        shape: of its input.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, shape: torch.Size) -> None:
        super().__init__()
        self.stride = layer.stride if isinstance(layer, nn.Conv2d) else ()
        self.padding = layer.padding if isinstance(layer, nn.Conv2d) else ()
        rest = shape[1:] if isinstance(layer, nn.Conv2d) else shape[-1:]
        directions = torch.randn(min(_DIRECTIONS, rest.numel()), *rest, dtype=layer.weight.dtype)
        self.register_buffer("directions", directions)
        self.directions: Tensor
        self.directions.copy_(self._follow(layer.weight, iterations=_FIRST_ITERATIONS))

    def forward(self, weight: Tensor) -> Tensor:
        """Give the weight that is used, of the shape of ``weight``."""
        with torch.autocast(weight.device.type, enabled=False):
            iterations = _TRAINING_ITERATIONS if self.training else _EVALUATION_ITERATIONS
            directions = self._follow(weight, iterations=iterations)
            if self.training:
                self.directions.copy_(directions)
            sigma = torch.linalg.vector_norm(self._push(weight, self._longest(weight, directions)))
            return torch.as_tensor(weight / sigma.clamp(min=1))

    @torch.no_grad()
    def _follow(self, weight: Tensor, *, iterations: int) -> Tensor:
        """Give orthonormal directions after some iterations; where the map is zero they stay."""
        directions = self.directions
        for _ in range(iterations):
            images = self._pull_back(weight, self._push(weight, directions))
            basis, triangle = torch.linalg.qr(images.flatten(1).T)
            # signs that do not flip from step to step, so that a moving average of directions is one
            basis = basis * torch.where(triangle.diagonal() < 0, -1, 1)
            directions = torch.where(images.any(), basis.T.reshape(directions.shape), directions)
        return directions

    @torch.no_grad()
    def _longest(self, weight: Tensor, directions: Tensor) -> Tensor:
        """Give the unit vector in the span of the directions that the layer stretches most, ``[1, *input]``."""
        images = self._push(weight, directions).flatten(1)
        mixture = torch.linalg.eigh(images @ images.T).eigenvectors[:, -1]
        return torch.as_tensor(torch.tensordot(mixture, directions, 1)[None])

    def _push(self, weight: Tensor, x: Tensor) -> Tensor:
        if weight.ndim == 2:
            return x @ weight.T
        return nn.functional.conv2d(x, weight, stride=self.stride, padding=self.padding)

    def _pull_back(self, weight: Tensor, y: Tensor) -> Tensor:
        if weight.ndim == 2:
            return y @ weight
        back = conv2d_input(self.directions.shape, weight, y, self.stride, self.padding)  # type: ignore[no-untyped-call]
        return torch.as_tensor(back)
