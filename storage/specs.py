"""Frozen requests of storage; standard library only, so that the command line starts fast."""

from dataclasses import dataclass

SCHEMA_VERSION = 1

SOURCE_KINDS = ("digits", "idx", "parquet", "images", "npz", "zarr")
CODECS = ("none", "lz4", "zstd")


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """A real dataset: its format and where it lies."""

    kind: str  # one of SOURCE_KINDS
    path: str = ""  # of a file or folder; the digits need none
    split: str = "train"  # which files of a folder: train or test
    column: str = ""  # that holds the data; empty: found by its usual name
    label_column: str = ""  # that holds the labels; empty: found by its usual name, if there


@dataclass(frozen=True, kw_only=True)
class TrajectoryPlan:
    """Everything that determines the bytes of a trajectory store, and nothing else.

    The number of trajectories is not part of it: raising it extends a store without touching a committed chunk.
    """

    dim: tuple[int, ...]  # shape of one state
    times: tuple[float, ...]  # stored, ascending
    chunk_rows: int  # trajectories of a chunk
    dtype: str  # stored: float16, float32 or float64
    codec: str  # one of CODECS; CRC32C always comes last
    interpolant: str
    grid: str
    solver: str
    seed: int  # of the source noise; row i's is a function of (seed, i)
    sub_batch: int  # rows solved at once, which can move the last bits of a matrix product
    velocity: str  # digest of the velocity
    class_shares: tuple[float, ...] = ()  # probability of each class; empty: an unconditional velocity, no labels
    unlabelled_share: float = 0.0  # of the rows, whose label is -1 and whose velocity is the unconditional one
    guidance: float = 1.0  # weight w of the velocity v_none + w (v_label - v_none)
    grid_times: tuple[float, ...] = ()  # the K + 1 times of the solver; empty: those that are stored
    mantissa_bits: int = 0  # of each stored value that are kept, the others rounded to zero; 0: all
    matmul: str = ""  # precision of the velocity's matrix products where a GPU computes them; empty: float32
    is_compiled: bool = False  # the velocity, where a GPU computes it

    def __post_init__(self) -> None:
        if not set(self.times) <= set(self.solver_times):
            raise ValueError("a plan stores times of the solver's grid, got others")
        if not self.is_conditional and (self.unlabelled_share, self.guidance) != (0.0, 1.0):
            raise ValueError(
                "a plan without classes has unlabelled_share 0 and guidance 1, "
                f"got {self.unlabelled_share:g} and {self.guidance:g}"
            )

    @property
    def solver_times(self) -> tuple[float, ...]:
        """The K + 1 times of the solver."""
        return self.grid_times or self.times

    @property
    def kept(self) -> tuple[int, ...]:
        """Positions of the stored times among the solver's."""
        position = {t: k for k, t in enumerate(self.solver_times)}
        return tuple(position[t] for t in self.times)

    @property
    def solver_dtype(self) -> str:
        """The type that is computed in: single precision, unless double is stored."""
        return "float64" if self.dtype == "float64" else "float32"

    @property
    def is_conditional(self) -> bool:
        """Whether each trajectory has a label."""
        return len(self.class_shares) > 0
