"""The velocity network: a preconditioned denoiser D(t, x) = c_skip x + c_out F(c_in x, t)."""

import torch
from torch import Tensor, nn

from tasks.transport.field import Guided
from tasks.transport.interpolant import Coefficients, Interpolant, expand


class Denoiser(nn.Module):
    """A velocity field by a network F that predicts a target of unit scale at all times.

    With q = alpha^2 + beta^2 sd^2: c_in = 1/sqrt(q), c_skip = beta sd^2/q, c_out = alpha sd/sqrt(q), so the velocity is
    ((alpha alpha' + beta beta' sd^2)/q) x + (W sd/sqrt(q)) F, which never divides by a small difference.

    Args:
        backbone: maps ``(x, t)`` and labels to the shape of ``x``.
        interpolant: the interpolant of the flow.
        data_std: sd, the standard deviation of the data in its (standardised) units.
    """

    def __init__(self, backbone: nn.Module, *, interpolant: Interpolant, data_std: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.interpolant = interpolant
        self.data_std = data_std

    def forward(self, t: Tensor, x_t: Tensor, label: Tensor | None = None) -> Tensor:
        """Give the denoiser E[x1 | x_t], ``[batch, *dim]``.

        Args:
            t: times, ``[batch]`` or 0-d.
            x_t: states, ``[batch, *dim]``.
            label: class labels, int64 ``[batch]``, -1 where there is none; None: nowhere.
        """
        return precondition(self.backbone, self.interpolant.at(expand(t, x_t)), self.data_std, x_t, t, label=label)

    def denoiser(self, t: Tensor, x_t: Tensor, label: Tensor | None = None) -> Tensor:
        """Give the denoiser; the name that :class:`~tasks.transport.field.VelocityField` asks for."""
        return self.forward(t, x_t, label)

    def velocity(self, t: Tensor, x_t: Tensor, label: Tensor | None = None) -> Tensor:
        """Give the velocity, ``[batch, *dim]``; not finite at t = 1 where W is infinite (``foellmer``, ``vp``)."""
        c = self.interpolant.at(expand(t, x_t))
        return precondition_velocity(self.backbone, c, self.data_std, x_t, t, label=label)

    def given(self, label: Tensor, guidance: float) -> Guided:
        """Give the field of a batch with these labels, int64 ``[batch]``, -1 for none, guided with that weight."""
        return Guided(field=self, label=label, guidance=guidance)


def precondition(
    backbone: nn.Module, c: Coefficients, data_std: float, x: Tensor, *times: Tensor, label: Tensor | None = None
) -> Tensor:
    """Give c_skip x + c_out F(c_in x, *times), ``[batch, *dim]``, with the coefficients ``c`` at the time of ``x``."""
    q = c.noise**2 + (data_std * c.data) ** 2
    raw = backbone(x / q.sqrt(), *times, label=label)
    return torch.as_tensor(c.data * data_std**2 / q * x + c.noise * data_std / q.sqrt() * raw)


def precondition_velocity(
    backbone: nn.Module, c: Coefficients, data_std: float, x: Tensor, *times: Tensor, label: Tensor | None = None
) -> Tensor:
    """Give the velocity of the denoiser that :func:`precondition` gives, ``[batch, *dim]``; infinite where W is."""
    variance = data_std**2
    q = c.noise**2 + variance * c.data**2
    raw = backbone(x / q.sqrt(), *times, label=label)
    slope = (c.noise_product + variance * c.data * c.data_rate) / q
    return torch.as_tensor(slope * x + c.wronskian * data_std / q.sqrt() * raw)
