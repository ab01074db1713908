"""Parquet files, laid out as Hugging Face does: encoded images in a struct, or lists of numbers, and class labels.

Numbers are taken as they are; only encoded images are mapped to [-1, 1].
"""

import json
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.data import Labels, Values
from storage.datasets.columns import data_column, label_column, to_single
from storage.datasets.pixels import decode, require_alike, to_unit
from storage.errors import InputError
from storage.sources import first_line, parquet_files

_BATCH_BYTES = 8 * 2**20  # of a column as stored, decoded at once
_MOST_BATCH_ROWS = 1024
_BUFFER_BYTES = 2**20  # of a file's column, read at once
_UNREADABLE = (pa.ArrowException, OSError, ValueError)


class Parquet:
    """Rows of one or several files, read forward; one batch of rows is held, and nothing of a row group but that.

    Raises:
        InputError: a file is missing, damaged or empty, or has no fitting columns.
    """

    def __init__(self, path: Path, *, split: str, column: str = "", label_column: str = "") -> None:
        self._files = parquet_files(path, split=split)
        with _opened(self._files[0]) as first:
            self._column, self._label = _chosen(self._files[0], first.schema_arrow, column, label_column)
            self.classes = _class_names(first.schema_arrow, self._label)
            self._are_images = _holds_images(first.schema_arrow.field(self._column).type)
        counts = [_count_rows(file, self._column, self._label) for file in self._files]
        self._starts = [0, *accumulate(counts)]  # first row of each file
        self.rows = self._starts[-1]
        if self.rows == 0:
            raise InputError(f"{path} is empty; it needs at least one row")
        self.has_labels = bool(self._label)
        self._batches: Iterator[tuple[int, pa.RecordBatch]] = iter(())
        self._held: tuple[int, pa.RecordBatch] | None = None  # its first row, and the batch
        row = next(self._pieces(0, 1))[1].column(self._column)
        if self._are_images:
            _, self._form = decode(self._encoded(row, 0)[0], where=self.where(0))
            self.dim: tuple[int, ...] = self._form.dim
        else:
            self.dim = self._shape(row)

    def read(self, start: int, stop: int) -> tuple[Values, Labels | None]:
        """Give rows ``start <= row < stop`` and their labels.

        Raises:
            InputError: a row cannot be read or is unlike the first one, or has no label.
        """
        values = np.empty((stop - start, *self.dim), np.float32)
        labels = np.empty(stop - start, np.int64)
        for row, piece in self._pieces(start, stop):
            place = slice(row - start, row - start + len(piece))
            column = piece.column(self._column)
            values[place] = self._images(column, row) if self._are_images else self._numbers(column, row)
            if self._label:
                labels[place] = self._integers(piece.column(self._label), row)
        return values, labels if self._label else None

    def where(self, row: int) -> str:
        """Give the file and the row in it."""
        index = bisect_right(self._starts, row) - 1
        return f"{self._files[index]}: row {row - self._starts[index]}"

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Give the record batches of a range, cut to it, each with its first row."""
        if self._held is None or start < self._held[0]:
            self._batches, self._held = self._stream(start), None
        while start < stop:
            if self._held is None or start >= self._held[0] + len(self._held[1]):
                self._held = self._next(start)
                continue
            first, batch = self._held
            piece = batch.slice(start - first, stop - start)
            yield start, piece
            start += len(piece)

    def _next(self, row: int) -> tuple[int, pa.RecordBatch]:
        try:
            found = next(self._batches, None)
        except _UNREADABLE as error:
            self._held = None
            raise InputError(f"{self.where(row)} or one after it cannot be read: {first_line(error)}") from error
        if found is None:
            raise InputError(f"{self.where(row)} is missing; the file has fewer rows than it tells")
        return found

    def _stream(self, row: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Give the batches from the row group that holds a row on."""
        for file, first in zip(self._files, self._starts, strict=False):
            with _opened(file) as opened:
                for group in range(opened.num_row_groups):
                    facts = opened.metadata.row_group(group)
                    if row < first + facts.num_rows:
                        columns = [self._column, *([self._label] if self._label else [])]
                        size = max(1, _MOST_BATCH_ROWS * _BATCH_BYTES // max(_BATCH_BYTES, _thousand_bytes(facts)))
                        start = first
                        for batch in opened.iter_batches(size, row_groups=[group], columns=columns):
                            yield start, batch
                            start += len(batch)
                    first += facts.num_rows

    def _images(self, column: pa.Array, first: int) -> Values:
        pixels = np.empty((len(column), *self.dim), np.uint8)
        for at, content in enumerate(self._encoded(column, first)):
            where = self.where(first + at)
            image, form = decode(content, where=where)
            require_alike(form, self._form, where=where, where_first=self.where(0))
            pixels[at] = image
        return to_unit(pixels)

    def _encoded(self, column: pa.Array, first: int) -> list[bytes]:
        found = (pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column).to_pylist()
        if None in found:
            raise InputError(f"{self.where(first + found.index(None))} has no image bytes in column {self._column}")
        return list(found)

    def _numbers(self, column: pa.Array, first: int) -> Values:
        flat = column
        for length in self.dim:
            lengths = pc.list_value_length(flat)
            bad = np.asarray(pc.fill_null(pc.not_equal(lengths, length), True))
            if bad.any():
                at = int(bad.argmax())
                row = first + at * len(column) // len(flat)
                raise InputError(
                    f"{self.where(row)} has a list of {lengths[at]} in column {self._column}, "
                    f"{self.where(0)} one of {length}; all rows must have one shape"
                )
            flat = flat.flatten()
        if flat.null_count:
            row = first + int(np.asarray(flat.is_null()).argmax()) * len(column) // len(flat)
            raise InputError(f"{self.where(row)} has no number in a place of column {self._column}")
        return to_single(flat.to_numpy(zero_copy_only=False).reshape(len(column), *self.dim))

    def _shape(self, column: pa.Array) -> tuple[int, ...]:
        """Give the lengths of the nested lists of a single row."""
        shape = []
        while _is_list(column.type):
            length = pc.list_value_length(column)[0].as_py()
            if not length:
                raise InputError(f"{self.where(0)} has no numbers in column {self._column}")
            shape.append(length)
            column = column.flatten()
        return tuple(shape)

    def _integers(self, column: pa.Array, first: int) -> npt.NDArray[Any]:
        if column.null_count:
            row = first + int(np.asarray(column.is_null()).argmax())
            raise InputError(f"{self.where(row)} has no label in column {self._label}")
        return np.asarray(column)


def _opened(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES, page_checksum_verification=True)
    except _UNREADABLE as error:
        raise InputError(f"{file} cannot be read as Parquet: {first_line(error)}") from error


def _chosen(file: Path, schema: pa.Schema, column: str, label: str) -> tuple[str, str]:
    """Give the names of the columns of data and labels, of types that can be read."""
    column, label = data_column(schema.names, column, path=file), label_column(schema.names, label, path=file)
    kind = schema.field(column).type
    if not (_holds_images(kind) or _holds_numbers(kind)):
        raise InputError(
            f"{file}: column {column} must hold encoded images (a struct with bytes) or lists of numbers, got {kind}"
        )
    if label and not pa.types.is_integer(schema.field(label).type):
        raise InputError(f"{file}: column {label} must hold integers as labels, got {schema.field(label).type}")
    return column, label


def _count_rows(file: Path, column: str, label: str) -> int:
    with _opened(file) as opened:
        _chosen(file, opened.schema_arrow, column, label)
        return int(opened.metadata.num_rows)


def _class_names(schema: pa.Schema, label: str) -> tuple[str, ...]:
    """Give the names that Hugging Face keeps in the schema's metadata, if they are there."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[label]["names"])
    except (KeyError, ValueError, TypeError):
        return ()


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _is_binary(kind.field(index).type)
    return _is_binary(kind)


def _holds_numbers(kind: pa.DataType) -> bool:
    if not _is_list(kind):
        return False
    while _is_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_list(kind: pa.DataType) -> bool:
    return isinstance(kind, (pa.ListType, pa.LargeListType, pa.FixedSizeListType))


def _thousand_bytes(group: Any) -> int:
    """Give the bytes of as many rows of a row group as a batch has at most."""
    return int(group.total_byte_size) * _MOST_BATCH_ROWS // max(1, int(group.num_rows))
