"""The home of Prefect, which the end-to-end tests make."""

from tests.end_to_end.conftest import prefect_home

__all__ = ["prefect_home"]
