"""Parquet as Hugging Face lays it out: images, lists, labels, several files, and each way to be wrong."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.datasets.parquet import Parquet
from storage.errors import InputError
from tests.storage.datasets.files import Pixels, check_ranges, draw_pixels, encode, to_float, whole

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def images_column(pixels: Pixels) -> pa.Array:
    return pa.array([{"bytes": encode(image), "path": f"{row}.png"} for row, image in enumerate(pixels)], STRUCT)


def write(path: Path, *, group: int = 3, metadata: dict[str, Any] | None = None, **columns: Any) -> Path:
    table = pa.table(columns)
    if metadata is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps(metadata)})
    pq.write_table(table, path, row_group_size=group)
    return path


def opened(path: Path, **options: str) -> Parquet:
    return Parquet(path, split=options.pop("split", "train"), **options)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3)])
def test_encoded_images_come_channel_first_with_their_labels(shape: tuple[int, ...], tmp_path: Path) -> None:
    pixels = draw_pixels(8, *shape)
    data = opened(write(tmp_path / "a.parquet", img=images_column(pixels), label=[0, 1, 2, 0, 1, 2, 0, 1]))
    x, label = whole(data)
    expected = np.moveaxis(to_float(pixels).reshape(8, 4, 5, -1), 3, 1)
    np.testing.assert_allclose(x, expected, atol=2e-7)
    assert data.dim == expected.shape[1:]
    assert label is not None
    assert label.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert data.classes == ()
    check_ranges(data, [(0, 2), (2, 8), (5, 6), (3, 3), (7, 8), (1, 4), (0, 8)])


def test_images_may_be_plain_bytes(tmp_path: Path) -> None:
    pixels = draw_pixels(2, 3, 3)
    data = opened(write(tmp_path / "a.parquet", image=[encode(image) for image in pixels]))
    x, label = whole(data)
    np.testing.assert_allclose(x, to_float(pixels)[:, None], atol=2e-7)
    assert (label, data.has_labels) == (None, False)


NUMBERS = np.random.default_rng(0).standard_normal((7, 2, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.list_(pa.float32())),
        pa.large_list(pa.large_list(pa.float64())),
        pa.list_(pa.list_(pa.float32(), 3), 2),
        pa.list_(pa.list_(pa.float32(), 3)),
    ],
    ids=str,
)
def test_nested_lists_of_any_sort_are_numbers(kind: pa.DataType, tmp_path: Path) -> None:
    data = opened(write(tmp_path / "a.parquet", x=pa.array(NUMBERS.tolist(), kind), y=range(7)))
    assert data.dim == (2, 3)
    assert np.array_equal(whole(data)[0], NUMBERS)
    check_ranges(data, [(1, 3), (3, 7), (0, 7), (4, 5)])


@pytest.mark.parametrize("kind", [pa.uint8(), pa.int64(), pa.float16(), pa.float64()], ids=str)
def test_flat_lists_of_any_number_are_taken_as_they_are(kind: pa.DataType, tmp_path: Path) -> None:
    x = 20 * np.arange(12).reshape(4, 3)
    data = opened(write(tmp_path / "a.parquet", x=pa.array(x.tolist(), pa.list_(kind))))
    assert np.array_equal(whole(data)[0], x)


@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=4).filter(any),
    group=st.integers(1, 7),
    data=st.data(),
)
def test_any_files_and_row_groups_give_the_rows_in_order(
    sizes: list[int], group: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, rows = tmp_path_factory.mktemp("files"), sum(sizes)
    x = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
    start = 0
    for index, size in enumerate(sizes):
        part = slice(start, start + size)
        column = pa.array(x[part].tolist(), pa.list_(pa.float32()))
        write(folder / f"train-{index:05}.parquet", group=group, x=column, label=pa.array(range(size), pa.int64()))
        start += size
    found = opened(folder)
    assert found.rows == rows
    for _ in range(3):
        begin = data.draw(st.integers(0, rows))
        end = data.draw(st.integers(begin, rows))
        assert np.array_equal(found.read(begin, end)[0], x[begin:end])
    assert [found.where(row) for row in range(rows)] == [
        f"{folder}/train-{index:05}.parquet: row {row}" for index, size in enumerate(sizes) for row in range(size)
    ]


def test_a_folder_gives_the_files_of_its_split(tmp_path: Path) -> None:
    write(tmp_path / "train-00000-of-00001.parquet", x=[[1.0]])
    write(tmp_path / "test-00000-of-00001.parquet", x=[[2.0], [3.0]])
    assert opened(tmp_path).rows == 1
    assert opened(tmp_path, split="test").rows == 2
    with pytest.raises(InputError, match=r"has no valid-\*\.parquet; its splits for dataset\.split: test, train"):
        opened(tmp_path, split="valid")
    with pytest.raises(InputError, match="is missing"):
        opened(tmp_path / "nowhere")


def test_names_of_classes_come_from_hugging_faces_metadata(tmp_path: Path) -> None:
    names = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "x": {}}}}
    path = write(tmp_path / "a.parquet", metadata=names, x=[[1.0], [2.0]], label=[1, 0], other=[0, 0])
    assert opened(path).classes == ("cat", "dog")
    assert opened(path, label_column="other").classes == ()
    assert opened(write(path, metadata={"info": 3}, x=[[1.0]], label=[1])).classes == ()


def test_columns_are_chosen_by_name_and_missing_ones_listed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", x=[[1.0]], z=[[2.0]], label=[1], coarse=[4])
    x, label = whole(opened(path, column="z", label_column="coarse"))
    assert label is not None
    assert (x.tolist(), label.tolist()) == ([[2.0]], [4])
    with pytest.raises(InputError, match=r"dataset\.column 'w' is not in .*; it has: x, z, label, coarse"):
        opened(path, column="w")
    with pytest.raises(InputError, match=r"dataset\.label_column 'w' is not in"):
        opened(path, label_column="w")
    with pytest.raises(InputError, match=r"has no column x, image.*set dataset\.column to one of: a"):
        opened(write(path, a=[[1.0]]))


@pytest.mark.parametrize("column", [[1.0, 2.0], ["a", "b"], [["a"], ["b"]], [{"path": "a"}, {"path": "b"}]])
def test_columns_of_other_types_are_refused_with_the_type(column: list[Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"column x must hold encoded images .* or lists of numbers, got"):
        opened(write(tmp_path / "a.parquet", x=column))


@pytest.mark.parametrize("label", [["a", "b"], [0.0, 1.0], [True, False]])
def test_labels_of_other_types_are_refused_with_the_type(label: list[Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="column label must hold integers as labels, got"):
        opened(write(tmp_path / "a.parquet", x=[[1.0], [2.0]], label=label))


def test_a_row_without_label_image_list_or_number_is_named(tmp_path: Path) -> None:
    path, name = tmp_path / "a.parquet", r"a\.parquet: row 4"
    numbers = [[1.0], [2.0], [3.0], [4.0]]
    with pytest.raises(InputError, match=f"{name} has no label in column label"):
        whole(opened(write(path, x=[*numbers, [5.0]], label=pa.array([0, 1, 0, 1, None], pa.int64()))))
    with pytest.raises(InputError, match=f"{name} has a list of None in column x, .*row 0 one of 1"):
        whole(opened(write(path, x=pa.array([*numbers, None], pa.list_(pa.float32())))))
    with pytest.raises(InputError, match=f"{name} has no number in a place of column x"):
        whole(opened(write(path, x=pa.array([*numbers, [None]], pa.list_(pa.float32())))))
    images = images_column(draw_pixels(4, 3, 3)).to_pylist()
    for missing in (None, {"bytes": None, "path": "a.png"}):
        with pytest.raises(InputError, match=f"{name} has no image bytes in column img"):
            whole(opened(write(path, img=pa.array([*images, missing], STRUCT))))
    with pytest.raises(InputError, match="row 0 has no numbers in column x"):
        opened(write(path, x=pa.array([[], [1.0]], pa.list_(pa.float32()))))


def test_ragged_lists_are_refused_by_the_first_row_that_differs(tmp_path: Path) -> None:
    rows = [[[1.0, 2.0], [3.0, 4.0]]] * 6
    rows[4] = [[1.0, 2.0], [3.0]]
    message = r"a\.parquet: row 4 has a list of 1 in column x, .*a\.parquet: row 0 one of 2; all rows must have"
    with pytest.raises(InputError, match=message):
        whole(opened(write(tmp_path / "a.parquet", x=rows)))
    rows[4] = [[1.0, 2.0]]
    with pytest.raises(InputError, match=message):
        whole(opened(write(tmp_path / "a.parquet", x=rows)))


def test_the_first_image_unlike_row_0_is_named_with_both_formats(tmp_path: Path) -> None:
    images = images_column(draw_pixels(5, 4, 4)).to_pylist()
    images[4] = {"bytes": encode(draw_pixels(4, 4, 3)), "path": ""}
    path = write(tmp_path / "a.parquet", img=pa.array(images, STRUCT))
    with pytest.raises(InputError, match=r"a\.parquet: row 4 is 4 x 4 RGB, .*a\.parquet: row 0 is 4 x 4 L; all images"):
        whole(opened(path))


def test_one_unreadable_image_among_many_is_named_with_file_and_row(tmp_path: Path) -> None:
    images = images_column(draw_pixels(40, 4, 4)).to_pylist()
    write(tmp_path / "train-0.parquet", img=pa.array(images, STRUCT))
    images[29]["bytes"] = images[29]["bytes"][:-30]
    write(tmp_path / "train-1.parquet", img=pa.array(images, STRUCT))
    with pytest.raises(InputError, match=r"train-1\.parquet: row 29 cannot be read as an image"):
        whole(opened(tmp_path))


def test_no_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.parquet is empty; it needs at least one row"):
        opened(write(tmp_path / "a.parquet", x=pa.array([], pa.list_(pa.float32()))))


def test_a_later_file_without_the_column_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", x=[[1.0]])
    write(tmp_path / "train-1.parquet", z=[[1.0]])
    with pytest.raises(InputError, match=r"dataset\.column 'x' is not in .*train-1\.parquet; it has: z"):
        opened(tmp_path)


def test_row_groups_before_a_range_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(2):
        write(tmp_path / f"train-{index}.parquet", group=2, x=NUMBERS.tolist())
    data = opened(tmp_path)
    data.read(13, 14)
    groups: list[int] = []
    real = pq.ParquetFile.iter_batches

    def iter_batches(self: pq.ParquetFile, size: int, *, row_groups: list[int], columns: list[str]) -> Any:
        groups.extend(row_groups)
        return real(self, size, row_groups=row_groups, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", iter_batches)
    data.read(11, 12)
    assert groups == [2]  # rows 4 and 5 of the second file


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", x=NUMBERS.tolist())
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"a\.parquet cannot be read as Parquet") as caught:
            opened(path)
        assert "\n" not in str(caught.value)


def test_damaged_pages_are_noticed_by_their_checksums(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    x = NUMBERS.repeat(20, axis=0)
    pq.write_table(pa.table({"x": x.tolist()}), path, row_group_size=50, write_page_checksum=True)
    content = path.read_bytes()
    end = len(content) - int.from_bytes(content[-8:-4], "little") - 8
    refused = 0
    for at in range(4, end, 97):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x21]) + content[at + 1 :])
        try:
            found = whole(opened(path))[0]
        except InputError as error:
            refused += "\n" not in str(error)
        else:
            assert np.array_equal(found, x)
    assert refused > 5


def test_reading_in_ranges_holds_a_batch_and_not_a_row_group(tmp_path: Path) -> None:
    """In a row group of 48 MB, as pyarrow's own memory counts."""
    x = pa.FixedSizeListArray.from_arrays(pa.array(np.random.default_rng(0).random(12_000_000, np.float32)), 3000)
    pq.write_table(
        pa.table({"x": x}), tmp_path / "a.parquet", row_group_size=4000, compression="none", use_dictionary=False
    )
    del x
    pa.default_memory_pool().release_unused()
    before, peak = pa.total_allocated_bytes(), 0
    data = opened(tmp_path / "a.parquet")
    for start in range(0, 4000, 100):
        data.read(start, start + 100)
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert peak < 24e6
