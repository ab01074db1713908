"""The home of Prefect and the server there, which the end-to-end tests make."""

from tests.end_to_end.conftest import _server, one_server, prefect_home

__all__ = ["_server", "one_server", "prefect_home"]
