"""Encoded images: decoded channel first, mapped to [-1, 1], or refused by name."""

import io
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from storage.datasets.pixels import ImageFormat, decode, require_alike, to_unit
from storage.errors import InputError
from tests.storage.datasets.files import draw_pixels, encode


def test_grey_has_one_channel_and_rgb_three_in_front() -> None:
    grey, rgb = draw_pixels(4, 6), draw_pixels(4, 6, 3)
    pixels, form = decode(encode(grey), where="a.png")
    assert form == ImageFormat(6, 4, "L")
    assert form.dim == (1, 4, 6)
    assert np.array_equal(pixels, grey[None])
    pixels, form = decode(encode(rgb), where="a.png")
    assert form.dim == (3, 4, 6)
    assert np.array_equal(pixels, np.moveaxis(rgb, 2, 0))


def test_levels_are_spread_evenly_from_minus_one_to_one() -> None:
    values = to_unit(np.arange(256, dtype=np.uint8))
    assert values.dtype == np.float32
    assert (values[0], values[255]) == (-1, 1)
    np.testing.assert_allclose(values, np.linspace(-1, 1, 256), atol=2e-7)  # two roundings below 2


@pytest.mark.parametrize("mode", ["1", "LA", "P", "RGBA", "CMYK", "I", "I;16", "F", "YCbCr"])
def test_other_modes_are_refused_and_the_allowed_ones_told(mode: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (5, 3)).save(buffer, "tiff")
    with pytest.raises(InputError, match=rf"a\.tif is 5 x 3 {mode}; images must be grey \(L\) or RGB"):
        decode(buffer.getvalue(), where="a.tif")


@pytest.mark.parametrize("form", ["png", "jpeg", "bmp", "webp", "gif", "ppm", "tiff"])
def test_a_cut_file_is_bad_input_by_name_or_the_same_image(form: str) -> None:
    pixels = draw_pixels(9, 7)
    content = encode(pixels, form=form)
    messages = []
    for length in range(0, len(content) - 1, 3):
        try:
            decode(content[:length], where="dir/a.img: row 7")
        except InputError as error:
            messages.append(str(error))
    assert len(messages) > 10
    for message in messages:
        assert message.startswith("dir/a.img: row 7 ")
        assert "\n" not in message
        assert "BytesIO" not in message


@pytest.mark.parametrize("form", ["png", "jpeg", "bmp", "webp", "gif", "ppm", "tiff"])
def test_a_flipped_byte_raises_nothing_but_bad_input(form: str) -> None:
    content = encode(draw_pixels(9, 7), form=form)
    for at in range(len(content)):
        with suppress(InputError):
            decode(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :], where="a")


def test_a_picture_too_large_to_be_one_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(draw_pixels(30, 30))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)  # twice that raises, once only warns
    with pytest.raises(InputError, match=r"a\.png cannot be read as an image: Image size \(900 pixels\) exceeds"):
        decode(content, where="a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    decode(content, where="a.png")


def test_an_image_unlike_the_first_is_refused_with_both_formats() -> None:
    first = ImageFormat(4, 6, "L")
    require_alike(ImageFormat(4, 6, "L"), first, where="b", where_first="a")
    for other in (ImageFormat(6, 4, "L"), ImageFormat(4, 6, "RGB")):
        with pytest.raises(InputError, match=f"b is {other}, a is 4 x 6 L; all images must have one size and mode"):
            require_alike(other, first, where="b", where_first="a")
