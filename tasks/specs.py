"""Every knob of this layer and the references handed between steps; standard library only, so the command line starts fast.

A spec is a frozen request, checked when made. Field comments give units and ranges; a section's name in the
configuration is part of each message, because a person reads it.
"""

from dataclasses import dataclass

INTERPOLANT_KINDS = ("linear", "foellmer", "trigonometric", "vp")
SYNTHETIC_KINDS = ("gaussian", "mixture", "moons", "swiss_roll", "checkerboard", "rings")
ORACLE_KINDS = ("gaussian", "mixture")
VELOCITY_KINDS = ("oracle", "network")
SOLVER_KINDS = ("euler", "exponential", "heun")
GRID_KINDS = ("uniform", "karras")
NETWORK_KINDS = ("mlp",)


def require(is_valid: bool, message: str) -> None:
    """Raise ``ValueError(message)`` unless valid."""
    if not is_valid:
        raise ValueError(message)


def require_one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ``ValueError`` that names the key, the value and what is allowed, unless it is one of them."""
    require(value in allowed, f"{key} must be one of {', '.join(allowed)}, got {value!r}")


def require_at_least(key: str, value: float, least: float) -> None:
    """Raise ``ValueError`` unless ``value >= least``."""
    require(value >= least, f"{key} must be at least {least:g}, got {value:g}")


def require_positive(key: str, value: float) -> None:
    """Raise ``ValueError`` unless ``value > 0``."""
    require(value > 0, f"{key} must be positive, got {value:g}")


@dataclass(frozen=True, kw_only=True)
class TargetSpec:
    """A synthetic target, with one mean and standard deviation a dimension (Gaussian kinds only)."""

    kind: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    components: int = 8


@dataclass(frozen=True, kw_only=True)
class InterpolantSpec:
    """Which interpolant carries noise to data."""

    kind: str = "linear"

    def __post_init__(self) -> None:
        require_one_of("interpolant.kind", self.kind, INTERPOLANT_KINDS)


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """A backbone and its sizes."""

    kind: str = "mlp"
    width: int = 256  # features of a hidden layer
    depth: int = 4  # hidden layers
    fourier: int = 0  # random Fourier features of x at the input; 0 for none
    fourier_scale: float = 2.0  # standard deviation of their frequencies, radians per standardised unit

    def __post_init__(self) -> None:
        require_one_of("network.kind", self.kind, NETWORK_KINDS)
        require_at_least("network.width", self.width, 2)
        require_at_least("network.depth", self.depth, 1)
        require_at_least("network.fourier", self.fourier, 0)
        require_positive("network.fourier_scale", self.fourier_scale)


@dataclass(frozen=True, kw_only=True)
class OptimiserSpec:
    """Knobs that both trainings share, made of a section's own keys."""

    section: str
    steps: int
    batch_size: int
    learning_rate: float
    workers: int
    warmup: int
    ema: float
    clip: float

    def __post_init__(self) -> None:
        require_at_least(f"{self.section}.steps", self.steps, 1)
        require_at_least(f"{self.section}.batch_size", self.batch_size, 1)
        require_positive(f"{self.section}.learning_rate", self.learning_rate)
        require_at_least(f"{self.section}.workers", self.workers, 1)
        require_at_least(f"{self.section}.warmup", self.warmup, 0)
        require(0 <= self.ema < 1, f"{self.section}.ema must be in [0, 1), got {self.ema:g}")
        require_positive(f"{self.section}.clip", self.clip)
        require(
            self.batch_size % self.workers == 0,
            f"{self.section}.batch_size must be a multiple of {self.section}.workers ({self.workers}), got {self.batch_size}",
        )


@dataclass(frozen=True, kw_only=True)
class VelocitySpec:
    """How the velocity is estimated."""

    kind: str = "network"
    network: NetworkSpec = NetworkSpec()
    steps: int = 4000  # optimiser steps
    batch_size: int = 1024  # global, over all workers
    learning_rate: float = 1e-3  # peak, after the warm-up and before the cosine
    workers: int = 2  # Ray Train workers
    warmup: int = 200  # optimiser steps
    ema: float = 0.999  # final decay of the weights' moving average
    clip: float = 1.0  # largest norm of the gradient

    def __post_init__(self) -> None:
        require_one_of("velocity.kind", self.kind, VELOCITY_KINDS)
        self.optimiser()

    def optimiser(self) -> OptimiserSpec:
        """Give the training knobs; raises ``ValueError`` where one is out of range."""
        return optimiser_of("velocity", self)


@dataclass(frozen=True, kw_only=True)
class TrajectoriesSpec:
    """Which characteristics are simulated, and how they are kept."""

    count: int = 100_000  # trajectories
    steps: int = 32  # K solver steps, so K + 1 stored times
    stop: float = 0.999  # T, the early-stopping time in (0, 1]
    solver: str = "euler"
    grid: str = "uniform"
    rho: float = 7.0  # exponent of the karras grid
    chunk_rows: int = 0  # rows of a chunk; 0: as many as make about 8 MB
    sub_batch: int = 1024  # rows solved at once, so that activations stay in cache
    precision: str = "float32"
    codec: str = "none"  # every codec ends in CRC32C
    save: str = "all"

    def __post_init__(self) -> None:
        require_at_least("trajectories.count", self.count, 1)
        require_at_least("trajectories.steps", self.steps, 1)
        require(0 < self.stop <= 1, f"trajectories.stop must be in (0, 1], got {self.stop:g}")
        require_one_of("trajectories.solver", self.solver, SOLVER_KINDS)
        require_one_of("trajectories.grid", self.grid, GRID_KINDS)
        require_positive("trajectories.rho", self.rho)
        require_at_least("trajectories.chunk_rows", self.chunk_rows, 0)
        require_at_least("trajectories.sub_batch", self.sub_batch, 1)
        require_one_of("trajectories.precision", self.precision, ("float32", "float64"))
        require_one_of("trajectories.codec", self.codec, ("none", "lz4", "zstd"))
        require_one_of("trajectories.save", self.save, ("all",))


@dataclass(frozen=True, kw_only=True)
class GeneratorSpec:
    """How the two-time map is fitted to stored characteristics."""

    network: NetworkSpec = NetworkSpec()
    steps: int = 4000  # optimiser steps
    batch_size: int = 2048  # global, over all workers
    learning_rate: float = 1e-3
    workers: int = 2
    warmup: int = 200
    ema: float = 0.999
    clip: float = 1.0
    full_span_share: float = 0.5  # share of pairs that span (0, T), the pair used for sampling
    semigroup: float = 0.0  # weight of the semigroup penalty; 0: none
    pairs_per_row: int = 8  # pairs drawn from a trajectory each time its chunk is read
    warm_start: bool = False  # begin at the velocity network's own step

    def __post_init__(self) -> None:
        share = self.full_span_share
        require(0 <= share <= 1, f"generator.full_span_share must be in [0, 1], got {share:g}")
        require_at_least("generator.semigroup", self.semigroup, 0)
        require_at_least("generator.pairs_per_row", self.pairs_per_row, 1)
        self.optimiser()

    def optimiser(self) -> OptimiserSpec:
        """Give the training knobs; raises ``ValueError`` where one is out of range."""
        return optimiser_of("generator", self)


def optimiser_of(section: str, spec: VelocitySpec | GeneratorSpec) -> OptimiserSpec:
    """Gather the training knobs of a section under one type."""
    return OptimiserSpec(
        section=section,
        steps=spec.steps,
        batch_size=spec.batch_size,
        learning_rate=spec.learning_rate,
        workers=spec.workers,
        warmup=spec.warmup,
        ema=spec.ema,
        clip=spec.clip,
    )


@dataclass(frozen=True, kw_only=True)
class EvaluationSpec:
    """How the one-step law is measured."""

    samples: int = 2000  # points of each side of a distance; digits are bounded by half the data
    repeats: int = 4  # independent repetitions, for the standard error
    seed: int = 0

    def __post_init__(self) -> None:
        require(
            2 <= self.samples <= 10_000,
            f"evaluation.samples must be between 2 and 10000 (exact W2), got {self.samples}",
        )
        require_at_least("evaluation.repeats", self.repeats, 2)


@dataclass(frozen=True, kw_only=True)
class ComputeSpec:
    """Where the work runs; no part of any key, for it changes no result."""

    address: str = ""  # of a running Ray cluster; empty: start one here
    cpus: int = 0  # of a cluster started here; 0: all
    gpus: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        require_at_least("compute.cpus", self.cpus, 0)
        require_at_least("compute.gpus", self.gpus, 0)
        require_one_of("compute.device", self.device, ("cpu",))
