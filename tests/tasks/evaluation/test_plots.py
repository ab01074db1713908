"""Pictures: their size, their paper, and that what is drawn is what was given."""

import io

import numpy as np
import pytest
from PIL import Image

from tasks.evaluation import plots
from tasks.evaluation.paper import DARK, DPI, LIGHT, WIDTH, Theme

RNG = np.random.default_rng(0)
PLANE = RNG.standard_normal((120, 2))


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def colour(text: str) -> list[int]:
    return [int(text[k : k + 2], 16) for k in (1, 3, 5)]


def has_colour(picture: np.ndarray, text: str) -> bool:
    return bool((abs(picture.astype(int) - colour(text)).max(2) <= 2).any())


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_every_picture_lies_on_the_paper_of_its_theme(theme: Theme) -> None:
    drawn = [
        plots.scatter_pair(PLANE, PLANE + 0.1, theme=theme),
        plots.trajectories_2d(RNG.standard_normal((5, 4, 2)), PLANE, theme=theme),
        plots.loss_curves({"velocity": ([0, 10, 20], [1.0, 0.5, 0.4])}, theme=theme),
        plots.marginals(PLANE, PLANE + 0.1, theme=theme),
        plots.scatter_panels({"data": PLANE, "samples": PLANE + 0.1}, theme=theme),
    ]
    for png in drawn:
        assert pixels(png)[2, 2].tolist() == colour(theme.paper)


def test_the_full_width_is_the_width_of_a_page() -> None:
    square = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    height, width, _ = pixels(plots.scatter_pair(square, square)).shape
    assert width == WIDTH * DPI
    # A square box: half the width less the labels' half inch, and 0.7 inches for title and labels.
    assert height == (WIDTH / 2 - 0.5 + 0.7) * DPI
    assert pixels(plots.scatter(square)).shape[1] == WIDTH * DPI / 2


def test_both_sides_of_a_pair_are_drawn_in_their_colours() -> None:
    picture = pixels(plots.scatter_pair(PLANE[:9] * 3, PLANE[:9]))
    middle = picture.shape[1] // 2
    # Dots are translucent, so compare hues: data are blue, samples are red.
    left, right = (side.reshape(-1, 3).astype(int) for side in (picture[:, :middle], picture[:, middle:]))
    assert (left[:, 2] - left[:, 0]).max() > 20
    assert (right[:, 0] - right[:, 2]).max() > 60
    assert (left[:, 0] - left[:, 2]).max() < 20


def test_equal_arguments_give_equal_bytes() -> None:
    assert plots.scatter_pair(PLANE, PLANE) == plots.scatter_pair(PLANE.copy(), PLANE.copy())


def test_trajectories_end_in_the_colour_of_samples() -> None:
    states = np.linspace(RNG.standard_normal((6, 2)), RNG.standard_normal((6, 2)) + 3, 5, axis=1)
    assert has_colour(pixels(plots.trajectories_2d(states, PLANE)), LIGHT.samples)


def test_points_out_of_the_plane_are_refused() -> None:
    space = np.zeros((5, 3))
    with pytest.raises(ValueError, match="plane, got dimension 3"):
        plots.scatter_pair(space, space)
    with pytest.raises(ValueError, match="plane, got dimension 3"):
        plots.trajectories_2d(np.zeros((2, 4, 3)), space)


@pytest.mark.parametrize("d", [1, 2, 4, 9])
def test_marginals_show_any_dimension(d: int) -> None:
    data, samples = RNG.standard_normal((50, d)), RNG.standard_normal((40, d))
    picture = pixels(plots.marginals(data, samples)).astype(int)
    assert picture.shape[1] == WIDTH * DPI
    redness = picture[..., 0] - picture[..., 2]  # data are blue, samples red, and lines are blurred at few pixels
    assert redness.max() > 60
    assert redness.min() < -10
    assert pixels(plots.histograms(samples)).shape == picture.shape


def test_a_constant_coordinate_has_a_histogram() -> None:
    assert pixels(plots.marginals(np.ones((5, 1)), np.ones((5, 1)))).size


def test_losses_of_any_sign_and_length_are_drawn() -> None:
    curves = {
        "falling": (list(range(200)), list(np.exp(-np.arange(200) / 20))),
        "negative": ([0, 1, 2], [-1.0, -2.0, 0.0]),
        "single": ([5], [0.3]),
    }
    assert pixels(plots.loss_curves(curves)).shape == (2.6 * DPI, WIDTH * DPI, 3)


def test_missing_or_broken_curves_are_refused() -> None:
    with pytest.raises(ValueError, match="got none"):
        plots.loss_curves({})
    with pytest.raises(ValueError, match="'velocity' needs as many losses as steps, got 1 and 2"):
        plots.loss_curves({"velocity": ([1, 2], [0.5])})


def test_the_running_mean_holds_the_ends() -> None:
    x = np.array([[0.0, 1.0], [3.0, 1.0], [6.0, 1.0], [0.0, 4.0]])
    assert plots._running_mean(x, 3).tolist() == [[1.0, 1.0], [3.0, 1.0], [3.0, 2.0], [2.0, 3.0]]
    assert plots._running_mean(x[:, 0], 1).tolist() == x[:, 0].tolist()


def test_panels_lie_three_in_a_row_on_the_same_axes_the_data_first() -> None:
    square = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    four = pixels(plots.scatter_panels(dict.fromkeys("abcd", square)))
    one = pixels(plots.scatter_panels({"a": square}))
    assert four.shape[:2] == (2 * len(one), WIDTH * DPI)
    third, hue = four.shape[1] // 3, four.astype(int)[..., 0] - four.astype(int)[..., 2]
    data, samples, empty = hue[: len(one), :third], hue[: len(one), third : 2 * third], hue[len(one) :, third:]
    assert data.min() < -20 < 20 > data.max()
    assert samples.max() > 60
    assert abs(empty).max() < 10
    with pytest.raises(ValueError, match="plane, got dimension 3"):
        plots.scatter_panels({"a": np.zeros((5, 3))})
