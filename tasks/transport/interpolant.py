"""Interpolants x_t = alpha(t) x0 + beta(t) x1 between source noise (t = 0) and target data (t = 1).

The one idea to know: ``alpha`` multiplies the *noise*, ``beta`` the *data*, and time runs from noise to data. Formulas:
Ding et al., arXiv 2405.05512, section 2.1. For Foellmer and VP alpha' and W are unbounded at t = 1, but the products
``alpha * alpha'`` and ``alpha * W`` stay finite: use them instead of dividing by alpha.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

VP_BETA_MIN = 0.1
VP_BETA_MAX = 20.0


@dataclass(frozen=True, kw_only=True)
class Coefficients:
    """The interpolant and its derivatives at some times; every field has the shape of ``t``.

    Attributes:
        noise: alpha(t), the coefficient of the source.
        data: beta(t), the coefficient of the target.
        noise_rate: alpha'(t); minus infinity at t = 1 for the variance-preserving ``foellmer`` and ``vp``.
        data_rate: beta'(t).
        wronskian: W(t) = alpha beta' - beta alpha' > 0; infinite where alpha' is.
        noise_product: alpha(t) alpha'(t), finite on all of [0, 1].
        gain: alpha(t) W(t), finite on all of [0, 1].
    """

    noise: Tensor
    data: Tensor
    noise_rate: Tensor
    data_rate: Tensor
    wronskian: Tensor
    noise_product: Tensor
    gain: Tensor


def _linear(t: Tensor) -> Coefficients:
    alpha, ones = 1 - t, torch.ones_like(t)
    return Coefficients(
        noise=alpha, data=t, noise_rate=-ones, data_rate=ones, wronskian=ones, noise_product=-alpha, gain=alpha
    )


def _foellmer(t: Tensor) -> Coefficients:
    ones = torch.ones_like(t)
    alpha = torch.sqrt((1 - t) * (1 + t))
    return Coefficients(
        noise=alpha, data=t, noise_rate=-t / alpha, data_rate=ones, wronskian=1 / alpha, noise_product=-t, gain=ones
    )


def _trigonometric(t: Tensor) -> Coefficients:
    rate = math.pi / 2
    # sin of the complement, because cos(pi / 2) is 6e-17 and not 0 in float64
    alpha, beta = torch.sin(rate * (1 - t)), torch.sin(rate * t)
    return Coefficients(
        noise=alpha,
        data=beta,
        noise_rate=-rate * beta,
        data_rate=rate * alpha,
        wronskian=torch.full_like(t, rate),
        noise_product=-rate * alpha * beta,
        gain=rate * alpha,
    )


def _vp(t: Tensor) -> Coefficients:
    s = 1 - t
    exponent = s * s * (VP_BETA_MAX - VP_BETA_MIN) / 2 + s * VP_BETA_MIN
    beta = torch.exp(-exponent / 2)
    beta_rate = (s * (VP_BETA_MAX - VP_BETA_MIN) + VP_BETA_MIN) * beta / 2
    alpha = torch.sqrt(-torch.expm1(-exponent))
    return Coefficients(
        noise=alpha,
        data=beta,
        noise_rate=-beta * beta_rate / alpha,
        data_rate=beta_rate,
        wronskian=beta_rate / alpha,
        noise_product=-beta * beta_rate,
        gain=beta_rate,
    )


INTERPOLANTS: dict[str, Callable[[Tensor], Coefficients]] = {
    "linear": _linear,
    "foellmer": _foellmer,
    "trigonometric": _trigonometric,
    "vp": _vp,
}


@dataclass(frozen=True)
class Interpolant:
    """One of the interpolants, by name.

    Args:
        kind: ``linear`` (rectified flow, CondOT), ``foellmer`` (variance preserving, the paper's choice),
            ``trigonometric`` or ``vp`` (beta from 0.1 to 20; its law at t = 0 is not quite the source).

    Raises:
        ValueError: the kind is unknown.
    """

    kind: str

    def __post_init__(self) -> None:
        if self.kind not in INTERPOLANTS:
            raise ValueError(f"interpolant.kind must be one of {', '.join(INTERPOLANTS)}, got {self.kind!r}")

    def at(self, t: Tensor) -> Coefficients:
        """Give the coefficients at times ``t`` in [0, 1] (any shape, any float type; float64 where it matters)."""
        return INTERPOLANTS[self.kind](t)


def expand(t: Tensor, x: Tensor) -> Tensor:
    """Reshape times ``[batch]`` to ``[batch, 1, ...]`` so that they multiply ``x [batch, *dim]``; a 0-d time stays."""
    return t if t.ndim == 0 else t.reshape(-1, *[1] * (x.ndim - 1))


def interpolate(interpolant: Interpolant, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
    """Give x_t = alpha(t) x0 + beta(t) x1 for ``t [batch]`` and ``x0, x1 [batch, *dim]``."""
    c = interpolant.at(expand(t, x0))
    return c.noise * x0 + c.data * x1


# The exact identities between velocity, denoiser D = E[x1 | x_t] and score, from v = (alpha'/alpha) x + (W/alpha) D.
# They hold for 0 < t < 1; each names the factor that it divides by, which must not vanish.


def velocity_from_denoiser(interpolant: Interpolant, t: Tensor, x_t: Tensor, denoised: Tensor) -> Tensor:
    """Give the velocity from the denoiser, ``[batch, *dim]``; needs alpha(t) > 0."""
    c = interpolant.at(expand(t, x_t))
    return (c.noise_product * x_t + c.gain * denoised) / c.noise**2


def denoiser_from_velocity(interpolant: Interpolant, t: Tensor, x_t: Tensor, velocity: Tensor) -> Tensor:
    """Give the denoiser (alpha^2 v - alpha alpha' x)/(alpha W), ``[batch, *dim]``; needs alpha(t) W(t) > 0."""
    c = interpolant.at(expand(t, x_t))
    return (c.noise**2 * velocity - c.noise_product * x_t) / c.gain


def score_from_denoiser(interpolant: Interpolant, t: Tensor, x_t: Tensor, denoised: Tensor) -> Tensor:
    """Give the score grad log p_t from the denoiser, ``[batch, *dim]``; needs alpha(t) > 0 (Tweedie's formula)."""
    c = interpolant.at(expand(t, x_t))
    return (c.data * denoised - x_t) / c.noise**2


def denoiser_from_score(interpolant: Interpolant, t: Tensor, x_t: Tensor, score: Tensor) -> Tensor:
    """Give the denoiser from the score, ``[batch, *dim]``; needs beta(t) > 0."""
    c = interpolant.at(expand(t, x_t))
    return (x_t + c.noise**2 * score) / c.data


def velocity_from_score(interpolant: Interpolant, t: Tensor, x_t: Tensor, score: Tensor) -> Tensor:
    """Give the velocity (beta'/beta) x + (alpha W/beta) score, ``[batch, *dim]``; needs beta(t) > 0."""
    c = interpolant.at(expand(t, x_t))
    return (c.data_rate * x_t + c.gain * score) / c.data
