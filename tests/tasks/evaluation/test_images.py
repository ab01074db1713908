"""Pictures of images: sharp pixels, limits, channels, and words that lie beside their rows."""

import io

import numpy as np
import pytest
from PIL import Image

from tasks.evaluation import images
from tasks.evaluation.paper import DARK, LIGHT, Theme

RNG = np.random.default_rng(0)
IMAGES = RNG.random((70, 8, 8))


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def colour(text: str) -> list[int]:
    return [int(text[k : k + 2], 16) for k in (1, 3, 5)]


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_every_picture_lies_on_the_paper_of_its_theme(theme: Theme) -> None:
    drawn = [
        images.image_grid_pair(IMAGES, IMAGES[::-1], theme=theme),
        images.image_rows({"data": IMAGES[:5]}, limits=(0, 1), theme=theme),
    ]
    for png in drawn:
        assert pixels(png)[2, 2].tolist() == colour(theme.paper)


def test_images_are_enlarged_a_whole_number_of_times_and_stay_sharp() -> None:
    picture = pixels(images.image_grid(IMAGES[:1] * 0 + np.eye(8), limits=(0, 1)))
    scale = images._MAX_TILE // 8
    margin = images._MARGIN
    assert picture.shape[:2] == (8 * scale + 2 * margin, 8 * scale + 2 * margin)
    tile = picture[margin:-margin:scale, margin:-margin:scale, 0]
    np.testing.assert_array_equal(tile, 255 * np.eye(8))
    np.testing.assert_array_equal(picture[margin:-margin, margin:-margin, 0], tile.repeat(scale, 0).repeat(scale, 1))


def test_values_beyond_the_limits_are_clipped_and_the_default_limits_are_those_of_the_data() -> None:
    data, samples = np.zeros((64, 8, 8)), np.full((64, 8, 8), 9.0)
    data[:, 0, 0], samples[:, 0, 0], samples[:, 0, 1] = 2.0, -5.0, 1.0
    picture = pixels(images.image_grid_pair(data, samples))
    scale, top = images._scale(2 * 71 + 5, 8), images._MARGIN + images._BAND
    right = images._MARGIN + scale * (71 + 5)  # behind 8 columns, the 7 gaps between them, and that between the sides
    assert picture[top, images._MARGIN].tolist() == [255] * 3
    assert picture[top + scale, images._MARGIN].tolist() == [0] * 3
    shades = [int(picture[top + 1, right + k * scale + 1, 0]) for k in range(3)]
    assert shades == [0, 127, 255]


def test_colour_images_keep_their_channels() -> None:
    red = np.zeros((2, 3, 4, 4))
    red[:, 0] = 1.0
    picture = pixels(images.image_grid_pair(red, red, limits=(0, 1)))
    assert (abs(picture.astype(int) - [255, 0, 0]).max(2) <= 2).any()


def test_a_grid_pair_of_unequal_numbers_leaves_paper() -> None:
    few, many = (images.image_grid_pair(IMAGES, side) for side in (IMAGES[:3], IMAGES))
    assert pixels(few).shape == pixels(many).shape


def test_a_strip_shows_nine_times_from_first_to_last() -> None:
    states = np.zeros((3, 31, 8, 8))
    states[:, 0], states[:, -1] = 0.5, 1.0
    states[:, -1, 0, 0] = 0.0
    picture = pixels(images.image_strip(states, np.linspace(0, 1, 31)))
    scale = images._MAX_TILE // 8
    assert picture.shape[1] == 2 * images._MARGIN + scale * (9 * 8 + 8)
    assert picture.shape[0] == 2 * images._MARGIN + images._BAND + scale * (3 * 8 + 2)
    inside = images._MARGIN + images._BAND + scale * 4
    assert picture[inside, images._MARGIN + scale * 4].tolist() == [127] * 3  # in the limits of the last states
    assert picture[inside, images._MARGIN + scale * (9 + 4)].tolist() == [0] * 3
    assert picture[inside, -images._MARGIN - scale * 4].tolist() == [255] * 3


def test_a_strip_of_few_times_shows_them_all() -> None:
    picture = pixels(images.image_strip(np.zeros((1, 2, 8, 8)), np.array([0.0, 1.0]), limits=(0, 1)))
    assert picture.shape[1] == 2 * images._MARGIN + images._MAX_TILE // 8 * (2 * 8 + 1)


def test_rows_lie_below_one_another_right_of_their_words_and_a_short_one_leaves_paper() -> None:
    grey = {"short": np.full((2, 8, 8), 0.25), "a longer row": np.full((4, 8, 8), 1.0)}
    picture = pixels(images.image_rows(grey, limits=(0, 1)))
    scale, left, margin = images._MAX_TILE // 8, images._WORDS + images._MARGIN, images._MARGIN
    assert picture.shape[:2] == (2 * margin + scale * 17, left + margin + scale * (4 * 8 + 3))
    first, second = (picture[margin + scale * (9 * k + 4), left + scale * 4 :: scale * 9] for k in (0, 1))
    assert first[:, 0].tolist() == [63, 63, colour(LIGHT.paper)[0], colour(LIGHT.paper)[0]]
    assert second[:, 0].tolist() == [255] * 4
    ink = picture[:, : images._WORDS, 0] < 128  # of the words
    heights = [ink[margin + scale * 9 * k : margin + scale * (9 * k + 8)].any(1) for k in (0, 1)]
    for found in heights:
        assert abs(np.flatnonzero(found).mean() - scale * 4) < scale  # beside the middle of their row


def test_images_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="images must be"):
        images.image_rows({"data": np.zeros((3, 2, 4, 4))}, limits=(0, 1))
