"""Tells which environment variables are really read: by charflow, Prefect, Ray, the object store's client, an image."""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from tests.deploy.files import ROOT

SCHEME_OPTION = {"AWS_ALLOW_HTTP"}  # storage/remote.py puts the name together
STANDARD = {"PATH", "PYTHONUNBUFFERED", "DO_NOT_TRACK", "PIP_DISABLE_PIP_VERSION_CHECK", "PIP_NO_CACHE_DIR"}
IMAGES = {
    "postgres": {"POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB"},
    "minio/minio": {"MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD"},
    "minio/mc": {"MC_HOST_store"},  # MC_HOST_ and the alias that the command uses
    "grafana/grafana": {
        "GF_SECURITY_ADMIN_PASSWORD",
        "GF_ANALYTICS_REPORTING_ENABLED",
        "GF_ANALYTICS_CHECK_FOR_UPDATES",
        "GF_AUTH_ANONYMOUS_ENABLED",
    },
}


def unread(names: set[str], *, image: str = "charflow") -> list[str]:
    """Give the complaints about variables that no program of an image reads."""
    if image != "charflow":
        return [f"{name}: is not read by {image}" for name in sorted(names - IMAGES.get(image, set()))]
    known = STANDARD | SCHEME_OPTION | _ours() | _prefects() | _stores()
    return [f"{name}: is read by nobody" for name in sorted(names - known) if not _is_rays(name)]


@cache
def _ours() -> set[str]:
    texts = (path.read_text() for package in ("flows", "tasks", "storage") for path in (ROOT / package).rglob("*.py"))
    return {name for text in texts for name in re.findall(r'environ\.get\(\s*"(\w+)"', text)}


@cache
def _prefects() -> set[str]:
    from prefect.settings import Settings
    from prefect.settings.legacy import _get_settings_fields  # slow

    return {name for name in _get_settings_fields(Settings) if name.startswith("PREFECT_")}


@cache
def _stores() -> set[str]:
    options = _folder("obstore") / "_store" / "_aws.pyi"
    return set(re.findall(r"\bAWS_[A-Z_0-9]+\b", options.read_text()))


@cache
def _is_rays(name: str) -> bool:
    if not name.startswith("RAY_"):
        return False
    folder = _folder("ray")
    word = re.compile(rb"(?<!\w)" + name.encode() + rb"(?!\w)")
    places = [*(folder / "_common").rglob("*.py"), *(folder / "_private").rglob("*.py"), folder / "_raylet.so"]
    return any(word.search(path.read_bytes()) for path in places)


def _folder(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent
