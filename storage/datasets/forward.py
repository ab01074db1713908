"""Ranges of bytes of a stream that can only be read forward, such as a compressed one."""

from collections.abc import Callable
from typing import IO

_PIECE_BYTES = 2**20


class ForwardStream:
    """Bytes by range: read on from where the last range ended, opened again where a range lies behind.

    It holds an open file between ranges and nothing else.
    """

    def __init__(self, opener: Callable[[], IO[bytes]]) -> None:
        self._opener = opener
        self._file: IO[bytes] | None = None
        self._at = 0

    def read(self, start: int, stop: int) -> bytes:
        """Give the bytes ``start <= byte < stop``.

        Raises:
            EOFError: the stream ends before.
        """
        try:
            self._go_to(start)
            return self._take(stop - start)
        except BaseException:
            self.close()
            raise

    def is_at_end(self) -> bool:
        """Tell whether nothing follows the last range; a decompressor then has checked its sums too."""
        try:
            return self._file is not None and self._file.read(1) == b""
        finally:
            self.close()

    def close(self) -> None:
        """Close the file until the next range."""
        if self._file is not None:
            self._file.close()
        self._file, self._at = None, 0

    def __del__(self) -> None:
        self.close()

    def _go_to(self, start: int) -> None:
        if self._file is None or start < self._at:
            self.close()
            self._file = self._opener()
        while self._at < start:
            self._take(min(_PIECE_BYTES, start - self._at))

    def _take(self, size: int) -> bytes:
        """Read on, piece by piece, since a header that lies may ask for more than there is memory."""
        assert self._file is not None
        pieces = []
        while size > 0:
            pieces.append(self._file.read(min(_PIECE_BYTES, size)))
            size -= len(pieces[-1])
            self._at += len(pieces[-1])
            if not pieces[-1]:
                raise EOFError(f"the file ends after {self._at} bytes")
        return b"".join(pieces)
