"""The generator: a two-time map g(t, s, x) with g(t, t, x) = x by construction."""

import torch
from torch import Tensor, nn

from tasks.networks.denoiser import precondition
from tasks.transport.interpolant import Interpolant, expand


class Generator(nn.Module):
    """The exponential-integrator step with a learned two-time denoiser (arXiv 2405.05512, section 2.4).

    g(t, s, x) = (alpha_s/alpha_t) x + (beta_s - alpha_s beta_t/alpha_t) D(x, t, s) for t <= s. A generator that starts
    from the weights of a :class:`~tasks.networks.denoiser.Denoiser` is that denoiser's own DDIM step.

    Args:
        backbone: maps ``(x, t, s)`` and labels to the shape of ``x``.
        interpolant: the interpolant of the trajectories.
        data_std: standard deviation of the data in its (standardised) units.
    """

    def __init__(self, backbone: nn.Module, *, interpolant: Interpolant, data_std: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.interpolant = interpolant
        self.data_std = data_std

    def forward(self, t: Tensor, s: Tensor, x_t: Tensor, label: Tensor | None = None) -> Tensor:
        """Give x_s, ``[batch, *dim]``.

        Args:
            t: times of the states, ``[batch]`` or 0-d.
            s: times to go to, alike; not before t.
            x_t: states, ``[batch, *dim]``.
            label: class labels, int64 ``[batch]``, -1 where there is none; None: nowhere.
        """
        now, then = self.interpolant.at(expand(t, x_t)), self.interpolant.at(expand(s, x_t))
        # at t = s = 1 the ratio is 0/0 and the map is the identity
        ratio = torch.where(now.noise > 0, then.noise / now.noise, 1.0)
        denoised = precondition(self.backbone, now, self.data_std, x_t, t, s, label=label)
        return ratio * x_t + (then.data - ratio * now.data) * denoised
