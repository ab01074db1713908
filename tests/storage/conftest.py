"""What every test of the storage layer shares."""

import os

import pytest


@pytest.fixture(autouse=True)
def fast_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the disk: what fsync adds shows after a power cut only; tests of its order record the calls."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
