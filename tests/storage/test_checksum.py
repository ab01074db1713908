"""Digests tell contents apart, however they come."""

import hashlib
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from storage.checksum import digest, digest_file


@given(st.binary(max_size=200), st.integers(0, 200))
def test_a_digest_is_that_of_the_parts_joined(content: bytes, cut: int) -> None:
    expected = hashlib.blake2b(content, digest_size=16).hexdigest()
    assert digest(content) == digest(content[:cut], memoryview(content)[cut:]) == expected


def test_a_file_has_the_digest_of_its_bytes(tmp_path: Path) -> None:
    for size in (0, 1, 3_000_000):  # the last is longer than any buffer
        content = bytes(k % 251 for k in range(size))
        (tmp_path / "file").write_bytes(content)
        assert digest_file(tmp_path / "file") == digest(content)


def test_every_flipped_bit_changes_the_digest() -> None:
    content = bytes(range(40))
    flipped = {
        digest(bytes(b ^ (1 << bit) if k == at else b for k, b in enumerate(content)))
        for at in range(40)
        for bit in range(8)
    }
    assert len(flipped | {digest(content)}) == 321
