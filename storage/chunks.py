"""Pure arithmetic of row ranges: shards of a dataset, chunks of a store."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shard:
    """The half-open row range ``start <= row < stop``."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"a shard needs 0 <= start <= stop, got {self.start} and {self.stop}")

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.stop - self.start


@dataclass(frozen=True)
class ChunkGrid:
    """Rows ``0 <= row < rows`` cut every ``chunk_rows``; only the last chunk may be shorter."""

    rows: int
    chunk_rows: int

    def __post_init__(self) -> None:
        if self.rows < 0 or self.chunk_rows < 1:
            raise ValueError(f"a grid needs rows >= 0 and chunk_rows >= 1, got {self.rows} and {self.chunk_rows}")

    @property
    def count(self) -> int:
        """Number of chunks."""
        return -(-self.rows // self.chunk_rows)

    def chunk(self, index: int) -> Shard:
        """Give the rows of chunk ``index`` that exist.

        Raises:
            IndexError: there is no such chunk.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"chunk must be in [0, {self.count}), got {index}")
        start = index * self.chunk_rows
        return Shard(start, min(start + self.chunk_rows, self.rows))


def even_shards(rows: int, *, shards: int) -> ChunkGrid:
    """Cut rows into at most ``shards`` ranges of equal size, but for a shorter last one."""
    return ChunkGrid(rows, max(1, -(-rows // shards)))


def default_chunk_rows(row_bytes: int, *, chunk_bytes: int = 16 * 2**20, most: int = 16_384) -> int:
    """Give the power of two of rows whose bytes come nearest to ``chunk_bytes`` from below, between 1 and ``most``.

    A function of a row's bytes alone, never of the count, so that growth keeps every chunk.
    """
    rows = max(1, chunk_bytes // row_bytes)
    return min(most, 1 << (rows.bit_length() - 1))
