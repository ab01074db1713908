"""The picture of a convergence: its size and paper, and that what is drawn is what was given."""

import numpy as np
import pytest

from tasks.evaluation import paper
from tasks.evaluation.convergence import fit_power_law
from tasks.evaluation.loglog import Series, loglog
from tasks.evaluation.paper import DARK, LIGHT, WIDTH, Theme
from tests.tasks.evaluation.test_plots import colour, has_colour, pixels

X = np.array([4.0, 8.0, 16.0])


@pytest.fixture(autouse=True)
def _coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "DPI", 50)


def series(label: str = "euler", *, factor: float = 1.0, theory: float | None = None) -> Series:
    y = factor / X
    return Series(label=label, x=X, y=y, error=0.1 * y, law=fit_power_law(X, y), theory=theory)


def draw(*drawn: Series, theme: Theme = LIGHT) -> bytes:
    return loglog(drawn, title="error", x_label="evaluations", theme=theme)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_it_lies_on_the_paper_of_its_theme_across_the_page(theme: Theme) -> None:
    picture = pixels(draw(series(), theme=theme))
    assert picture[2, 2].tolist() == colour(theme.paper)
    assert picture.shape[1] == WIDTH * 50
    assert has_colour(picture, theme.samples)


def test_each_thing_that_is_given_is_seen_and_equal_things_give_equal_bytes() -> None:
    drawn = [
        draw(series()),
        draw(series("heun")),
        draw(series(theory=-1.0)),
        draw(series(theory=-2.0)),
        draw(series(), series("heun", factor=0.1)),
        draw(Series(label="euler", x=X, y=1 / X, error=0.1 / X, law=None, theory=None)),
        draw(Series(label="euler", x=X, y=1 / X, error=0.5 / X, law=fit_power_law(X, 1 / X), theory=None)),
    ]
    assert len(set(drawn)) == len(drawn)
    assert draw(series()) == drawn[0]


def test_many_series_and_wide_errors_are_drawn_as_well() -> None:
    wide = Series(label="wide", x=X, y=1 / X, error=9 / X, law=fit_power_law(X, 1 / X), theory=-1.0)
    assert pixels(draw(*[series(str(k), factor=2.0**k) for k in range(20)], wide)).size


def test_no_series_is_refused() -> None:
    with pytest.raises(ValueError, match="there must be a series to draw, got none"):
        draw()
