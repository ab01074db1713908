"""One Zarr array of a trajectory store, whose chunk files are written, synced and read here.

Rows are cut into chunks along the first axis, the other axes never. A chunk's file always holds a whole chunk, also
where the array ends inside it: growth changes the array's shape and no chunk. Zarr encodes, in memory only; files are
read and decoded here, for Zarr would copy the values four times on their way.
"""

import math
import struct
import threading
from dataclasses import replace
from io import FileIO
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import zarr
from numcodecs.blosc import MAX_OVERHEAD, Blosc
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec
from zarr.core.array import AsyncArray
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.core.metadata import ArrayV2Metadata, ArrayV3Metadata
from zarr.storage import MemoryStore, StorePath

from storage.atomic import reads_back, write_atomic
from storage.errors import DamagedError, IncompleteError
from storage.paths import Location
from storage.remote import RemotePath

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

_CRC_BYTES = 4
_PAGE_BYTES = 4096
_BLOSC_SIZES = struct.Struct("<4xI4xI")  # in its header: of the values, and of all that is compressed


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
        self._content = _Content()

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

    def write(self, chunk: int, content: memoryview) -> None:
        """Write a chunk's file, make it and every folder above it durable, and read it back.

        Raises:
            DamagedError: other bytes are read back.
        """
        file = self.file(chunk)
        write_atomic(file, content, top=self._store)
        if not reads_back(file, content):
            raise DamagedError(f"chunk {chunk} reads back other bytes than were written to {file}; check the disk")

    def read(self, chunk: int, *, out: Array | None = None) -> Array:
        """Give a whole chunk, checked by CRC32C; its file is read at once, by any number of threads.

        Args:
            chunk: its index.
            out: a contiguous array of the chunk's shape and type, which is filled and given back; else a new one. After
                an error it holds anything.

        Raises:
            DamagedError: its bytes fail the checksum, are not a chunk's, or are gone.
            ValueError: ``out`` has another shape or type, or gaps.
        """
        out = empty_on_page(self.chunk_shape, self.dtype) if out is None else out
        if (out.shape, out.dtype) != (self.chunk_shape, self.dtype) or not out.flags.c_contiguous:
            raise ValueError(
                f"a chunk of {self.name} goes into contiguous {self.dtype} {self.chunk_shape}, "
                f"got {out.dtype} {out.shape}"
            )
        try:
            self._fill(out, self.file(chunk))
        except FileNotFoundError as error:  # where zarr would give the fill value
            raise DamagedError(
                f"chunk {chunk} of {self._store} has lost its bytes; run charflow verify --repair"
            ) from error
        except (ValueError, RuntimeError) as error:
            raise DamagedError(f"chunk {chunk} of {self._store} is damaged; run charflow verify --repair") from error
        return out

    def grow(self, rows: int) -> None:
        """Make the array span ``rows`` rows or more, durably; no chunk is touched."""
        self._array = self._open()
        while self.rows < rows:  # again where another process grew it meanwhile, perhaps to fewer
            file = self._store / self.name / "zarr.json"
            version = None
            if isinstance(file, RemotePath):
                content, version = file.versioned()
                self._array = self._opened(content)
            if self.rows < rows:
                metadata = replace(self._array.metadata, shape=(rows, *self._array.shape[1:]))
                grown = metadata.to_buffer_dict(default_buffer_prototype())["zarr.json"].to_bytes()
                if isinstance(file, RemotePath):
                    file.update(grown, version)
                else:
                    write_atomic(file, grown)
            self._array = self._open()

    def _fill(self, out: Array, file: Location) -> None:
        codec = ChunkCodec(self._array)
        if isinstance(file, RemotePath):
            codec.decode(file.read_bytes(), out=out)
            return
        with file.open("rb", buffering=0) as opened:
            if codec.is_compressed:
                codec.decode(self._content.of(opened), out=out)
            else:
                _read(opened, _as_bytes(out))
                _require_crc(_as_bytes(out), opened.read(_CRC_BYTES + 1))  # one more, which must not be there

    def _open(self) -> Any:
        try:
            content = (self._store / self.name / "zarr.json").read_bytes()
        except FileNotFoundError as error:
            raise IncompleteError(f"{self._store} holds no array {self.name}; run the integrate step again") from error
        return self._opened(content)

    def _opened(self, content: bytes) -> Any:
        path, buffer = self._store / self.name, default_buffer_prototype().buffer.from_bytes(content)
        try:
            array = zarr.open_array(MemoryStore({"zarr.json": buffer}), mode="r")
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedError(
                f"{path / 'zarr.json'} is no array's; delete it and run the integrate step again"
            ) from error
        if (array.chunks, array.dtype) != (self.chunk_shape, self.dtype) or not _is_ours(array.metadata):
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

    @property
    def is_compressed(self) -> bool:
        """Whether the file holds other bytes than those of the values and their CRC32C."""
        return any(isinstance(codec, BloscCodec) for codec in self._array.metadata.codecs)

    def decode(self, content: bytes | memoryview, *, out: Array | None = None) -> Array:
        """Give the values of a chunk's file, in ``out``, contiguous and of the chunk's shape and type, or a new array.

        Raises:
            ValueError, RuntimeError: its bytes fail the CRC32C, or are no chunk's.
        """
        out = np.empty(self._array.chunks, self._array.dtype) if out is None else out
        stored = np.frombuffer(content, np.uint8)
        encoded = stored[:-_CRC_BYTES]
        _require_crc(encoded, stored[-_CRC_BYTES:].tobytes())
        if self.is_compressed:
            if len(encoded) < MAX_OVERHEAD or _BLOSC_SIZES.unpack_from(encoded.data) != (out.nbytes, len(encoded)):
                raise ValueError("a compressed chunk of another size")
            Blosc().decode(encoded, out=out)
        else:
            if len(encoded) != out.nbytes:
                raise ValueError("a chunk of another size")
            _as_bytes(out)[...] = encoded
        return out

    def _one_chunk(self, files: dict[str, Buffer]) -> Any:
        """Give an array of one chunk in memory, encoded as the whole one is."""
        inner = self._array.async_array
        metadata = replace(inner.metadata, shape=self._array.chunks)
        config = replace(inner.config, write_empty_chunks=True)
        return zarr.Array(AsyncArray(metadata=metadata, store_path=StorePath(MemoryStore(files)), config=config))


def empty_on_page(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """Give an array of any values whose data begin on a page of memory, to read files into.

    Large arrays of numpy begin 16 bytes behind one. There AMD's Zen 3 copies out of the page cache at a quarter of its
    speed: 2.3 GB/s, not 9.
    """
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    room = np.empty(size + _PAGE_BYTES, np.uint8)
    start = -room.ctypes.data % _PAGE_BYTES
    return room[start : start + size].view(kind).reshape(shape)


class _Content(threading.local):
    """The content of a file, in a buffer of each thread's own that the next file re-uses."""

    def __init__(self) -> None:
        self._buffer = np.empty(0, np.uint8)

    def of(self, file: FileIO) -> memoryview:
        """Read a file that was just opened, at once; valid until the next one is read."""
        size = file.seek(0, 2)
        file.seek(0)
        if len(self._buffer) < size:
            self._buffer = empty_on_page((size,), np.uint8)
        _read(file, self._buffer[:size])
        return self._buffer[:size].data


def _read(file: FileIO, out: Bytes) -> None:
    """Fill a buffer from a file; the kernel gives at most 2 GiB at once."""
    filled = 0
    while filled < len(out):
        count = file.readinto(out[filled:].data)
        if not count:
            raise ValueError(f"a file of {filled} bytes where {len(out)} should be")
        filled += count


def _as_bytes(values: Array) -> Bytes:
    """Give the bytes of a contiguous array, in place."""
    return values.reshape(-1).view(np.uint8)


def _require_crc(content: Bytes, promised: bytes) -> None:
    if google_crc32c.value(content).to_bytes(_CRC_BYTES, "little") != promised:
        raise ValueError("a checksum of other bytes")


def _is_ours(metadata: ArrayV2Metadata | ArrayV3Metadata) -> bool:
    """Tell whether a chunk is little-endian values, compressed by Blosc or not, and their CRC32C: what is read here."""
    codecs = [*metadata.codecs] if isinstance(metadata, ArrayV3Metadata) else []
    if len(codecs) == 3 and isinstance(codecs[1], BloscCodec):
        del codecs[1]
    return codecs == [BytesCodec(endian="little"), Crc32cCodec()]
