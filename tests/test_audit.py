"""The audit of dependencies: red for what nobody explained, and for nothing else."""

import subprocess
from datetime import date
from typing import Any

import pytest

from tests import audit
from tests.audit import CLEAN, EXPLAINED, LOCK, VULNERABLE, Explanation, ask, judge, read_explanations

TODAY = date(2026, 11, 26)
HOLE = {"id": "PYSEC-1", "aliases": ["CVE-1", "GHSA-1"], "fix_versions": ["2.0"], "description": "a hole"}
REPORT: dict[str, Any] = {
    "dependencies": [
        {"name": "sound", "version": "1.0", "vulns": []},
        {"name": "holed", "version": "1.0", "vulns": [HOLE]},
        {"name": "unknown", "skip_reason": "not found"},
    ]
}


def explained(**changes: Any) -> Explanation:
    known: dict[str, Any] = {"id": "CVE-1", "package": "holed", "why": "not used", "until": TODAY}
    return Explanation(**(known | changes))


def test_a_vulnerability_that_nobody_explained_is_red() -> None:
    code, words = judge(REPORT, [], today=TODAY)
    assert code == VULNERABLE
    assert words == [
        "vulnerable: holed 1.0: PYSEC-1, CVE-1, GHSA-1; fixed in 2.0",
        "2 packages audited, 1 unknown to the service: 1 vulnerabilities, 0 of them explained",
    ]


def test_one_that_is_explained_is_not_until_its_day_is_over() -> None:
    assert judge(REPORT, [explained()], today=TODAY)[0] == CLEAN
    assert judge(REPORT, [explained(id="PYSEC-1")], today=TODAY)[0] == CLEAN
    assert judge(REPORT, [explained()], today=date(2026, 11, 27))[0] == VULNERABLE
    assert judge(REPORT, [explained(package="sound")], today=TODAY)[0] == VULNERABLE


def test_an_explanation_of_what_is_gone_is_named() -> None:
    code, words = judge(REPORT, [explained(), explained(id="CVE-2")], today=TODAY)
    assert code == CLEAN
    assert words[0] == "deploy/audit.toml explains CVE-2, which nothing has any more; remove it"


@pytest.mark.parametrize("report", [None, {"dependencies": []}, {"dependencies": [REPORT["dependencies"][2]]}])
def test_where_nothing_could_be_asked_that_is_said_and_not_red(report: dict[str, Any] | None) -> None:
    code, (words,) = judge(report, [explained()], today=TODAY)
    assert code == CLEAN
    assert words.startswith("NOT audited")


@pytest.mark.parametrize(
    "answer", [subprocess.TimeoutExpired("pip-audit", 1.0), subprocess.CompletedProcess([], 1, "no network", "")]
)
def test_an_audit_that_fails_to_ask_gives_no_report(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any, **__: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(subprocess, "run", run)
    assert ask() is None


def test_a_missing_tool_is_no_service_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "find_spec", lambda _: None)
    with pytest.raises(SystemExit, match="pip-audit is missing"):
        audit.main()


def test_explanations_have_a_reason_and_a_day() -> None:
    entry = '[[explained]]\nid = "a"\npackage = "b"\nwhy = "{why}"\nuntil = {until}\n'
    (found,) = read_explanations(entry.format(why="not used", until="2027-01-31"))
    assert found.until == date(2027, 1, 31)
    for why, until in (("", "2027-01-31"), ("not used", '"soon"')):
        with pytest.raises(ValueError, match="needs a reason and a day"):
            read_explanations(entry.format(why=why, until=until))
    with pytest.raises(TypeError):
        read_explanations('[[explained]]\nid = "a"\n')


def test_what_is_explained_here_is_of_the_lock() -> None:
    locked = {line.partition("==")[0] for line in LOCK.read_text().splitlines() if "==" in line}
    assert {each.package for each in read_explanations(EXPLAINED.read_text())} <= locked
