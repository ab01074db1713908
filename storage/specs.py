"""Frozen requests of storage; standard library only, so that the command line starts fast."""

from dataclasses import dataclass

SCHEMA_VERSION = 1

SOURCE_KINDS = ("digits", "npz")
CODECS = ("none", "lz4", "zstd")


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """A real dataset: its format and where it lies."""

    kind: str  # one of SOURCE_KINDS
    path: str = ""  # of a file; the digits need none


@dataclass(frozen=True, kw_only=True)
class TrajectoryPlan:
    """Everything that determines the bytes of a trajectory store, and nothing else.

    The number of trajectories is not part of it: raising it extends a store without touching a committed chunk.
    """

    dim: tuple[int, ...]  # shape of one state
    times: tuple[float, ...]  # the K + 1 stored times, ascending
    chunk_rows: int  # trajectories of a chunk
    dtype: str  # float32 or float64
    codec: str  # one of CODECS; CRC32C always comes last
    interpolant: str
    grid: str
    solver: str
    seed: int  # of the source noise; row i's is a function of (seed, i)
    sub_batch: int  # rows solved at once, which can move the last bits of a matrix product
    velocity: str  # digest of the velocity
