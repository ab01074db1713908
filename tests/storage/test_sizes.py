"""Bytes of places, on a disk and on an object store."""

from pathlib import Path

from storage.remote import RemotePath
from storage.sizes import stored_bytes


def test_all_files_below_places_are_summed(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "three").write_bytes(b"123")
    (tmp_path / "a" / "five").write_bytes(b"12345")
    (tmp_path / "two").write_bytes(b"12")
    assert stored_bytes(tmp_path / "a") == 8
    assert stored_bytes(tmp_path / "a", tmp_path / "two", tmp_path / "absent") == 10
    assert stored_bytes() == 0


def test_what_a_link_leads_to_is_not_counted(tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "file").write_bytes(b"1" * 10_000)
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "link").symlink_to(tmp_path / "large")
    assert stored_bytes(tmp_path / "small") < 1000
    assert stored_bytes(tmp_path / "small" / "link") < 1000


def test_objects_below_an_address_are_summed(memory: RemotePath) -> None:
    (memory / "a" / "b").write(b"123")
    (memory / "a" / "c" / "d").write(b"12345")
    (memory / "else").write(b"1")
    assert stored_bytes(memory / "a", memory / "absent") == 8
