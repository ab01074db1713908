"""Asks whether any locked dependency has a known vulnerability: ``python -m tests.audit``, or ``make audit``.

pip-audit does the asking. Where no service answers, or none knows the packages, nothing was audited: that is said, and
is no failure, for a build must not turn red because others are away. A vulnerability is one unless deploy/audit.toml
explains it, until a day.
"""

import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCK, EXPLAINED = ROOT / "deploy" / "constraints.txt", ROOT / "deploy" / "audit.toml"
SECONDS = 300.0  # that the asking may take
CLEAN, VULNERABLE = 0, 1


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why a vulnerability does not concern charflow."""

    id: str  # as services give it, or an alias
    package: str
    why: str
    until: date  # when it must be looked at again


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A known vulnerability of a locked version."""

    package: str
    version: str
    id: str
    aliases: tuple[str, ...]
    fixed_in: tuple[str, ...]

    def is_explained(self, explanations: Sequence[Explanation], *, today: date) -> bool:
        """Tell whether somebody said why it may stay, and that is not too long ago."""
        names = {self.id, *self.aliases}
        return any(e.package == self.package and e.id in names and today <= e.until for e in explanations)

    def __str__(self) -> str:
        fixed = f"fixed in {', '.join(self.fixed_in)}" if self.fixed_in else "no fix yet"
        return f"{self.package} {self.version}: {', '.join((self.id, *self.aliases))}; {fixed}"


def read_explanations(text: str) -> list[Explanation]:
    """Read deploy/audit.toml.

    Raises:
        TypeError: an entry lacks a field, or has one more.
        ValueError: the reason is empty, or the day is none.
    """
    found = [Explanation(**entry) for entry in tomllib.loads(text).get("explained", [])]
    for each in found:
        if not each.why.strip() or type(each.until) is not date:
            raise ValueError(f"deploy/audit.toml: {each.id} needs a reason and a day, got {each.why!r}, {each.until!r}")
    return found


def findings(report: Mapping[str, Any]) -> tuple[list[Finding], int]:
    """Give what pip-audit's report names, and how many packages were looked at; others a service did not know."""
    known = [each for each in report["dependencies"] if "vulns" in each]
    return [
        Finding(
            package=each["name"],
            version=each["version"],
            id=vulnerability["id"],
            aliases=tuple(vulnerability.get("aliases", ())),
            fixed_in=tuple(vulnerability.get("fix_versions", ())),
        )
        for each in known
        for vulnerability in each["vulns"]
    ], len(known)


def judge(
    report: Mapping[str, Any] | None, explanations: Sequence[Explanation], *, today: date
) -> tuple[int, list[str]]:
    """Give the exit code and what to say of a report; None where there is none."""
    found, looked_at = findings(report) if report else ([], 0)
    if not looked_at:
        return CLEAN, ["NOT audited: no service that knows vulnerabilities answered; nothing is known of any package"]
    open_ones = [each for each in found if not each.is_explained(explanations, today=today)]
    names = {name for each in found for name in (each.id, *each.aliases)}
    stale = [each.id for each in explanations if each.id not in names]
    words = [f"vulnerable: {each}" for each in open_ones]
    words += [f"deploy/audit.toml explains {name}, which nothing has any more; remove it" for name in stale]
    skipped = len(report["dependencies"]) - looked_at if report else 0
    words.append(
        f"{looked_at} packages audited, {skipped} unknown to the service: {len(found)} vulnerabilities, "
        f"{len(found) - len(open_ones)} of them explained"
    )
    return VULNERABLE if open_ones else CLEAN, words


def ask() -> dict[str, Any] | None:
    """Give pip-audit's report on the lock; None where it could not ask."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(LOCK), "--no-deps", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off", "--timeout", "15"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        found = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return None
    return found if isinstance(found, dict) else None


def main() -> int:
    """Ask, judge and tell; a tool that is missing is no service that is away."""
    if find_spec("pip_audit") is None:
        sys.exit("pip-audit is missing: install charflow's dev dependencies")
    code, words = judge(ask(), read_explanations(EXPLAINED.read_text()), today=date.today())
    for line in words:
        print(line)  # noqa: T201
    return code


if __name__ == "__main__":
    sys.exit(main())
