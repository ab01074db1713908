"""Every knob of this layer; nothing slow is imported, so that the command line starts fast.

A spec is a frozen request, checked when made. Field comments give units and ranges; a section's name in the
configuration is part of each message, because a person reads it.
"""

import math
from dataclasses import dataclass

from tasks.checks import (
    as_tuple,
    require,
    require_at_least,
    require_attribute,
    require_one_of,
    require_positive,
    shown,
)
from tasks.compute import ComputeSpec as ComputeSpec  # a section like those below
from tasks.compute import Demand as Demand
from tasks.compute import ResourcesSpec as ResourcesSpec
from tasks.saving import saved_steps, stored_precision

INTERPOLANT_KINDS = ("linear", "foellmer", "trigonometric", "vp")
SYNTHETIC_KINDS = ("gaussian", "mixture", "moons", "swiss_roll", "checkerboard", "rings", "sphere")
ORACLE_KINDS = ("gaussian", "mixture")
VELOCITY_KINDS = ("oracle", "kernel", "network")
SOLVER_KINDS = ("euler", "exponential", "heun")
GRID_KINDS = ("uniform", "karras")
NETWORK_KINDS = ("mlp", "unet")
GENERATOR_FORMS = ("exponential", "euler")
LOSS_KINDS = ("squared", "huber")
SOURCE_KINDS = ("digits", "idx", "parquet", "images", "npz", "zarr")
PATH_KINDS = ("idx", "parquet", "images", "npz", "zarr")
PRECISION_KINDS = ("float32", "tf32", "bf16")


# Keys that have a meaning for one kind only; switching the kind drops them, and setting them elsewhere is an error.
KEYS_OF_DATASET: dict[str, frozenset[str]] = {
    "count": frozenset(SYNTHETIC_KINDS),
    "mean": frozenset({"gaussian"}),
    "dim": frozenset({"gaussian", "sphere"}),
    "intrinsic": frozenset({"sphere"}),
    "std": frozenset({"gaussian", "mixture", "sphere"}),
    "components": frozenset({"mixture"}),
    "path": frozenset(PATH_KINDS),
    "split": frozenset({"idx", "parquet"}),
    "column": frozenset({"parquet", "npz", "zarr"}),
    "label_column": frozenset({"parquet", "npz", "zarr"}),
}
_SPHERE_STD = 0.05  # where none is given
_TRAINED = frozenset({"network"})
KEYS_OF_VELOCITY: dict[str, frozenset[str]] = {
    "bandwidth": frozenset({"kernel"}),
    "conditional": frozenset({"kernel", "network"}),
} | dict.fromkeys(
    (
        "network",
        "steps",
        "batch_size",
        "micro_batch_size",
        "learning_rate",
        "workers",
        "warmup",
        "ema",
        "clip",
        "label_dropout",
        "precision",
        "compile",
    ),
    _TRAINED,
)
KEYS_OF_NETWORK: dict[str, frozenset[str]] = dict.fromkeys(
    ("width", "depth", "fourier", "fourier_scale"), frozenset({"mlp"})
) | dict.fromkeys(("channels", "multipliers", "blocks", "attention", "dropout"), frozenset({"unet"}))


@dataclass(frozen=True, kw_only=True)
class TargetSpec:
    """A synthetic target, with one mean and standard deviation a dimension (kinds that have them)."""

    kind: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    components: int = 8
    intrinsic: int = 1


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """Which data, and how it is cut and scaled."""

    kind: str
    path: str = ""  # of a file or folder, for the kinds that read one; of an array, for zarr also an address
    split: str = "train"  # which files of a folder: train or test
    column: str = ""  # that holds the data; empty: found by its usual name
    label_column: str = ""  # that holds the labels; empty: found by its usual name, if there
    count: int = 50_000  # rows drawn, for the synthetic kinds
    mean: float | tuple[float, ...] = 0.0  # of a Gaussian; a number serves every dimension
    std: float | tuple[float, ...] = ()  # of a Gaussian or a mixture's components (empty: 1), or about a sphere (0.05)
    dim: int = 2  # of a Gaussian whose mean and std are numbers, or of the space that a sphere lies in
    intrinsic: int = 1  # dimension of a unit sphere: 1 for a circle
    components: int = 8  # of a mixture, on a circle of radius 4
    standardise: bool = True  # train in units of zero mean and unit scale; samples are in data units either way
    shards: int = 8  # row ranges that are stored and read apart

    def __post_init__(self) -> None:
        if self.std == ():
            object.__setattr__(self, "std", _SPHERE_STD if self.kind == "sphere" else 1.0)
        require_one_of("dataset.kind", self.kind, (*SYNTHETIC_KINDS, *SOURCE_KINDS))
        require_one_of("dataset.split", self.split, ("train", "test"))
        require_at_least("dataset.count", self.count, 1)
        require_at_least("dataset.dim", self.dim, 1)
        require_at_least("dataset.intrinsic", self.intrinsic, 1)
        require_at_least("dataset.components", self.components, 1)
        require_at_least("dataset.shards", self.shards, 1)
        require(
            all(math.isfinite(m) for m in as_tuple(self.mean)), f"dataset.mean must be finite, got {shown(self.mean)}"
        )
        require(all(s > 0 for s in as_tuple(self.std)), f"dataset.std must be positive, got {shown(self.std)}")
        require(all(math.isfinite(s) for s in as_tuple(self.std)), f"dataset.std must be finite, got {shown(self.std)}")
        if self.kind in PATH_KINDS:
            require(self.path != "", f"dataset.path must name a file for dataset.kind = {self.kind}, got ''")
        if self.kind in SYNTHETIC_KINDS:
            self.target()

    def target(self) -> TargetSpec:
        """Give the synthetic target; raises ``ValueError`` for other kinds and for lists of different lengths."""
        require(self.kind in SYNTHETIC_KINDS, f"dataset.kind {self.kind} is not synthetic")
        lengths = {len(value) for value in (self.mean, self.std) if isinstance(value, tuple)}
        require(0 not in lengths, "dataset.mean must be a number or a list of numbers, got []")
        require(
            len(lengths) <= 1,
            f"dataset.mean and dataset.std must have the same length, got {shown(self.mean)} and {shown(self.std)}",
        )
        if self.kind == "sphere":
            is_number = not isinstance(self.std, tuple)
            require(is_number, f"dataset.std must be a number for dataset.kind = sphere, got {shown(self.std)}")
            least = self.intrinsic + 1
            require(self.dim >= least, f"dataset.dim must be at least dataset.intrinsic + 1 = {least}, got {self.dim}")
        dim = next(iter(lengths), self.dim) if self.kind in ("gaussian", "sphere") else 2
        require(not lengths or lengths == {dim}, f"dataset.std must have {dim} numbers, got {shown(self.std)}")
        return TargetSpec(
            kind=self.kind,
            mean=as_tuple(self.mean, dim=dim),
            std=as_tuple(self.std, dim=dim),
            components=self.components,
            intrinsic=self.intrinsic,
        )


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
    channels: int = 32  # of a U-Net's finest level
    multipliers: tuple[int, ...] = (1, 2, 2)  # channels of each level, finest first; each level halves the sides
    blocks: int = 2  # residual blocks of a level
    attention: tuple[int, ...] = ()  # sides of the levels with self-attention, in pixels
    dropout: float = 0.0  # in the residual blocks, while training
    spectral: bool = False  # norms of the layers that x passes at most 1, a bound on the Lipschitz constant

    def __post_init__(self) -> None:
        require_one_of("network.kind", self.kind, NETWORK_KINDS)
        require_at_least("network.width", self.width, 2)
        require_at_least("network.depth", self.depth, 1)
        require_at_least("network.fourier", self.fourier, 0)
        require_positive("network.fourier_scale", self.fourier_scale)
        require_at_least("network.channels", self.channels, 4)
        require(
            len(self.multipliers) > 0 and all(m >= 1 for m in self.multipliers),
            f"network.multipliers must be numbers of at least 1, got {list(self.multipliers)}",
        )
        require_at_least("network.blocks", self.blocks, 1)
        require(0 <= self.dropout < 1, f"network.dropout must be in [0, 1), got {self.dropout:g}")


Workers = int | tuple[int, int]  # of a training: so many, or at least and at most


def worker_range(workers: Workers) -> tuple[int, int]:
    """Give the least and the greatest number of workers."""
    return (workers, workers) if isinstance(workers, int) else workers


@dataclass(frozen=True, kw_only=True)
class OptimiserSpec:
    """Knobs that both trainings share, made of a section's own keys."""

    section: str
    steps: int
    batch_size: int
    learning_rate: float
    workers: Workers
    warmup: int
    ema: float
    clip: float
    micro_batch_size: int = 0

    def __post_init__(self) -> None:
        require_at_least(f"{self.section}.steps", self.steps, 1)
        require_at_least(f"{self.section}.batch_size", self.batch_size, 1)
        require_at_least(f"{self.section}.micro_batch_size", self.micro_batch_size, 0)
        require_positive(f"{self.section}.learning_rate", self.learning_rate)
        least, most = worker_range(self.workers)
        require_at_least(f"{self.section}.workers", least, 1)
        require(least <= most, f"{self.section}.workers must be [least, most], got [{least}, {most}]")
        require_at_least(f"{self.section}.warmup", self.warmup, 0)
        require(0 <= self.ema < 1, f"{self.section}.ema must be in [0, 1), got {self.ema:g}")
        require_positive(f"{self.section}.clip", self.clip)
        for workers in (least, most):
            require(
                self.batch_size % workers == 0,
                f"{self.section}.batch_size must be a multiple of workers ({workers}), got {self.batch_size}",
            )


@dataclass(frozen=True, kw_only=True)
class VelocitySpec:
    """How the velocity is estimated."""

    kind: str = "network"
    bandwidth: float | str = "loo"  # of the kernel, in standardised units; loo: leave-one-out likelihood
    conditional: bool = False  # on the class labels of the dataset
    network: NetworkSpec = NetworkSpec()
    steps: int = 4000  # optimiser steps
    batch_size: int = 1024  # global, over all workers
    micro_batch_size: int = 0  # rows that a worker computes at once, which bounds its memory; 0: its whole batch
    learning_rate: float = 1e-3  # peak, after the warm-up and before the cosine
    workers: Workers = 2  # Ray Train workers; [least, most]: as many as the cluster has room for, now and later
    warmup: int = 200  # optimiser steps
    ema: float = 0.999  # final decay of the weights' moving average
    clip: float = 1.0  # largest norm of the gradient
    label_dropout: float = 0.1  # share of rows whose label is hidden, so that the unconditional velocity is learnt too
    precision: str = "float32"  # of the matrix products; tf32 and bf16 on a GPU, elsewhere float32
    compile: bool = False  # the network with torch.compile, on a GPU

    def __post_init__(self) -> None:
        require_one_of("velocity.kind", self.kind, VELOCITY_KINDS)
        if isinstance(self.bandwidth, str):
            require(self.bandwidth == "loo", f"velocity.bandwidth must be a number or loo, got {self.bandwidth!r}")
        else:
            require(0 <= self.bandwidth < math.inf, f"velocity.bandwidth must be at least 0, got {self.bandwidth:g}")
        require(0 <= self.label_dropout < 1, f"velocity.label_dropout must be in [0, 1), got {self.label_dropout:g}")
        require_one_of("velocity.precision", self.precision, PRECISION_KINDS)
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
    chunk_rows: int = 0  # rows of a chunk; 0: as many as make 8 to 16 MB, at most 16,384
    sub_batch: int = 0  # rows solved at once on a CPU; 0: as many as stay in its cache, fewer of images
    precision: str = "float32"  # stored: float16, float32, float64, or round-N: float32 with N mantissa bits kept
    codec: str = "none"  # every codec ends in CRC32C
    save: str | tuple[int, ...] = "all"  # states: all, every-N, endpoints, or a list of steps from 0 to K
    matmul: str = "float32"  # precision of the network's matrix products; tf32 and bf16 on a GPU, elsewhere float32
    compile: bool = False  # the network with torch.compile, on a GPU
    guidance: float = 1.0  # weight w of a conditional velocity: v_none + w (v_label - v_none)
    unlabelled_share: float = 0.1  # of the trajectories, of the unconditional velocity; for guidance when sampling

    def __post_init__(self) -> None:
        require_at_least("trajectories.count", self.count, 1)
        require_at_least("trajectories.steps", self.steps, 1)
        require(0 < self.stop <= 1, f"trajectories.stop must be in (0, 1], got {self.stop:g}")
        require_one_of("trajectories.solver", self.solver, SOLVER_KINDS)
        require_one_of("trajectories.grid", self.grid, GRID_KINDS)
        require_positive("trajectories.rho", self.rho)
        require_at_least("trajectories.chunk_rows", self.chunk_rows, 0)
        require_at_least("trajectories.sub_batch", self.sub_batch, 0)
        stored_precision(self.precision)
        require_one_of("trajectories.codec", self.codec, ("none", "lz4", "zstd"))
        saved_steps(self.save, last=self.steps)
        require_one_of("trajectories.matmul", self.matmul, PRECISION_KINDS)
        require(0 <= self.guidance < math.inf, f"trajectories.guidance must be at least 0, got {self.guidance:g}")
        share = self.unlabelled_share
        require(0 <= share < 1, f"trajectories.unlabelled_share must be in [0, 1), got {share:g}")


@dataclass(frozen=True, kw_only=True)
class GeneratorSpec:
    """How the two-time map is fitted to stored characteristics."""

    form: str = "exponential"  # the solver whose step the map is, with a learned field; linear: the two are one
    network: NetworkSpec = NetworkSpec()
    steps: int = 4000  # optimiser steps
    batch_size: int = 2048  # global, over all workers
    micro_batch_size: int = 0  # rows that a worker computes at once, which bounds its memory; 0: its whole batch
    learning_rate: float = 1e-3
    workers: Workers = 2
    warmup: int = 200
    ema: float = 0.999
    clip: float = 1.0
    full_span_share: float = 0.5  # share of pairs that span (0, T), the pair used for sampling
    loss: str = "squared"  # error of a pair, or huber: its norm but for the smallest errors, so outliers count less
    semigroup: float = 0.0  # weight of the semigroup penalty; 0: none
    diagonal: float = 0.0  # weight of the denoiser loss at s = t, on rows of the data; 0: none
    features: str = ""  # module:attribute of a map of states, whose squared error of a pair is added; empty: none
    features_weight: float = 1.0  # of that error, which is a mean over the features
    pairs_per_row: int = 4  # pairs drawn from a trajectory each time its chunk is read
    warm_start: bool = False  # begin at the velocity network's own step
    overlap: bool = False  # begin while the trajectories are simulated, on the chunks that are committed so far
    precision: str = "float32"  # of the matrix products; tf32 and bf16 on a GPU, elsewhere float32
    compile: bool = False  # the network with torch.compile, on a GPU

    def __post_init__(self) -> None:
        require_one_of("generator.precision", self.precision, PRECISION_KINDS)
        share = self.full_span_share
        require(0 <= share <= 1, f"generator.full_span_share must be in [0, 1], got {share:g}")
        require_one_of("generator.form", self.form, GENERATOR_FORMS)
        require_one_of("generator.loss", self.loss, LOSS_KINDS)
        require_at_least("generator.semigroup", self.semigroup, 0)
        require_at_least("generator.diagonal", self.diagonal, 0)
        require_attribute("generator.features", self.features)
        require_positive("generator.features_weight", self.features_weight)
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
        micro_batch_size=spec.micro_batch_size,
    )


@dataclass(frozen=True, kw_only=True)
class EvaluationSpec:
    """How the one-step law is measured."""

    samples: int = 2000  # points of each side of a distance; digits are bounded by half the data
    repeats: int = 6  # sets on each side, for the standard error
    frechet_samples: int = 50_000  # of the Frechet distances of all data, at most as many as these have rows
    features: str = ""  # module:attribute of a map of states in data units, for frechet_features; empty: none
    features_weights: str = ""  # file of that module's weights, safetensors or torch; empty: those that it has
    features_digest: str = ""  # that the file must have, BLAKE2b of 128 bits; empty: any
    seed: int = 0

    def __post_init__(self) -> None:
        require(
            2 <= self.samples <= 10_000,
            f"evaluation.samples must be between 2 and 10000 (exact W2), got {self.samples}",
        )
        require_at_least("evaluation.repeats", self.repeats, 3)
        require_at_least("evaluation.frechet_samples", self.frechet_samples, 2)
        require_attribute("evaluation.features", self.features)
        require(
            not self.features_weights or self.features != "",
            f"evaluation.features_weights needs evaluation.features, got {self.features_weights!r} for none",
        )
        require(
            not self.features_digest or self.features_weights != "",
            f"evaluation.features_digest needs evaluation.features_weights, got {self.features_digest!r} for none",
        )
