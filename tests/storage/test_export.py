"""A report is written whole, or the one before stays."""

import json
from pathlib import Path

import pytest

from storage.export import write_report
from tests.local import on_disk


def test_a_report_is_written_whole_and_replaced(tmp_path: Path) -> None:
    for page in ("first", "<p>zweite Fassung: ä</p>"):
        path = write_report(tmp_path / "report", page=page, pictures={"pairs": b"png"}, metrics={"w2": 0.25})
        assert on_disk(path).read_text(encoding="utf-8") == page
    assert json.loads((path.parent / "metrics.json").read_text()) == {"w2": 0.25}
    assert (path.parent / "pairs.png").read_bytes() == b"png"
    assert sorted(p.name for p in path.parent.iterdir()) == ["index.html", "metrics.json", "pairs.png"]


def test_a_metric_that_is_no_number_is_refused_before_the_page_is_replaced(tmp_path: Path) -> None:
    write_report(tmp_path, page="old", pictures={}, metrics={"w2": 0.25})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_report(tmp_path, page="new", pictures={}, metrics={"w2": float("nan")})
    assert (tmp_path / "index.html").read_text() == "old"
