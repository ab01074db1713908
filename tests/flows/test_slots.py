"""A flow that has to wait for its store says so, and for which limit."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.exceptions import ObjectNotFound

from flows import slots


class Client:
    """Stands for Prefect's client, of a server with one limit or none."""

    def __init__(self, active: int | None) -> None:
        self.active, self.made = active, list[str]()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read_global_concurrency_limit_by_name(self, _: str) -> Any:
        if self.active is None:
            raise ObjectNotFound(http_exc=Exception())
        return SimpleNamespace(active_slots=self.active, limit=1)

    def create_global_concurrency_limit(self, limit: Any) -> None:
        self.made.append(limit.name)


@pytest.mark.parametrize(("active", "waits", "makes"), [(None, False, True), (0, False, False), (1, True, False)])
def test_who_waits_says_for_what(
    active: int | None,
    waits: bool,
    makes: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client, name = Client(active), slots.slot_name(Path("/runs"), "digits")
    entered: list[str] = []

    @contextmanager
    def concurrency(asked: str, **_: Any) -> Iterator[None]:
        entered.append(asked)
        yield

    monkeypatch.setattr(slots, "get_client", lambda sync_client: client)
    monkeypatch.setattr(slots, "concurrency", concurrency)
    with slots.store_slot(Path("/runs"), "digits"):
        assert entered == [name]
    assert (f"waiting for a slot of the concurrency limit {name}" in caplog.text) is waits
    assert client.made == ([name] if makes else [])
