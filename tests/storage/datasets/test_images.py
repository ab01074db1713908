"""Folders of images: classes by folder, flat ones without, and one bad file among many."""

from pathlib import Path

import numpy as np
import pytest

from storage.datasets.images import Images
from storage.errors import InputError
from tests.storage.datasets.files import Pixels, check_ranges, draw_pixels, encode, to_float, whole


def write(path: Path, pixels: Pixels, *, form: str = "png") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(pixels, form=form))


def tree(folder: Path, *, rows: int = 6, shape: tuple[int, ...] = (4, 5)) -> Pixels:
    """Write ``dog/0.png, cat/1.png, dog/2.png, ...`` and give the pixels as written."""
    pixels = draw_pixels(rows, *shape)
    for row in range(rows):
        write(folder / ("dog", "cat")[row % 2] / f"{row}.png", pixels[row])
    return pixels


def test_a_folder_is_a_class_and_both_are_sorted(tmp_path: Path) -> None:
    pixels = tree(tmp_path)
    data = Images(tmp_path)
    x, label = whole(data)
    assert (data.rows, data.dim, data.classes) == (6, (1, 4, 5), ("cat", "dog"))
    assert label is not None
    assert label.tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_allclose(x, to_float(pixels)[[1, 3, 5, 0, 2, 4], None], atol=2e-7)
    check_ranges(data, [(0, 4), (4, 6), (2, 3), (0, 0)])


def test_colour_is_channel_first(tmp_path: Path) -> None:
    pixels = tree(tmp_path, shape=(4, 5, 3))
    data = Images(tmp_path)
    assert data.dim == (3, 4, 5)
    np.testing.assert_allclose(data.read(3, 4)[0][0], np.moveaxis(to_float(pixels[0]), 2, 0), atol=2e-7)


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    pixels = draw_pixels(3, 4, 4)
    for name, image in zip(("b.png", "a.bmp", "c.PNG"), pixels, strict=True):
        write(tmp_path / name, image, form=name[2:].lower())
    data = Images(tmp_path)
    x, label = whole(data)
    assert (data.has_labels, data.classes, label) == (False, (), None)
    np.testing.assert_allclose(x, to_float(pixels)[[1, 0, 2], None], atol=2e-7)


def test_folders_may_be_deep_and_other_files_do_not_count(tmp_path: Path) -> None:
    image = draw_pixels(2, 2)
    for name in ("b/deep/1.png", "b/0.png", "a/2.png", ".hidden/3.png", "a/.4.png", "b/.thumbs/5.png"):
        write(tmp_path / name, image)
    (tmp_path / "README.txt").write_text("about")
    (tmp_path / "a" / "notes.csv").write_text("1,2")
    data = Images(tmp_path)
    assert [data.where(row) for row in range(data.rows)] == [
        f"{tmp_path}/a/2.png: row 0",
        f"{tmp_path}/b/0.png: row 1",
        f"{tmp_path}/b/deep/1.png: row 2",
    ]


def test_images_beside_folders_an_empty_class_and_no_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no images; known suffixes: \.bmp"):
        Images(tmp_path)
    tree(tmp_path)
    (tmp_path / "emu").mkdir()
    with pytest.raises(InputError, match="emu has no images"):
        Images(tmp_path)
    (tmp_path / "emu").rmdir()
    write(tmp_path / "stray.png", draw_pixels(4, 5))
    with pytest.raises(InputError, match=r"has images beside its folders, like stray\.png"):
        Images(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        Images(tmp_path / "stray.png")
    with pytest.raises(InputError, match="is missing"):
        Images(tmp_path / "nowhere")


@pytest.mark.parametrize(("shape", "found"), [((5, 4), "4 x 5 L"), ((4, 5, 3), "5 x 4 RGB"), ((4, 6), "6 x 4 L")])
def test_the_first_image_unlike_row_0_is_named_with_both_formats(
    shape: tuple[int, ...], found: str, tmp_path: Path
) -> None:
    tree(tmp_path)
    for name in ("dog/2.png", "dog/4.png"):
        write(tmp_path / name, draw_pixels(*shape))
    with pytest.raises(InputError) as caught:
        whole(Images(tmp_path))
    message = f"{tmp_path}/dog/2.png: row 4 is {found}, {tmp_path}/cat/1.png: row 0 is 5 x 4 L"
    assert str(caught.value) == f"{message}; all images must have one size and mode"


@pytest.mark.parametrize("content", [b"", b"no image", encode(draw_pixels(9, 9))[:-40]])
def test_one_unreadable_file_among_many_is_named_with_its_row(content: bytes, tmp_path: Path) -> None:
    tree(tmp_path, rows=200, shape=(9, 9))
    (tmp_path / "cat" / "57.png").write_bytes(content)
    data = Images(tmp_path)
    row = next(row for row in range(data.rows) if "/57.png" in data.where(row))
    with pytest.raises(InputError, match=rf"cat/57\.png: row {row} cannot be read as an image"):
        whole(data)


def test_a_file_that_is_gone_since_is_named(tmp_path: Path) -> None:
    tree(tmp_path)
    data = Images(tmp_path)
    (tmp_path / "dog" / "2.png").unlink()
    with pytest.raises(InputError, match=r"dog/2\.png: row 4 cannot be read: No such file"):
        whole(data)


def test_a_mode_that_is_not_allowed_is_refused(tmp_path: Path) -> None:
    tree(tmp_path, shape=(4, 5, 4))
    with pytest.raises(InputError, match=r"row 0 is 5 x 4 RGBA; images must be grey \(L\) or RGB"):
        Images(tmp_path)


def test_reading_in_ranges_holds_one_range(tmp_path: Path) -> None:
    import tracemalloc

    for row in range(300):
        write(tmp_path / f"{row}.png", np.zeros((60, 60), np.uint8))
    data = Images(tmp_path)
    tracemalloc.start()
    for start in range(0, 300, 20):
        data.read(start, start + 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 20 * 3600 * 4  # of a range in single precision; the images have 15 times as much
