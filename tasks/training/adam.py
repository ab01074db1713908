"""Adam, by torch's fused kernel: what changes a network's parameters."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.adamw import adamw

_BETAS = (0.9, 0.99)
_EPSILON = 1e-8
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # by torch's names, as torch's optimiser keeps them


class Adam:
    """Adam (Kingma and Ba, arXiv 1412.6980, algorithm 1), to the bit what ``torch.optim.AdamW(fused=True)`` computes.

    That class imports torch's compiler when it is made, which costs each worker 1 to 2 s of its start.

    Args:
        parameters: what is changed, in place; those without a gradient stay.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self._states = [
            {
                "step": torch.zeros((), device=p.device),
                "exp_avg": torch.zeros_like(p, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(p, requires_grad=False),
            }
            for p in self._parameters
        ]

    def step(self, rate: float) -> None:
        """Change the parameters by their gradients.

        Args:
            rate: of learning.
        """
        states = zip(self._parameters, self._states, strict=True)
        moved = [(p, p.grad, state) for p, state in states if p.grad is not None]
        with torch.no_grad():
            adamw(
                [p for p, _, _ in moved],
                [gradient for _, gradient, _ in moved],
                [state["exp_avg"] for _, _, state in moved],
                [state["exp_avg_sq"] for _, _, state in moved],
                [],
                [state["step"] for _, _, state in moved],
                fused=True,
                amsgrad=False,
                beta1=_BETAS[0],
                beta2=_BETAS[1],
                lr=rate,
                weight_decay=0.0,
                eps=_EPSILON,
                maximize=False,
            )

    def clear(self) -> None:
        """Forget the gradients."""
        for p in self._parameters:
            p.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Give the moments, by the place of their parameters."""
        return {"state": dict(enumerate(self._states))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to the moments of :meth:`state_dict`, or of that of ``torch.optim.AdamW``."""
        for place, found in state["state"].items():
            for name in _MOMENTS:
                self._states[place][name].copy_(found[name])
