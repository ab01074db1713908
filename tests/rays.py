"""Ray, imported so that it may be started in this process later: it reads the environment when it is imported."""

import pytest

from tasks import session


def import_ray() -> None:
    """Import Ray as a session of ours does; with it comes psutil."""
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in session.ALONE.items():
            patch.setenv(variable, value)
        import ray  # noqa: F401 - slow
