"""Which runs of a catalog are asked for: by status, preset, date and tags, which all must fit."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from flows.config import config_name
from storage.catalog import STATUSES, RunRecord, is_alive
from storage.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What is asked for; an empty field asks for nothing."""

    status: str = ""
    preset: str = ""  # or a configuration file's name
    since: datetime | None = None  # when a run was made, at the earliest
    before: datetime | None = None  # when it was made, at the latest and not included
    tags: frozenset[str] = frozenset()

    def fits(self, record: RunRecord) -> bool:
        """Tell whether a run is one of those."""
        made = _in_utc(datetime.fromisoformat(record.created))
        return (
            self.status in ("", status_of(record))
            and self.preset in ("", record.config)
            and (self.since is None or made >= self.since)
            and (self.before is None or made < self.before)
            and self.tags <= {*record.tags}
        )


def selection(*, status: str, preset: str, since: str, until: str, tags: Sequence[str]) -> Selection:
    """Read what a person asks for; empty words ask for nothing.

    Args:
        status: one of :data:`storage.catalog.STATUSES`.
        preset: what runs were made from: a preset, or a .toml file by its path or its name.
        since: day or time, ISO 8601, UTC unless it says otherwise.
        until: likewise; a day counts whole, a time to its second.
        tags: each of which a run must have.

    Raises:
        InputError: the status is unknown, a date is none, or the last is before the first.
    """
    if status and status not in STATUSES:
        raise InputError(f"--status must be one of {', '.join(STATUSES)}, got {status!r}")
    first, last = (_moment(key, text) if text else None for key, text in (("--since", since), ("--until", until)))
    before = last + (timedelta(days=1) if _is_day(until) else timedelta(seconds=1)) if last else None
    if first and before and first >= before:
        raise InputError(f"--until must not be before --since {since}, got {until}")
    return Selection(status=status, preset=config_name(preset), since=first, before=before, tags=frozenset(tags))


def status_of(record: RunRecord) -> str:
    """Give a run's status as a person sees it: one whose process is gone without a word was interrupted."""
    return record.status if record.status != "running" or is_alive(record) else "interrupted"


def _moment(key: str, text: str) -> datetime:
    try:
        return _in_utc(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        raise InputError(
            f"{key} must be a day such as 2026-01-31 or a time such as 2026-01-31T12:00, UTC, got {text!r}"
        ) from None


def _is_day(text: str) -> bool:
    return not any(mark in text for mark in "T :")


def _in_utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
