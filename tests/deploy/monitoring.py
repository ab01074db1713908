"""Checks monitoring/: schemas, and that queries name metrics, labels and targets that exist."""

import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flows import metrics
from tests.deploy import compose
from tests.deploy.files import DEPLOY, against

FOLDER = DEPLOY / "monitoring"
DASHBOARD = FOLDER / "grafana" / "dashboards" / "charflow.json"

OURS = {name: set(labels) for name, labels in metrics.LABELS.items()}  # that a driver serves
OF_PROMETHEUS = {"up": {"job", "instance"}}
LABELS = {"job", "instance", "GpuIndex"} | set().union(*OURS.values())
FUNCTIONS = {"abs", "changes", "count_over_time", "increase", "last_over_time", "max_over_time", "rate"}
WORDS = {"and", "or", "unless", "sum", "max", "Inf"}
GROUPING = {"on", "by"}
SPANS = r"\d+[smhd]|\$__range|\$__rate_interval"
_TOKEN = re.compile(
    r"\s+|\d+(?:\.\d+)?|\[(?P<span>[^\]]*)\]|\{(?P<labels>[^}]*)\}|(?P<name>[A-Za-z_]\w*)|==|!=|>=|<=|[-+*/<>(),]"
)
_MATCHER = re.compile(r'(\w+)(?:=~|!~|!=|=)"[^"]*"')


def query_complaints(query: str) -> list[str]:
    """Give what is wrong with a query: unknown names, labels, spans, and brackets without a partner."""
    found: list[str] = []
    position, is_grouping = 0, False
    while position < len(query):
        token = _TOKEN.match(query, position)
        if token is None:
            return [*found, f"{query!r} cannot be read from {query[position:][:20]!r} on"]
        position = token.end()
        if token["span"] is not None and not re.fullmatch(SPANS, token["span"]):
            found.append(f"[{token['span']}] is no span of time")
        if token["labels"] is not None:
            found += _matchers(token["labels"])
        if token["name"]:
            found += _name(token["name"], is_called=query[position:].lstrip()[:1] == "(", is_grouping=is_grouping)
        is_grouping = token["name"] in GROUPING or (is_grouping and ")" not in token[0])
    if not _is_balanced(query):
        found.append(f"{query!r} has a bracket without a partner")
    return found


def _name(name: str, *, is_called: bool, is_grouping: bool) -> list[str]:
    if is_grouping:
        return [] if name in LABELS else [f"{name} is no label"]
    if name in WORDS or (is_called and name in FUNCTIONS | GROUPING):
        return []
    if is_called:
        return [f"{name} is no function"]
    return [] if name in OURS | OF_PROMETHEUS or _is_rays(name) else [f"{name} is no metric"]


def _matchers(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    found = [f"{part} is no matcher" for part in parts if not _MATCHER.fullmatch(part)]
    names = [match[1] for part in parts if (match := _MATCHER.fullmatch(part))]
    return found + [f"{name} is no label" for name in names if name not in LABELS]


def _is_balanced(query: str) -> bool:
    depth = 0
    for sign in query:
        depth += (sign == "(") - (sign == ")")
        if depth < 0:
            return False
    return depth == 0


@cache
def _is_rays(name: str) -> bool:
    spec = find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).parent / "dashboard" / "modules" / "reporter" / "reporter_agent.py"
    return name.startswith("ray_") and f'"{name.removeprefix("ray_")}": Gauge(' in source.read_text()


def alert_complaints(rules: Any) -> list[str]:
    """Give everything that is wrong with the alerts."""
    found = against("alerts.json", rules)
    if found:
        return found
    each = [rule for group in rules["groups"] for rule in group["rules"]]
    names = [rule["alert"] for rule in each]
    found = [f"{name} stands twice" for name in sorted({name for name in names if names.count(name) > 1})]
    for rule in each:
        shown = re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values()))
        wrong = [f"{label} is no label" for label in shown if label not in LABELS]
        found += [f"{rule['alert']}: {word}" for word in query_complaints(rule["expr"]) + wrong]
    return found


def dashboard_complaints(dashboard: Any, *, sources: Any) -> list[str]:
    """Give everything that is wrong with the dashboard; ``sources`` are the provisioned ones."""
    found = against("dashboard.json", dashboard)
    if found:
        return found
    known = {source["uid"] for source in sources["datasources"]}
    variables = {f"${variable['name']}" for variable in dashboard["templating"]["list"]}
    numbers = [panel["id"] for panel in dashboard["panels"]]
    if len(set(numbers)) < len(numbers):
        found.append("two panels have one number")
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            words = query_complaints(target["expr"])
            words += [
                f"{label} is no label"
                for label in re.findall(r"{{(\w+)}}", target["legendFormat"])
                if label not in LABELS
            ]
            asked = re.findall(r'"(\$\w+)"', target["expr"])
            words += [f"{name} is no variable" for name in asked if name not in variables]
            found += [f"{panel['title']}: {word}" for word in words]
    return found + [f"{uid} is no data source" for uid in sorted(set(_sources(dashboard)) - known)]


def _sources(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "datasource" in value:
            yield value["datasource"]["uid"]
        for part in value.values():
            yield from _sources(part)
    elif isinstance(value, list):
        for part in value:
            yield from _sources(part)


def scrape_complaints(scrape: Any, services: Any) -> list[str]:
    """Give everything that is wrong with what is scraped, among the services of compose.yaml."""
    found = against("prometheus.json", scrape)
    if found:
        return found
    mounts = [mount.split(":")[1] for mount in services["prometheus"]["volumes"]]
    found = [f"{path} is not mounted" for path in scrape["rule_files"] if path not in mounts]
    for job in scrape["scrape_configs"]:
        for targets in job["dns_sd_configs"]:
            for name in targets["names"]:
                if name not in services:
                    found.append(f"{job['job_name']}: {name} is no service")
                elif targets["port"] not in compose.listens(services[name]):
                    found.append(f"{job['job_name']}: {name} does not listen on {targets['port']}")
    return found


def provisioning_complaints(sources: Any, providers: Any, services: Any) -> list[str]:
    """Give what is wrong with what Grafana finds when it starts."""
    found = against("datasources.json", sources) + against("providers.json", providers)
    if found:
        return found
    mounts = [mount.split(":")[1] for mount in services["grafana"]["volumes"]]
    paths = [provider["options"]["path"] for provider in providers["providers"]]
    urls = [source["url"] for source in sources["datasources"]]
    return [f"{path} is not mounted" for path in paths if path not in mounts] + [
        word for url in urls for word in compose.wrong_addresses(url, services)
    ]
