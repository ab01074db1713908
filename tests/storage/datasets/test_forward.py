"""Ranges of a stream that is read forward only."""

import io
from typing import IO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.datasets.forward import ForwardStream

CONTENT = bytes(range(200))


class Opened:
    """Streams that remember how often they were opened and which are still open."""

    def __init__(self, content: bytes = CONTENT) -> None:
        self.content = content
        self.files: list[IO[bytes]] = []

    def __call__(self) -> IO[bytes]:
        self.files.append(io.BytesIO(self.content))
        return self.files[-1]


@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)).map(lambda pair: (min(pair), max(pair))), max_size=8)
)
def test_any_ranges_in_any_order_are_those_bytes(ranges: list[tuple[int, int]]) -> None:
    opened = Opened()
    stream = ForwardStream(opened)
    for start, stop in ranges:
        assert stream.read(start, stop) == CONTENT[start:stop]
    backward = sum(start < stop for (start, _), (_, stop) in zip(ranges[1:], ranges, strict=False))
    assert len(opened.files) == (1 + backward if ranges else 0)


def test_a_range_beyond_the_end_says_how_much_there_is_and_closes() -> None:
    opened = Opened()
    stream = ForwardStream(opened)
    for start in (150, 250):
        with pytest.raises(EOFError, match="the file ends after 200 bytes"):
            stream.read(start, 300)
        assert all(file.closed for file in opened.files)
    assert stream.read(0, 3) == CONTENT[:3]


def test_the_end_is_seen_only_where_the_last_range_reached_it() -> None:
    opened = Opened()
    stream = ForwardStream(opened)
    stream.read(0, 199)
    assert not stream.is_at_end()
    stream.read(0, 200)
    assert stream.is_at_end()
    assert all(file.closed for file in opened.files)


def test_a_stream_that_is_dropped_is_closed() -> None:
    opened = Opened()
    stream = ForwardStream(opened)
    stream.read(0, 3)
    assert not opened.files[0].closed
    del stream
    assert opened.files[0].closed
