"""The generator: a two-time map g(t, s, x) with g(t, t, x) = x by construction."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from tasks.networks.denoiser import precondition, precondition_velocity
from tasks.specs import GENERATOR_FORMS
from tasks.transport.interpolant import Interpolant, expand


class Generator(nn.Module):
    """One step of a solver from t to s with a learned two-time field, so the form is called after the solver.

    ``exponential``: (alpha_s/alpha_t) x + (beta_s - alpha_s beta_t/alpha_t) D(x, t, s), the exponential-integrator step
    with a two-time denoiser (arXiv 2405.05512, section 2.4); at s = 1 it is D itself.
    ``euler``: x + (s - t) u(t, s, x), with u the velocity that belongs to D(x, t, s). It is to become the average
    velocity from t to s, which is what MeanFlow (arXiv 2505.13447) calls it.

    A generator that starts from the weights of a :class:`~tasks.networks.denoiser.Denoiser` is that denoiser's own
    step, since its second time does nothing yet. For both forms d/ds g at s = t is the velocity of D(x, t, t).

    Args:
        backbone: maps ``(x, t, s)`` and labels to the shape of ``x``.
        interpolant: the interpolant of the trajectories.
        data_std: standard deviation of the data in its (standardised) units.
        form: of the step.

    Raises:
        ValueError: the form is unknown.
    """

    def __init__(
        self, backbone: nn.Module, *, interpolant: Interpolant, data_std: float, form: str = "exponential"
    ) -> None:
        super().__init__()
        if form not in GENERATOR_FORMS:
            raise ValueError(f"generator.form must be one of {', '.join(GENERATOR_FORMS)}, got {form!r}")
        self.backbone = backbone
        self.interpolant = interpolant
        self.data_std = data_std
        self.form = form

    def forward(self, t: Tensor, s: Tensor, x_t: Tensor, label: Tensor | None = None) -> Tensor:
        """Give x_s, ``[batch, *dim]``.

        Args:
            t: times of the states, ``[batch]`` or 0-d.
            s: times to go to, alike; not before t.
            x_t: states, ``[batch, *dim]``.
            label: class labels, int64 ``[batch]``, -1 where there is none; None: nowhere.
        """
        match self.form:
            case "exponential":
                return self._exponential(t, s, x_t, label)
            case _:
                return self._euler(t, s, x_t, label)

    def denoiser(self, t: Tensor, x_t: Tensor, label: Tensor | None = None) -> Tensor:
        """Give D(x, t, t), ``[batch, *dim]``, the denoiser on the diagonal, whose velocity the map leaves t with."""
        return precondition(self.backbone, self.interpolant.at(expand(t, x_t)), self.data_std, x_t, t, t, label=label)

    def _exponential(self, t: Tensor, s: Tensor, x_t: Tensor, label: Tensor | None) -> Tensor:
        now, then = self.interpolant.at(expand(t, x_t)), self.interpolant.at(expand(s, x_t))
        # at t = s = 1 the ratio is 0/0 and the map is the identity
        ratio = torch.where(now.noise > 0, then.noise / now.noise, 1.0)
        denoised = precondition(self.backbone, now, self.data_std, x_t, t, s, label=label)
        return ratio * x_t + (then.data - ratio * now.data) * denoised

    def _euler(self, t: Tensor, s: Tensor, x_t: Tensor, label: Tensor | None) -> Tensor:
        now, span = self.interpolant.at(expand(t, x_t)), expand(s - t, x_t)
        # (s - t) W is bounded, also where W is infinite at t = 1: there s = t, and the map is the identity
        now = replace(now, wronskian=torch.where(span != 0, now.wronskian, 0.0))
        return x_t + span * precondition_velocity(self.backbone, now, self.data_std, x_t, t, s, label=label)
