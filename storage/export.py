"""A report that leaves charflow: its page, its pictures, its numbers."""

from collections.abc import Mapping
from typing import Any

from storage.atomic import write_atomic
from storage.paths import Location
from storage.records import pretty


def write_report(folder: Location, *, page: str, pictures: Mapping[str, bytes], metrics: Mapping[str, Any]) -> Location:
    """Write a report's pictures and metrics, then its page, and give the page's path."""
    for name, content in pictures.items():
        write_atomic(folder / f"{name}.png", content)
    write_atomic(folder / "metrics.json", pretty(metrics))
    write_atomic(folder / "index.html", page.encode())
    return folder / "index.html"
