"""``charflow deploy`` without a server to tell: bad input, in one line."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from flows import cli, registration
from tests.conftest import ROOT

DEAD = "http://127.0.0.1:9/api"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("", "charflow: PREFECT_API_URL must name the server that is to keep the deployments, and is not set; "),
        (DEAD, f"charflow: PREFECT_API_URL must name a server that answers, got '{DEAD}' (Connection refused): "),
    ],
)
def test_no_server_to_tell_is_bad_input(url: str, line: str, tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = (
        kept | {"PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)} | ({"PREFECT_API_URL": url} if url else {})
    )
    file = str(ROOT / "deploy" / "prefect.yaml")
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "deploy", "--file", file],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    said = " ".join(done.stderr.split())
    assert done.returncode == 2
    assert said.startswith(line.replace("(Connection refused)", "([Errno 111] Connection refused)")), said
    assert done.stdout == ""


def test_a_password_in_the_address_is_told_to_nobody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "https://team:hunter2@prefect.example/api"
    words = ["deploy", "--file", str(ROOT / "deploy" / "prefect.yaml")]

    async def refused(_: object) -> None:
        raise httpx.ConnectError(f"no answer from {url}")

    monkeypatch.setattr(registration, "require_server", lambda: url)
    monkeypatch.setattr(registration, "_register", refused)
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    monkeypatch.setattr(registration, "register", lambda _: [])
    for more in ([], ["--json"]):
        with pytest.raises(SystemExit) as ended:
            cli.main([*words, *more])
        assert ended.value.code == 0
    said = capsys.readouterr()
    assert said.out.count("https://...@prefect.example/api") == 2
    assert "https://...@prefect.example/api" in said.err
    assert "hunter2" not in said.out + said.err
