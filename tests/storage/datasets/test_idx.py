"""MNIST's format: round trips, and every way in which a file can lie about itself."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from storage.datasets.idx import Idx
from storage.errors import InputError
from tests.storage.datasets.files import check_ranges, draw_pixels, idx_bytes, to_float, whole, write_idx

IMAGES, LABELS = draw_pixels(7, 5, 4), np.arange(7, dtype=np.uint8) % 3


def mnist(folder: Path, *, end: str = "", prefix: str = "train", mark: str = "-") -> Path:
    write_idx(folder / f"{prefix}-images{mark}idx3-ubyte{end}", IMAGES)
    write_idx(folder / f"{prefix}-labels{mark}idx1-ubyte{end}", LABELS)
    return folder


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("mark", ["-", "."])
@pytest.mark.parametrize(("split", "prefix"), [("train", "train"), ("test", "t10k")])
def test_a_folder_gives_the_images_and_labels_of_a_split(
    end: str, mark: str, split: str, prefix: str, tmp_path: Path
) -> None:
    data = Idx(mnist(tmp_path, end=end, prefix=prefix, mark=mark), split=split)
    x, label = whole(data)
    assert (data.rows, data.dim, data.has_labels, data.classes) == (7, (1, 5, 4), True, ())
    np.testing.assert_allclose(x, to_float(IMAGES)[:, None], atol=2e-7)
    assert label is not None
    assert label.tolist() == LABELS.tolist()
    other = "test" if split == "train" else "train"
    with pytest.raises(InputError, match=r"has no .*-images-idx3-ubyte or .*\.gz; it must hold MNIST's files"):
        Idx(tmp_path, split=other)
    with pytest.raises(InputError, match=r"dataset\.split must be train or test for dataset\.kind = idx, got 'all'"):
        Idx(tmp_path, split="all")


@pytest.mark.parametrize("end", ["", ".gz"])
def test_ranges_in_any_order_are_parts_of_the_whole(end: str, tmp_path: Path) -> None:
    data = Idx(mnist(tmp_path, end=end), split="train")
    check_ranges(data, [(0, 2), (2, 7), (5, 6), (0, 7), (3, 3), (6, 7), (1, 4)])


def test_a_file_of_images_finds_its_labels_by_the_usual_name_or_has_none(tmp_path: Path) -> None:
    mnist(tmp_path, end=".gz")
    assert Idx(tmp_path / "train-images-idx3-ubyte.gz", split="test").has_labels
    write_idx(tmp_path / "emnist-images-idx3-ubyte", IMAGES)
    assert not Idx(tmp_path / "emnist-images-idx3-ubyte", split="train").has_labels
    write_idx(tmp_path / "emnist-labels-idx1-ubyte.gz", LABELS)
    assert Idx(tmp_path / "emnist-images-idx3-ubyte", split="train").has_labels
    data = Idx(write_idx(tmp_path / "pictures", IMAGES), split="train")
    assert not data.has_labels
    assert whole(data)[1] is None


def test_labels_of_another_number_are_refused_with_both_numbers(tmp_path: Path) -> None:
    mnist(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte", LABELS[:5])
    with pytest.raises(InputError, match=r"labels-idx1-ubyte has 5 labels for the 7 images of .*images-idx3-ubyte"):
        Idx(tmp_path, split="train")


@pytest.mark.parametrize(("file", "magic"), [("images-idx3", 2051), ("labels-idx1", 2049)])
def test_another_magic_number_is_refused_by_name(file: str, magic: int, tmp_path: Path) -> None:
    mnist(tmp_path)
    path = tmp_path / f"train-{file}-ubyte"
    path.write_bytes(idx_bytes(IMAGES, magic=0x0D03))
    with pytest.raises(InputError, match=rf"{path} must start with magic number {magic} .*, got 3331"):
        Idx(tmp_path, split="train")


def test_labels_given_as_images_are_refused(tmp_path: Path) -> None:
    mnist(tmp_path)
    with pytest.raises(InputError, match="must start with magic number 2051"):
        Idx(tmp_path / "train-labels-idx1-ubyte", split="train")


@pytest.mark.parametrize("shape", [(0, 5, 4), (7, 0, 4)])
def test_no_images_or_no_pixels_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = write_idx(tmp_path / "pictures", np.empty(shape, np.uint8))
    with pytest.raises(InputError, match=r"pictures is empty: \d images of"):
        Idx(path, split="train")


@pytest.mark.parametrize("length", [0, 3, 4, 15])
def test_a_file_that_ends_inside_its_header_is_refused(length: int, tmp_path: Path) -> None:
    path = tmp_path / "pictures"
    path.write_bytes(idx_bytes(IMAGES)[:length])
    with pytest.raises(InputError, match="pictures is truncated or damaged"):
        Idx(path, split="train")


def test_a_file_that_ends_early_is_refused_by_the_row(tmp_path: Path) -> None:
    path = tmp_path / "pictures"
    content = idx_bytes(IMAGES)
    for length in range(16, len(content)):
        path.write_bytes(content[:length])
        data = Idx(path, split="train")
        with pytest.raises(InputError, match=rf"pictures: row {(length - 16) // 20} is truncated or damaged"):
            whole(data)


def test_a_truncated_gzip_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "pictures.gz"
    content = gzip.compress(idx_bytes(IMAGES))
    for length in range(2, len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"pictures\.gz.* is truncated or damaged"):
            whole(Idx(path, split="train"))


def test_a_flipped_byte_of_a_gzip_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "pictures.gz"
    content = gzip.compress(idx_bytes(IMAGES))
    expected = to_float(IMAGES)[:, None].astype(np.float32)
    refused = 0
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x41]) + content[at + 1 :])
        try:
            x, _ = whole(Idx(path, split="train"))
        except InputError:
            refused += 1
        else:
            np.testing.assert_allclose(x, expected, atol=2e-7)
    assert refused > len(content) - 12  # time, flags, system and other fields of the header do not matter


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("file", ["images-idx3", "labels-idx1"])
def test_a_file_longer_than_its_header_tells_is_refused(end: str, file: str, tmp_path: Path) -> None:
    mnist(tmp_path, end=end)
    path = tmp_path / f"train-{file}-ubyte{end}"
    content = idx_bytes(IMAGES if "images" in file else LABELS) + b"\0"
    path.write_bytes(gzip.compress(content) if end else content)
    with pytest.raises(InputError, match=f"{file}-ubyte.* is longer than the 7 .* that its header tells"):
        whole(Idx(tmp_path, split="train"))


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dataset\.path .*nowhere' is missing; it must name a file or folder"):
        Idx(tmp_path / "nowhere", split="train")


@pytest.mark.parametrize("end", ["", ".gz"])
def test_reading_in_ranges_holds_one_range(end: str, tmp_path: Path) -> None:
    import tracemalloc

    images = np.zeros((4000, 50, 50), np.uint8)
    data = Idx(write_idx(tmp_path / f"pictures{end}", images), split="train")
    tracemalloc.start()
    for _ in range(2):
        for start in range(0, 4000, 100):
            data.read(start, start + 100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 100 * 2500 * 4  # a range is a megabyte in single precision, the file 10 megabytes of pixels
