"""The page in a real browser, where there is one: no request leaves it."""

from pathlib import Path

import pytest

from tasks.evaluation.report import render
from tests.tasks.evaluation.browser import CHROMIUM, requests_of
from tests.tasks.evaluation.test_report import CONTENT

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the path")]


def test_a_page_asks_for_nothing_and_one_that_does_is_noticed(tmp_path: Path) -> None:
    asking = '<img src="http://127.0.0.1:9/picture.png">'
    for text, expected in ((render(CONTENT), []), (f"<!doctype html>{asking}", ["http://127.0.0.1:9/picture.png"])):
        page = tmp_path / "index.html"
        page.write_text(text)
        assert requests_of(page, folder=tmp_path) == expected
        assert (tmp_path / "page.png").stat().st_size > 1000
