"""One Zarr array of a trajectory store, whose chunk files are written, synced and read here.

Rows are cut into chunks along the first axis, the other axes never. A chunk's file always holds a whole chunk, also
where the array ends inside it: growth changes the array's shape and no chunk. Zarr encodes and decodes in memory only.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.core.array import AsyncArray
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import MemoryStore, StorePath

from storage.atomic import write_atomic
from storage.checksum import digest_file
from storage.errors import DamagedError, IncompleteError
from storage.paths import Location

Array = npt.NDArray[Any]


class ChunkedArray:
    """The array ``name`` of the group at ``store``, for chunks of the shape and type that were planned.

    Raises:
        IncompleteError: there is none.
        DamagedError: its description makes no sense, or another layout.
    """

    def __init__(self, store: Location, name: str, *, chunk_shape: tuple[int, ...], dtype: str) -> None:
        self.name = name
        self.chunk_shape = chunk_shape
        self.dtype = np.dtype(dtype)
        self._store = store
        self._array: Any = self._open()

    @property
    def rows(self) -> int:
        """Number of rows that the array spans."""
        return int(self._array.shape[0])

    def key(self, chunk: int) -> str:
        """Give the name of a chunk's file inside the store."""
        return "/".join([self.name, "c", str(chunk), *["0"] * (len(self.chunk_shape) - 1)])

    def file(self, chunk: int) -> Location:
        """Give the path of a chunk's file."""
        return self._store / self.key(chunk)

    def encode(self, values: Array) -> memoryview:
        """Give the bytes of a whole chunk's file, whichever chunk it is.

        Raises:
            ValueError: wrong shape or type.
        """
        if values.shape != self.chunk_shape or values.dtype != self.dtype:
            raise ValueError(
                f"a chunk of {self.name} must be {self.dtype} {self.chunk_shape}, got {values.dtype} {values.shape}"
            )
        return ChunkCodec(self._array).encode(values)

    def write(self, chunk: int, content: memoryview, *, promised: str) -> None:
        """Write a chunk's file, make it and every folder above it durable, and read it back.

        Raises:
            DamagedError: what is read back has another digest than ``promised``.
        """
        file = self.file(chunk)
        write_atomic(file, content, top=self._store)
        if digest_file(file) != promised:
            raise DamagedError(f"chunk {chunk} reads back other bytes than were written to {file}; check the disk")

    def read(self, chunk: int) -> Array:
        """Give a whole chunk, checked by CRC32C.

        Raises:
            DamagedError: its bytes fail the checksum or are gone.
        """
        try:
            return ChunkCodec(self._array).decode(self.file(chunk).read_bytes())
        except FileNotFoundError as error:  # where zarr would give the fill value
            raise DamagedError(
                f"chunk {chunk} of {self._store} has lost its bytes; run charflow verify --repair"
            ) from error
        except (ValueError, RuntimeError) as error:
            raise DamagedError(f"chunk {chunk} of {self._store} is damaged; run charflow verify --repair") from error

    def grow(self, rows: int) -> None:
        """Make the array span ``rows`` rows or more, durably; no chunk is touched."""
        self._array = self._open()
        if self.rows < rows:
            metadata = replace(self._array.metadata, shape=(rows, *self._array.shape[1:]))
            for name, content in metadata.to_buffer_dict(default_buffer_prototype()).items():
                write_atomic(self._store / self.name / name, content.to_bytes())
            self._array = self._open()

    def _open(self) -> Any:
        path = self._store / self.name
        try:
            content = default_buffer_prototype().buffer.from_bytes((path / "zarr.json").read_bytes())
        except FileNotFoundError as error:
            raise IncompleteError(f"{self._store} holds no array {self.name}; run the integrate step again") from error
        try:
            array = zarr.open_array(MemoryStore({"zarr.json": content}), mode="r")
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedError(
                f"{path / 'zarr.json'} is no array's; delete it and run the integrate step again"
            ) from error
        if (array.chunks, array.dtype) != (self.chunk_shape, self.dtype):
            raise DamagedError(f"{path} is laid out otherwise than planned; use another run name")
        return array


class ChunkCodec:
    """Turns the values of a whole chunk of a Zarr array into the bytes of its file, and back, in memory."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def encode(self, values: Array) -> memoryview:
        """Give the bytes of a chunk's file; there is one copy of them."""
        file: dict[str, Buffer] = {}
        self._one_chunk(file)[...] = values
        (content,) = file.values()
        return content.as_numpy_array().data

    def decode(self, content: bytes | memoryview) -> Array:
        """Give the values of a chunk's file.

        Raises:
            ValueError, RuntimeError: its bytes fail the CRC32C, or are no chunk's.
        """
        name = self._array.metadata.encode_chunk_key((0,) * self._array.ndim)
        return np.asarray(self._one_chunk({name: default_buffer_prototype().buffer.from_bytes(content)})[...])

    def _one_chunk(self, files: dict[str, Buffer]) -> Any:
        """Give an array of one chunk in memory, encoded as the whole one is."""
        inner = self._array.async_array
        metadata = replace(inner.metadata, shape=self._array.chunks)
        config = replace(inner.config, write_empty_chunks=True)
        return zarr.Array(AsyncArray(metadata=metadata, store_path=StorePath(MemoryStore(files)), config=config))
