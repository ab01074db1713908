"""One encoded image at a time: decoded, compared with the first one, mapped to [-1, 1], and all the way back."""

import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from storage.errors import InputError

Pixels = npt.NDArray[np.uint8]

CHANNELS = {"L": 1, "RGB": 3}
# what Pillow's many formats raise for files of other formats, truncated and damaged ones
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    AttributeError,
    AssertionError,
    NotImplementedError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class ImageFormat:
    """What all images of a dataset have in common."""

    width: int
    height: int
    mode: str

    @property
    def dim(self) -> tuple[int, int, int]:
        """Shape of one image, channel first."""
        return (CHANNELS[self.mode], self.height, self.width)

    def __str__(self) -> str:
        return f"{self.width} x {self.height} {self.mode}"


def decode(content: bytes, *, where: str) -> tuple[Pixels, ImageFormat]:
    """Decode an image, ``[channels, height, width]``; only the first frame of several.

    Raises:
        InputError: it cannot be read, or is neither grey nor RGB of 8 bits.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged notes beside the pixels, which nobody needs
            with Image.open(io.BytesIO(content)) as image:
                form = ImageFormat(image.width, image.height, image.mode)
                pixels = np.asarray(image) if form.mode in CHANNELS else None
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{where} cannot be read as an image: {_plain(reason)}") from error
    if pixels is None:
        raise InputError(f"{where} is {form}; images must be grey (L) or RGB, 8 bits a channel")
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    return pixels.transpose(2, 0, 1), form


def require_alike(form: ImageFormat, first: ImageFormat, *, where: str, where_first: str) -> None:
    """Raise ``InputError`` that names both unless an image has the size and the mode of the first one."""
    if form != first:
        raise InputError(f"{where} is {form}, {where_first} is {first}; all images must have one size and mode")


def to_unit(pixels: Pixels) -> npt.NDArray[np.float32]:
    """Map 0 ... 255 to [-1, 1]."""
    values = pixels.astype(np.float32)
    values /= np.float32(127.5)
    values -= np.float32(1)
    return values


def from_unit(x: npt.NDArray[Any]) -> Pixels:
    """Map [-1, 1] to 0 ... 255, rounded; values outside are clipped."""
    return np.clip(np.rint((x + 1) * 127.5), 0, 255).astype(np.uint8)


def encode_png(pixels: Pixels) -> bytes:
    """Give the PNG of an image ``[channels, height, width]`` of 1 or 3 channels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def _plain(reason: str) -> str:
    """Leave out the address of the buffer that Pillow names where it has no file."""
    return reason.split(" <_io.BytesIO")[0]
