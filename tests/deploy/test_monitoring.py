"""monitoring/: queries name what is served, targets are where somebody listens, and slips are noticed."""

from typing import Any

import pytest

from tests.deploy import monitoring
from tests.deploy.files import DEPLOY, Check, Path_, document, keys, put, renamed

SERVICES = document(DEPLOY / "compose.yaml")["services"]
SOURCES = document(monitoring.FOLDER / "grafana" / "provisioning" / "datasources" / "prometheus.yml")
PROVIDERS = document(monitoring.FOLDER / "grafana" / "provisioning" / "dashboards" / "charflow.yml")
CHECKS: dict[str, tuple[Any, Check]] = {
    "alerts": (document(monitoring.FOLDER / "alerts.yml"), monitoring.alert_complaints),
    "scrape": (
        document(monitoring.FOLDER / "prometheus.yml"),
        lambda value: monitoring.scrape_complaints(value, SERVICES),
    ),
    "dashboard": (
        document(monitoring.DASHBOARD),
        lambda value: monitoring.dashboard_complaints(value, sources=SOURCES),
    ),
    "sources": (SOURCES, lambda value: monitoring.provisioning_complaints(value, PROVIDERS, SERVICES)),
    "providers": (PROVIDERS, lambda value: monitoring.provisioning_complaints(SOURCES, value, SERVICES)),
}


@pytest.mark.parametrize("name", CHECKS)
def test_they_are_sound(name: str) -> None:
    value, check = CHECKS[name]
    assert check(value) == []


@pytest.mark.parametrize("name", CHECKS)
def test_every_misspelt_key_is_noticed(name: str) -> None:
    value, check = CHECKS[name]
    assert [path for path in keys(value) if not check(renamed(value, path, f"{path[-1]}x"))] == []


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("rate(charflow_trajectories_totl[5m])", "charflow_trajectories_totl is no metric"),
        ("rat(charflow_trajectories_total[5m])", "rat is no function"),
        ("rate(charflow_trajectories_total[5x])", "[5x] is no span"),
        ("sum by (rnu) (charflow_step_done)", "rnu is no label"),
        ('charflow_step_done{setp="integrate"}', "setp is no label"),
        ('charflow_step_done{step:"integrate"}', "is no matcher"),
        ("(charflow_step_done", "bracket without a partner"),
        ("charflow_step_done)(", "bracket without a partner"),
        ("charflow_step_done ? 1", "cannot be read from '? 1'"),
        ("ray_node_cpu_utilisation", "ray_node_cpu_utilisation is no metric"),
        ("charflow_step_done unles charflow_step_total", "unles is no metric"),
    ],
)
def test_a_slip_in_a_query_is_noticed(query: str, told: str) -> None:
    assert told in "; ".join(monitoring.query_complaints(query))


@pytest.mark.parametrize(
    ("name", "path", "value", "told"),
    [
        ("scrape", ("scrape_configs", 0, "dns_sd_configs", 0, "port"), 9646, "worker does not listen on 9646"),
        ("scrape", ("scrape_configs", 1, "dns_sd_configs", 0, "names", 1), "ray-workers", "ray-workers is no service"),
        ("scrape", ("rule_files", 0), "/etc/prometheus/alert.yml", "is not mounted"),
        ("alerts", ("groups", 0, "rules", 0, "labels", "severity"), "warn", "'warn' is not one of"),
        ("alerts", ("groups", 0, "rules", 0, "annotations", "summary"), "{{ $labels.rnu }}", "rnu is no label"),
        ("dashboard", ("panels", 2, "targets", 0, "legendFormat"), "{{rnu}}", "rnu is no label"),
        ("dashboard", ("panels", 2, "targets", 0, "expr"), 'charflow_step_done{run=~"$rnu"}', "$rnu is no variable"),
        ("dashboard", ("panels", 2, "datasource", "uid"), "promethues", "promethues is no data source"),
        ("sources", ("datasources", 0, "url"), "http://prometheus:9091", "is no port where it listens"),
        ("providers", ("providers", 0, "options", "path"), "/var/lib/grafana/dashboard", "is not mounted"),
    ],
)
def test_a_wrong_value_is_noticed(name: str, path: Path_, value: Any, told: str) -> None:
    whole, check = CHECKS[name]
    assert told in "; ".join(check(put(whole, path, value)))


def test_every_metric_of_the_contract_is_on_the_dashboard() -> None:
    text = monitoring.DASHBOARD.read_text()
    assert [name for name in monitoring.OURS if name not in text] == []
