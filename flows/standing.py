"""Where a run stands that is at work in another process, or was stopped: what it told last, and what is committed."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta

from flows.progress import Pace, pace_words
from flows.runs import reopen
from storage.catalog import Catalog, RunRecord, is_alive
from storage.progress import Coverage, News, coverage, read_news

_UNDER_WAY = ("running", "failed", "interrupted")


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What is known of a run under way."""

    is_at_work: bool  # whether its process is there
    news: News | None  # the last that it told
    age_seconds: float  # of the news
    coverage: Coverage | None  # of its store, while that is not complete


def standing(catalog: Catalog, record: RunRecord) -> Standing | None:
    """Give where a run stands; None for one that is as far as it was asked to go, or of which nothing is known."""
    if record.status not in _UNDER_WAY:
        return None
    paths = catalog.paths(record.name)
    news = read_news(paths.progress)
    found = coverage(paths.trajectories, rows=reopen(catalog, record.name).config.trajectories.count)
    if found is not None and found.committed == found.chunks:
        found = None
    if news is None and found is None:
        return None
    age = max(0.0, time.time() - news.told) if news else 0.0  # at least 0, for clocks of two hosts
    return Standing(is_at_work=is_alive(record), news=news, age_seconds=round(age, 1), coverage=found)


def as_json(found: Standing | None) -> dict[str, object] | None:
    """Give it as ``charflow show --json`` prints it."""
    if found is None:
        return None
    news = asdict(found.news) if found.news else {}
    return {
        **{key: value for key, value in news.items() if key != "told"},
        "age_seconds": found.age_seconds if found.news else None,
        "chunks": asdict(found.coverage) if found.coverage else None,
    }


def lines(found: Standing | None) -> Iterator[str]:
    """Tell it to a person."""
    if found is None:
        return
    if found.news:
        yield _told(found.news, found)
    if found.coverage:
        yield f"trajectories: {found.coverage.committed:,} of {found.coverage.chunks:,} chunks are committed"


def news_words(news: News, *, is_at_work: bool) -> str:
    """Give the news in a line; what is stopped goes at no pace."""
    done = f"{news.done:,} of {news.total:,} {news.words}" if news.total else ""
    pace = pace_words(Pace(rate=news.rate, seconds_left=news.seconds_left)) if is_at_work else ""
    told = ", ".join(part for part in (done, pace) if part)
    return f"{news.step}: {told}" if told else news.step


def _told(news: News, found: Standing) -> str:
    told, age = news_words(news, is_at_work=found.is_at_work), timedelta(seconds=round(found.age_seconds))
    return f"{told}, told {age} ago" if news.total else f"{told}: told {age} ago"
