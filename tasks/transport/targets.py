"""Targets whose velocity is known exactly: Gaussians and Gaussian mixtures (the oracles).

With C_t = alpha^2 I + beta^2 S a Gaussian target N(m, S) has D = m + beta S C_t^-1 (x - beta m) and
v = beta' m + (alpha alpha' I + beta beta' S) C_t^-1 (x - beta m); a mixture weighs its components' formulas by their
posterior responsibilities. Nothing here divides by alpha, so all is finite at t = 1 wherever S > 0.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tasks.transport.interpolant import Coefficients, Interpolant, expand


@dataclass(frozen=True)
class Gaussian:
    """The law N(mean, covariance) in d dimensions, kept as the eigensystem of its covariance.

    Args:
        mean: ``[d]``.
        covariance: ``[d, d]``, symmetric and positive semi-definite; work in float64.

    Raises:
        ValueError: the shapes do not fit, or the covariance has a negative eigenvalue.
    """

    mean: Tensor
    covariance: Tensor
    _values: Tensor = field(init=False, repr=False)  # eigenvalues [d]
    _vectors: Tensor = field(init=False, repr=False)  # eigenvectors [d, d], in columns

    def __post_init__(self) -> None:
        d = self.mean.shape[0]
        if self.covariance.shape != (d, d):
            raise ValueError(f"covariance must be [{d}, {d}] for a mean of {d}, got {list(self.covariance.shape)}")
        values, vectors = torch.linalg.eigh(self.covariance)
        if values.min() < -1e-10 * values.abs().max():
            raise ValueError(f"covariance must be positive semi-definite, got eigenvalue {values.min().item():g}")
        object.__setattr__(self, "_values", values.clamp_min(0))
        object.__setattr__(self, "_vectors", vectors)

    def sample(self, noise: Tensor) -> Tensor:
        """Map standard normal ``noise [rows, d]`` to draws ``mean + S^(1/2) noise``."""
        return self.mean + self._apply(self._values.sqrt(), noise)

    def affine(self, shift: Tensor, scale: Tensor) -> "Gaussian":
        """Give the law of ``(x - shift) / scale``, with ``shift, scale [d]``."""
        inverse = 1 / scale
        return Gaussian((self.mean - shift) * inverse, inverse[:, None] * self.covariance * inverse)

    def denoiser(self, c: Coefficients, x_t: Tensor) -> Tensor:
        """Give E[x1 | x_t] for ``x_t [batch, d]`` and coefficients ``[batch, 1]`` or 0-d."""
        spectrum = c.data * self._values / self._variance(c)
        return self.mean + self._apply(spectrum, x_t - c.data * self.mean)

    def velocity(self, c: Coefficients, x_t: Tensor) -> Tensor:
        """Give the velocity for ``x_t [batch, d]`` and coefficients ``[batch, 1]`` or 0-d."""
        spectrum = (c.noise_product + c.data * c.data_rate * self._values) / self._variance(c)
        return c.data_rate * self.mean + self._apply(spectrum, x_t - c.data * self.mean)

    def score(self, c: Coefficients, x_t: Tensor) -> Tensor:
        """Give grad log p_t(x_t) = -C_t^-1 (x_t - beta m) for ``x_t [batch, d]`` and coefficients as above."""
        return -self._apply(1 / self._variance(c), x_t - c.data * self.mean)

    def log_density(self, c: Coefficients, x_t: Tensor) -> Tensor:
        """Give log p_t(x_t) up to the constant -(d/2) log(2 pi), ``[batch]``."""
        variance = self._variance(c)
        centred = (x_t - c.data * self.mean) @ self._vectors
        return -0.5 * (centred**2 / variance + variance.log()).sum(-1)

    def flow_map(self, start: Coefficients, end: Coefficients, x: Tensor) -> Tensor:
        """Give the exact characteristic map beta_s m + C_s^(1/2) C_t^(-1/2) (x - beta_t m) for ``x [batch, d]``."""
        ratio = (self._variance(end) / self._variance(start)).sqrt()
        return end.data * self.mean + self._apply(ratio, x - start.data * self.mean)

    def _variance(self, c: Coefficients) -> Tensor:
        return c.noise**2 + c.data**2 * self._values

    def _apply(self, spectrum: Tensor, x: Tensor) -> Tensor:
        return (x @ self._vectors * spectrum) @ self._vectors.T


@dataclass(frozen=True)
class GaussianMixture:
    """The law sum_k weights_k N(m_k, S_k); one component is the Gaussian itself.

    Args:
        weights: positive, ``[k]``; normalised here.
        components: k Gaussians of the same dimension.

    Raises:
        ValueError: numbers of weights and components differ or are zero, or a weight is not positive.
    """

    weights: tuple[float, ...]
    components: tuple[Gaussian, ...]

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.components) or not self.weights:
            raise ValueError(
                f"a mixture needs one weight a component, got {len(self.weights)} for {len(self.components)}"
            )
        if min(self.weights) <= 0:
            raise ValueError(f"mixture weights must be positive, got {self.weights}")

    @property
    def dim(self) -> int:
        """The dimension d."""
        return self.components[0].mean.shape[0]

    def affine(self, shift: Tensor, scale: Tensor) -> "GaussianMixture":
        """Give the law of ``(x - shift) / scale``, with ``shift, scale [d]``."""
        return GaussianMixture(self.weights, tuple(c.affine(shift, scale) for c in self.components))

    def second_moments(self) -> Tensor:
        """Give E x_i^2 of each coordinate, ``[d]``."""
        moments = torch.stack([c.mean**2 + c.covariance.diagonal() for c in self.components])
        return self._normalised(moments.dtype) @ moments

    def sample(self, uniform: Tensor, noise: Tensor) -> Tensor:
        """Map ``uniform [rows]`` in [0, 1) (which component) and normal ``noise [rows, d]`` to draws ``[rows, d]``."""
        edges = torch.cumsum(self._normalised(uniform.dtype), 0)
        component = torch.searchsorted(edges, uniform.contiguous(), right=True).clamp_max(len(self.weights) - 1)
        out = torch.empty_like(noise)
        for k, gaussian in enumerate(self.components):
            rows = component == k
            out[rows] = gaussian.sample(noise[rows])
        return out

    def responsibilities(self, c: Coefficients, x_t: Tensor) -> Tensor:
        """Give each component's posterior weight at ``x_t [batch, d]``, as ``[batch, k]`` with rows summing to 1."""
        logits = torch.stack([g.log_density(c, x_t) for g in self.components], -1)
        return torch.softmax(logits + self._normalised(x_t.dtype).log(), -1)

    def denoiser(self, c: Coefficients, x_t: Tensor) -> Tensor:
        """Give E[x1 | x_t], ``[batch, d]``."""
        return self._mean(c, x_t, [g.denoiser(c, x_t) for g in self.components])

    def velocity(self, c: Coefficients, x_t: Tensor) -> Tensor:
        """Give the velocity, ``[batch, d]``."""
        return self._mean(c, x_t, [g.velocity(c, x_t) for g in self.components])

    def score(self, c: Coefficients, x_t: Tensor) -> Tensor:
        """Give grad log p_t(x_t), ``[batch, d]``."""
        return self._mean(c, x_t, [g.score(c, x_t) for g in self.components])

    def _mean(self, c: Coefficients, x_t: Tensor, values: list[Tensor]) -> Tensor:
        return torch.einsum("bk,kbd->bd", self.responsibilities(c, x_t), torch.stack(values))

    def _normalised(self, dtype: torch.dtype) -> Tensor:
        weights = torch.tensor(self.weights, dtype=dtype)
        return weights / weights.sum()


@dataclass(frozen=True)
class OracleField:
    """The exact velocity field of a Gaussian mixture target; computes in float64 whatever it is given.

    Args:
        interpolant: the interpolant of the flow.
        target: the target law in the units of the states, float64.
    """

    interpolant: Interpolant
    target: GaussianMixture

    def velocity(self, t: Tensor, x_t: Tensor) -> Tensor:
        """Give v(t, x_t) in the shape and type of ``x_t [batch, *dim]``."""
        flat, c = self._float64(t, x_t)
        return self.target.velocity(c, flat).reshape(x_t.shape).to(x_t.dtype)

    def denoiser(self, t: Tensor, x_t: Tensor) -> Tensor:
        """Give E[x1 | x_t] in the shape and type of ``x_t [batch, *dim]``."""
        flat, c = self._float64(t, x_t)
        return self.target.denoiser(c, flat).reshape(x_t.shape).to(x_t.dtype)

    def score(self, t: Tensor, x_t: Tensor) -> Tensor:
        """Give grad log p_t(x_t) in the shape and type of ``x_t [batch, *dim]``."""
        flat, c = self._float64(t, x_t)
        return self.target.score(c, flat).reshape(x_t.shape).to(x_t.dtype)

    def flow_map(self, t: Tensor, s: Tensor, x_t: Tensor) -> Tensor:
        """Give the exact characteristic from time ``t`` to ``s``; a Gaussian target only.

        Raises:
            ValueError: the target has several components, whose flow map has no closed form.
        """
        if len(self.target.components) != 1:
            raise ValueError(f"a flow map in closed form needs one component, got {len(self.target.components)}")
        flat, start = self._float64(t, x_t)
        end = self.interpolant.at(expand(s.to(torch.float64), flat))
        return self.target.components[0].flow_map(start, end, flat).reshape(x_t.shape).to(x_t.dtype)

    def _float64(self, t: Tensor, x_t: Tensor) -> tuple[Tensor, Coefficients]:
        flat = x_t.reshape(x_t.shape[0], -1).to(torch.float64)
        return flat, self.interpolant.at(expand(t.to(torch.float64), flat))
